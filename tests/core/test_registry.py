"""Registries: names and facts without importing what they name, in a fixed order."""

import subprocess
import sys

import pytest

from trainer.core import registry
from trainer.core.config import AUGMENTATIONS, NETWORKS, OPTIMIZERS, from_flat, help_of, settings
from trainer.core.errors import RequestError


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return the name of a package with three modules, which fail when they are run."""
    folder = tmp_path / "a_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "zebra.py").write_text('HELP = "first " "of all."\nORDER = 0\nraise SystemExit')
    (folder / "ant.py").write_text('"""An ant."""\nSEARCHED = False\nSIZE = 2 + len("x")\nLEGS = 6\nraise SystemExit')
    (folder / "bee.py").write_text("WINGS = 4\n")
    monkeypatch.syspath_prepend(tmp_path)
    return registry.FolderRegistry("a_package")


def test_a_folder_is_listed_by_order_and_name_without_running_its_modules(package):
    assert list(package) == ["zebra", "ant", "bee"]
    assert len(package) == 3
    assert (package[0], package[-1], list(package[1:])) == ("zebra", "bee", ["ant", "bee"])
    assert package.searched == ["zebra", "bee"]
    assert package.help == "zebra: first of all. ant. bee."
    assert package.entries()["ant"].facts == {"SEARCHED": False, "LEGS": 6}
    assert package.load("bee").WINGS == 4


def test_a_dotted_name_is_a_module_and_one_name():
    assert registry.is_dotted("a.b_c:D1")
    assert not any(registry.is_dotted(name) for name in ("a", "a.b", "a:", ":b", "a:b.c", "a b:c", "1a:b", "a:b\n"))
    assert registry.load("math:pi") > 3


def test_names_keep_their_order_and_new_ones_follow():
    assert AUGMENTATIONS[:3] == ["notebook", "forensic", "none"]
    assert NETWORKS[:2] == ["cnn", "cnn_bn"]
    assert OPTIMIZERS[:4] == ["adam", "adamw", "sgd", "rmsprop"]


def test_help_says_what_each_choice_is():
    assert help_of(settings()["augment"]).startswith("Training augmentation; several, ")
    assert help_of(settings()["augment"]).count("in their order. notebook: rotation 15 degrees") == 1
    assert help_of(settings()["augment"]).count("(Wang et al. 2020). none. flip: ") == 1
    assert help_of(settings()["model"]).startswith(
        "Architecture. cnn: the notebook's four convolution blocks. cnn_bn: "
    )
    assert help_of(settings()["optimizer"]) == "Update rule."


def test_names_help_and_checks_cost_no_tensorflow():
    code = (
        "import sys\nfrom trainer.core import config\nfrom trainer.core.config import flags\n"
        "config.from_flat({'model': 'cnn_bn', 'optimizer': 'sgd', 'augment': 'forensic'})\n"
        "flags.help_text(flags.train_fields(), '')\n"
        "import trainer.models.registry\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_is_refused_with_all_names():
    with pytest.raises(
        RequestError, match=r"--augment: expected one of notebook, forensic, none, .*; received 'heavy'"
    ):
        from_flat({"augment": "heavy"})
