"""Which images belong together, by file names and by a table of groups."""

import numpy as np
import pytest

from trainer.core.errors import RequestError
from trainer.evaluation import bootstrap, groups, metrics, sources
from trainer.evaluation.predictions import Predictions


def names_of(*stems, folder="Test/Fake"):
    return [f"{folder}/{stem}.jpg" for stem in stems]


VIDEOS = [f"v{number}" for number in range(12)]


@pytest.mark.parametrize(
    ("names", "expected", "said"),
    [
        (names_of("a_frame1", "a_frame2", "b-f3", "c"), [0, 0, 1, 2], "video_frame12.jpg"),
        (names_of("a/0001", "a/0002", "b/img_7", "b/x"), [0, 0, 1, 2], "one folder a video"),
        (names_of(*[f"{v}_{i:04d}" for v in VIDEOS for i in (3, 4)]), np.repeat(range(12), 2), "video_0012"),
        (names_of("a_FRAME_1", "a_frame-9"), [0, 0], "video_frame12.jpg"),
        (names_of("a_frame1") + names_of("a_frame2", folder="Test/Real"), None, "do not tell"),
        (names_of("0001", "0002", "0003"), None, "do not tell"),
        (names_of("face_0001", "face_0002", "face_0003"), None, "do not tell"),  # No ten sources.
        # One name and one video: the classes of a public set of retouched faces, and of one that counts its images.
        (
            names_of("real_00001", "real_00002", folder="Test/Real") + names_of(*[f"easy_{i}_0110" for i in range(12)]),
            None,
            "do not tell",
        ),
        (
            names_of("fake_1", "fake_2", "photo_1", "photo_2") + names_of(*map(str, range(12)), folder="Test/Real"),
            None,
            "do not tell",
        ),
        # Videos of one class beside the numbered images of the other.
        (
            names_of("real_1", "real_2", folder="Test/Real")
            + names_of(*[f"{v}_{i:04d}" for v in VIDEOS for i in (3, 4)]),
            [0, 1, *np.repeat(range(2, 14), 2)],
            "video_0012",
        ),
        (names_of("hiking/tom", "hiking/sue"), None, "do not tell"),
    ],
)
def test_sources_by_file_name(names, expected, said):
    found = sources.find_sources("auto", names, {})
    assert said in found.rule
    if expected is None:
        assert found.numbers is None
        assert found.describe(len(names))["unit"] == "images"
    else:
        assert found.numbers.tolist() == list(expected)
        assert found.describe(len(names)) == {"unit": "sources", "count": max(expected) + 1, "rule": found.rule}


def test_sources_by_column():
    columns = {"camera": ["x", "y", "x", sources.NONE, sources.NONE]}
    names = names_of("a_f1", "a_f2", "b", "c", "d")
    assert sources.find_sources("camera", names, columns).numbers.tolist() == [0, 1, 0, 2, 3]
    assert sources.find_sources("auto", names, columns).numbers.tolist() == [0, 0, 1, 2, 3]  # camera is no source.
    assert sources.find_sources("auto", names, {"video": columns["camera"]}).numbers.tolist() == [0, 1, 0, 2, 3]
    assert sources.find_sources("none", names, columns).numbers is None
    taken = sources.find_sources("camera", names, columns).select(np.array([1, 3, 4]))
    assert taken.numbers.tolist() == [0, 1, 2]
    with pytest.raises(RequestError, match=r"--group_by: expected none, auto or a column of --groups \(camera\)"):
        sources.find_sources("lens", names, columns)


