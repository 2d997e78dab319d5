"""The flags of ``trainer.evaluate``.  Imports no TensorFlow."""

import dataclasses

from trainer.core import config

USAGE = """\
Measure how well an exported model distinguishes fake from real.

  python -m trainer.evaluate --model_dir=J/export/best --data_dir=D --split=Test --out=O [flags]

O receives metrics.json, predictions.csv, report.html, and skipped.jsonl if images could not be decoded.

  python -m trainer.evaluate --compare=O1,O2,... --out=C

compares finished evaluations: C receives compare.html and compare.json.

Exit codes: 0 done; 2 the request is wrong, a retry cannot help; 75 gs:// did not answer, try later; 1 anything
else."""


COMPARE_USAGE = """\
Compare finished evaluations, on the images that all have, with the first one.

  deepdetect compare O1 O2 ... --out=C [flags]

C receives compare.html and compare.json.  Nothing is scored.

Exit codes: 0 done; 2 the request is wrong; 75 gs:// did not answer, try later; 1 anything else."""


@dataclasses.dataclass(frozen=True)
class EvaluateFlags(config.LayoutConfig):
    """Settings of one evaluation."""

    model_dir: str = config.setting(
        "", "Exported model: a job's export/best (its newest version is used) or one version of it.", path=config.PATH
    )
    data_dir: str = config.setting("", "Folder or gs:// path that holds the split.", path=config.PATH)
    split: str = config.setting("Test", "Folder below data_dir, with a folder of images for each class.")
    out: str = config.setting("", "Folder or gs:// path for the results.", path=config.PATH)
    batch_size: int = config.setting(64, "Images scored at a time.", unit="images", minimum=1)
    bootstrap: int = config.setting(
        1000, "Bootstrap resamples for the 95% intervals; 0: no intervals.", unit="resamples", minimum=0, maximum=1e6
    )
    seed: int = config.setting(0, "Seed of the resamples.", minimum=0)
    group_by: str = config.setting(
        "auto",
        "Unit of resampling. none: images. A column of --groups: all images with one value together, such as those "
        "of one video. auto: the table's column source or video, else frames of one video by file name, else images.",
    )
    groups: str = config.setting(
        "",
        "CSV with the header path,<column>...: metrics for each value of each column. Paths are as in predictions.csv; "
        "images without a row are in the group (none).",
        path=config.PATH,
    )
    threshold: str = config.setting(
        "", "For two classes, answer the positive one from this probability up (0 to 1); empty: the export's threshold."
    )
    robustness: bool = config.setting(
        False,
        "Also score images after JPEG compression, blur, noise, down- and up-scaling, crop and brightness, each in "
        "several strengths.",
    )
    robustness_images: int = config.setting(
        2000,
        "Maximum number of images for --robustness, evenly spread over the classes; 0: all.",
        unit="images",
        minimum=0,
    )
    audit: str = config.setting(
        "",
        "audit.json of scripts/prepare_data.py audit, or the folder that holds it: report and model card show its "
        "findings. Empty: data_dir/audit.json, else the one in the model's job_dir, if it exists.",
        path=config.PATH,
    )
    update_card: bool = config.setting(
        False, "Also add the metrics to the export's model_card.md, replacing earlier ones of the split."
    )
    compare: str = config.setting(
        "",
        "Folders of finished evaluations, separated by commas: metrics on the images that all have, and differences "
        "from the first one. Nothing is scored; only out, bootstrap, seed, groups and group_by apply as well.",
        path=config.PATHS,
    )
    max_bad_fraction: float = config.setting(
        0.05,
        "Exit with code 2 if more than this share of the split is unreadable.",
        minimum=0.0,
        maximum=1.0,
    )
