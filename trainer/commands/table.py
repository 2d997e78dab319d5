"""The commands of ``deepdetect``: what each is for, what runs it, and which of its flags people need.

Nothing is imported before a command is used.
"""

import dataclasses
import importlib
from collections.abc import Callable, Sequence

Main = Callable[[Sequence[str]], int]


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        summary: what it is for, in one line.
        target: what runs it, ``module:function``, which takes the words after the command's name.
        group: heading under which the list of commands has it.
        modules: how its own pages call it, which are shown with ``deepdetect NAME`` instead.
        flags: those that ``--help`` shows first; empty: all.
        actions: its own commands, which its first word names.
    """

    summary: str
    target: str
    group: str
    modules: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()

    def load(self) -> Main:
        """Import what runs it."""
        module, _, function = self.target.partition(":")
        main: Main = getattr(importlib.import_module(module), function)
        return main


_TRAIN = (
    "data_dir", "job_dir", "config", "model", "weights", "image_size", "batch_size", "epochs", "augment",
    "learning_rate", "seed", "seeds", "precision", "require_auc", "print_config",
)  # fmt: skip
MODELS, DATA, CLUSTER, CHECKS = "Models", "Data", "Clusters", "Checks"

COMMANDS = {
    "train": Command("train a detector on Real and Fake images; rerun to resume", "trainer.train:main", MODELS,
                     ("python -m trainer.train",), _TRAIN),
    "evaluate": Command("measure a model on a split, with a report", "trainer.evaluate:main", MODELS,
                        ("python -m trainer.evaluate",),
                        ("model_dir", "data_dir", "out", "split", "batch_size", "bootstrap", "group_by", "groups",
                         "threshold", "robustness", "update_card", "compare")),
    "predict": Command("score images or videos", "trainer.predict:main", MODELS, ("python -m trainer.predict",),
                       ("model_dir", "out", "batch_size", "threshold", "explain", "video", "faces")),
    "serve": Command("answer over HTTP: pictures in, probabilities out", "trainer.serve:main", MODELS,
                     ("python -m trainer.serve",)),
    "tune": Command("search for good settings", "trainer.tune:main", MODELS, ("python -m trainer.tune",),
                    ("data_dir", "job_dir", "config", "tuner", "max_trials", "objective", "space", "prune",
                     "keep_trials", "isolate_trials", "retrain_best", "epochs", "seed")),
    "export": Command("export a job's checkpoint again, also as Keras, TFLite and ONNX", "trainer.export:main", MODELS,
                      ("python -m trainer.export",)),
    "compare": Command("compare finished evaluations", "trainer.evaluate:compare", MODELS),
    "audit": Command("find bad, copied and suspicious images", "trainer.prepare_data:audit", DATA,
                     ("python scripts/prepare_data.py audit",)),
    "pack": Command("pack images into TFRecord files", "trainer.prepare_data:pack", DATA,
                    ("python scripts/prepare_data.py pack",)),
    "faces": Command("cut faces out of videos and images", "trainer.prepare_data:faces", DATA,
                     ("python scripts/prepare_data.py faces", "python -m trainer.prepare_data faces")),
    "submit": Command("run jobs on a Kubernetes cluster", "trainer.submit.command:main", CLUSTER,
                      ("python scripts/submit.py",),
                      actions=("run", "list", "status", "logs", "cancel", "resume", "tensorboard")),
    "data-service": Command("decode images for several trainers", "trainer.data_service:main", CLUSTER,
                            ("python -m trainer.data_service",)),
    "selftest": Command("check GPUs, libraries, memory and access", "trainer.training.selftest:main", CHECKS,
                        ("python -m trainer.train --selftest",)),
    "demo": Command("draw a data set, train on it, and show the results", "trainer.commands.demo.command:main", CHECKS,
                    actions=("draw",)),
    "benchmark": Command("measure speed (needs a checkout)", "trainer.commands.benchmark:main", CHECKS,
                         ("python scripts/benchmark.py",)),
    "completion": Command("print completion for bash, zsh or fish", "trainer.commands.completion:main", CHECKS,
                          actions=("bash", "zsh", "fish")),
}  # fmt: skip