def test_a_table_of_groups(tmp_path):
    path = tmp_path / "groups.csv"
    names = names_of("a", "b", "c,d")
    path.write_text(
        '\ufeffmethod, path,camera\nswap,Test/Fake/a.jpg\nx,Train/Fake/z.jpg,k\n\ndraw,"Test/Fake/c,d.jpg",k\n'
    )
    columns = sources.read_groups(str(path), names, "Test")
    assert columns == {"method": ["swap", "(none)", "draw"], "camera": ["(none)", "(none)", "k"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,camera\nTest/Fake/a.jpg,x\n", "the header path,<column>..., received name,camera"),
        ("path\nTest/Fake/a.jpg\n", "the header path,<column>..., received path"),
        ("", "received nothing"),
        ("path,c\n", "received no rows"),
        (
            "path,c\nTest/Fake/a.jpg,1\nTest/Fake/q.jpg,1\nTest/Real/r.jpg,2\n",
            "received 2 that are not: Test/Fake/q.jpg",
        ),
        ("path,c\nFake/a.jpg,1\n", "such as Test/Fake/a.jpg, received 1 rows of other folders, such as 'Fake/a.jpg'"),
        ("path,c\nTest/Fake/a.jpg,1\nTest/Fake/a.jpg,2\n", "two for 'Test/Fake/a.jpg'"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, text, said):
    path = tmp_path / "groups.csv"
    path.write_text(text)
    with pytest.raises(RequestError) as caught:
        sources.read_groups(str(path), names_of("a", "b"), "Test")
    assert said in str(caught.value)
    with pytest.raises(RequestError, match=r"--groups: expected a list file, .* does not exist"):
        sources.read_groups(str(tmp_path / "none.csv"), names_of("a"), "Test")


def scored(n=300, copies=1, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=n)
    p = 1 / (1 + np.exp(rng.normal(size=n) + 1.5 * labels - 0.7))
    labels, p = np.repeat(labels, copies), np.repeat(p, copies)
    return Predictions.of(labels, np.stack([p, 1 - p], 1), ("Fake", "Real"), 0, 0.5)


def width(interval):
    return interval[1] - interval[0]


def test_copies_of_an_image_say_nothing_new():
    # Each image eight times: drawn by source the intervals are those of the images once; drawn alone they shrink.
    once = metrics.measure(scored(), resamples=400, seed=1)["ci95"]
    eight = scored(copies=8)
    by_source = metrics.measure(eight, resamples=400, seed=1, sources=np.repeat(np.arange(300), 8))["ci95"]
    alone = metrics.measure(eight, resamples=400, seed=1)["ci95"]
    for name in ("accuracy", "auc", "eer", "log_loss", "balanced_accuracy"):
        assert by_source[name] == pytest.approx(once[name])
        assert width(alone[name]) < 0.5 * width(once[name])


def test_sources_of_different_sizes_by_brute_force():
    data = scored(40)
    numbers = np.random.default_rng(3).integers(9, size=40)
    numbers[:9] = range(9)
    found = metrics.measure(data, resamples=50, seed=4, sources=numbers)["ci95"]
    drawn = np.random.default_rng(4).integers(9, size=(50, 9))
    values = []
    for row in drawn:
        images = np.concatenate([np.flatnonzero(numbers == source) for source in row])
        values.append((data.predicted[images] == data.labels[images]).mean())
    assert found["accuracy"] == pytest.approx(np.percentile(values, [2.5, 97.5]))


def test_one_source_has_no_interval():
    figures = metrics.measure(scored(20), resamples=50, seed=0, sources=np.zeros(20, np.int64))
    assert set(figures["ci95"].values()) == {None}
    assert figures["undefined"]["ci95.accuracy"] == "all images are of one source"


def test_groups_are_measured_alone_and_the_worst_comes_first():
    data = scored(90)
    values = ["a", "b", "c"] * 30
    values[0] = "lonely"
    wrong = np.flatnonzero(np.array(values) == "b")
    data.probabilities[wrong] = data.probabilities[wrong][:, ::-1]
    found = groups.measure(data, {"kind": values}, sources.Sources(None, ""), resamples=30, seed=2)["kind"]
    accuracies = [group["accuracy"] for group in found]
    assert accuracies == sorted(accuracies)
    assert {group["value"]: group["n"] for group in found} == {"lonely": 1, "a": 29, "b": 30, "c": 30}
    for group in found:
        members = np.flatnonzero(np.array(values) == group["value"])
        alone = metrics.measure(data.select(members), resamples=30, seed=2)
        for name in groups.FIGURES:
            assert group[name] == alone[name]
            assert group["ci95"][name] == alone["ci95"][name]
            assert (group[name] is None) == (name in group["undefined"])
    assert {group["value"] for group in found if group["auc"] is None} == {"lonely"}


def test_no_source_drawn_is_no_image_lost():
    found = bootstrap.intervals(
        lambda counts: {"images": counts.sum(axis=1)}, 10, resamples=30, seed=0, sources=np.repeat([0, 1], 5)
    )
    assert found["images"] == [10.0, 10.0]
