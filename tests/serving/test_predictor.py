"""A predictor gives every image of a batch its own answer, whatever its neighbours are."""

import numpy as np
import pytest

from tests.helpers.tiny_export import write_export, write_image
from trainer.serving.exported_model import find_export
from trainer.serving.predictor import NOT_FINITE, Predictor

NAMES = ["Fake", "Real", "Drawn"]  # Shares of red, green and blue; those of a black image are 0 / 0.


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return Predictor(find_export(write_export(tmp_path_factory.mktemp("three") / "1", NAMES)))


def contents(tmp_path, *colours):
    """Return encoded images of these colours; None is a file that is not an image."""
    for number, colour in enumerate(colours):
        if colour is not None:
            write_image(tmp_path / str(number), colour)
    return [b"no image" if colour is None else (tmp_path / str(n)).read_bytes() for n, colour in enumerate(colours)]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_bad_images_and_nan_answers_cost_their_neighbours_nothing(predictor, tmp_path, batch_size):
    files = contents(tmp_path, (200, 0, 0), None, (0, 0, 0), (0, 200, 0), None, (0, 0, 200))
    answers = list(predictor.score(len(files), files.__getitem__, batch_size))
    assert [batch.start for batch in answers] == list(range(0, len(files), batch_size))
    labels = [label for batch in answers for label in batch.labels]
    assert labels == ["Fake", "", "", "Real", "", "Drawn"]
    errors = {batch.start + position: error for batch in answers for position, error in batch.errors.items()}
    assert sorted(errors) == [1, 2, 4]
    assert errors[2] == NOT_FINITE
    probabilities = np.concatenate([batch.probabilities for batch in answers])
    red, green, blue, none = [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]
    np.testing.assert_array_equal(probabilities, np.float32([red, none, none, green, none, blue]))


def test_a_black_frame_has_no_answer_but_its_neighbour_has(predictor):
    frames = np.stack([np.full([5, 4, 3], colour, np.uint8) for colour in ((0, 0, 0), (9, 0, 0))])
    (batch,) = predictor.score_pixels(iter([frames]))
    assert (batch.labels, batch.errors) == (["", "Fake"], {0: NOT_FINITE})
