"""The class whose probability is ``p_fake``: found by its name, asked for otherwise, kept by a job that goes on."""

import pytest

from trainer.core.errors import RequestError
from trainer.data.positive_class import positive_class_index, says_fake, settle

FORGED = ["Fake", "FAKE", "fakes", "1_fake", "deepfakes", "Synthetic", "synthetic-faces", "forged", "Spoofed",
          "manipulated", "AI_generated", "AIGenerated", "ai", "AI", "ai-images", "2_AI", "AIFaces"]  # fmt: skip
OTHERS = ["Real", "0_real", "paint", "Daisy", "Main", "fair", "AIR", "aisle", "original", "non-fake", "not_fake",
          "unmanipulated", "NonAI", "not-ai", "A", ""]  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_name_that_says_fake(name):
    assert says_fake(name)
    assert positive_class_index(("0_real", name), "") == 1
    assert positive_class_index((name, "photo"), "") == 0


@pytest.mark.parametrize("name", OTHERS)
def test_a_name_that_does_not(name):
    assert not says_fake(name)


@pytest.mark.parametrize("names", [("A", "B"), ("Real", "original"), ("fake", "synthetic"), ("Fake", "Real", "fake2")])
def test_it_is_asked_for_unless_exactly_one_name_says_it(names):
    with pytest.raises(RequestError, match=r"--positive_class: expected the class .*; name it"):
        positive_class_index(names, "")
    assert positive_class_index(names, names[1]) == 1


def test_a_class_that_does_not_exist():
    with pytest.raises(RequestError, match=r"--positive_class: expected one of Fake, Real; received 'fake'"):
        positive_class_index(("Fake", "Real"), "fake")


@pytest.mark.parametrize(
    ("names", "given", "before", "setting"),
    [
        # A new job: recorded only where older versions, which took Fake or the first class, would take another.
        (("Fake", "Real"), "", None, ""),
        (("ai", "human"), "", None, ""),
        (("0_real", "1_fake"), "", None, "1_fake"),
        (("A", "B"), "B", None, "B"),
        # A job of an older version keeps the class that it had.
        (("A", "B"), "", "", "A"),
        (("0_real", "1_fake"), "", "", "0_real"),
        (("Fake", "Real", "Synthetic"), "", "", "Fake"),
        # A job of this version goes on with the same command.
        (("Fake", "Real"), "", "", ""),
        (("0_real", "1_fake"), "", "1_fake", "1_fake"),
        (("A", "B"), "B", "B", "B"),
        (("A", "B"), "A", "", "A"),  # The same class by name.
    ],
)
def test_a_job_keeps_its_class(names, given, before, setting):
    assert settle(names, given, before) == setting
    if before is None:
        assert settle(names, given, setting) == setting  # At every later start.


@pytest.mark.parametrize(
    ("names", "given", "before"), [(("0_real", "1_fake"), "1_fake", ""), (("Fake", "Real"), "Real", ""),
                                   (("A", "B"), "A", "B")]
)  # fmt: skip
def test_a_job_does_not_change_its_class(names, given, before):
    with pytest.raises(RequestError, match=r"with which the job began, received .*--resume=never"):
        settle(names, given, before)


def test_a_class_that_the_data_lost():
    with pytest.raises(RequestError, match="expected one of Fake, Real"):
        settle(("Fake", "Real"), "", "gone")
