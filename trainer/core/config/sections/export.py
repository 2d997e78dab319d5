"""What is exported at the end."""

import dataclasses

from trainer.core.config.field import Value, setting


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """What is exported at the end."""

    export: str = setting(
        "best",
        "Weights to export as SavedModels: best epoch, last step, both (all), or none.",
        choices=("best", "last", "all", "none"),
        fixed=False,
    )
    positive_class: str = setting(
        "",
        "Class whose probability p_fake is; empty: the only one whose name has fake, synthetic, forged, spoof, "
        "manipulated, generated or ai in it.",
    )
    threshold_by: str = setting(
        "accuracy",
        "How the exported model's threshold is chosen on Validation (two classes). accuracy, balanced_accuracy: the "
        "highest there. eer: false negatives and false positives equally frequent. fpr: the highest true positive rate "
        "within --threshold_fpr. none: 0.5, as with fewer than ten images of a class.",
        choices=("accuracy", "balanced_accuracy", "eer", "fpr", "none"),
        fixed=False,
    )
    threshold_fpr: float = setting(
        0.01,
        "Largest false positive rate on Validation, for --threshold_by=fpr.",
        minimum=0.0,
        maximum=1.0,
        exclusive=True,
        fixed=False,
    )
    calibrate: bool = setting(
        False,
        "Fit a temperature to the exported model's probabilities on Validation (Guo et al. 2017) before the threshold "
        "is chosen.",
        fixed=False,
    )

    require_auc: float = setting(
        0.0,
        "Export nothing and exit with code 1 if the best epoch's Validation AUC is below this or undefined; 0: export "
        "in any case.",
        minimum=0.0,
        maximum=1.0,
        fixed=False,
    )

    @property
    def decision(self) -> dict[str, Value]:
        """The settings that determine an export's answers, without those that have no effect."""
        limit = {"threshold_fpr": self.threshold_fpr} if self.threshold_by == "fpr" else {}
        return {"threshold_by": self.threshold_by, **limit, "calibrate": self.calibrate}

    @property
    def kinds(self) -> tuple[str, ...]:
        """The requested exports, by folder name."""
        return {"all": ("best", "last"), "none": ()}.get(self.export, (self.export,))
