"""A request to export a checkpoint again: its flags, and the forms that it names.

Does not own: the export (``export_job.py``).
"""

import dataclasses

from trainer.core.config import PATH, setting
from trainer.core.errors import RequestError
from trainer.serving import convert

USAGE = """\
Export a job's checkpoint again, into a SavedModel, Keras, TFLite or ONNX.

  python -m trainer.export --job_dir=J --out=O [--step=best] [--formats=savedmodel,keras,tflite,onnx] \
      [--push_to_hub=OWNER/NAME] [flags]

O receives savedmodel/<step>/, model.keras, model.tflite, model.onnx (those requested), deepdetect.json (classes,
threshold, settings), model_card.md and comparison.json: how far each is from the SavedModel on real images, and how
fast.

Exit codes: 0 done; 2 the request is wrong, a retry cannot help; 75 gs:// or the Hub did not answer, try later;
1 anything else, such as a form whose outputs differ from the model's."""

FORMATS = ("savedmodel", "keras", "tflite", "onnx")


@dataclasses.dataclass(frozen=True)
class ExportFlags:
    """Settings of one export."""

    job_dir: str = setting("", "The job: its config.json and checkpoints are used.", path=PATH)
    out: str = setting("", "Folder or gs:// path for the results.", path=PATH)
    step: str = setting("best", "Checkpoint: best (or 0), last, or its step.")
    formats: str = setting("savedmodel", "Forms, with commas: savedmodel, keras, tflite, onnx.")
    quantize: str = setting(
        "none",
        "TFLite's weights. none: float32. float16: half the size. dynamic: 8 bits, a quarter.",
        choices=convert.QUANTIZE,
    )
    samples: str = setting(
        "",
        "Image, folder or glob of images to compare and time on; empty: Validation of the job's data_dir.",
        path=PATH,
    )
    num_samples: int = setting(64, "Images to compare and time on.", unit="images", minimum=1)
    push_to_hub: str = setting(
        "",
        "Repository of the Hugging Face Hub, OWNER/NAME, to upload the export with its card to; made if it does not "
        "exist. Needs the extra hub and HF_TOKEN. Empty: none.",
    )
    hub_private: bool = setting(True, "Make a new repository private.")
    hub_license: str = setting(
        "unknown", "License of the model in the Hub's card, such as apache-2.0; it depends on the images, too."
    )


def parse_formats(text: str) -> list[str]:
    """Return the requested forms, in their usual order.

    Raises:
        RequestError: for an unknown form, none, or a missing package.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    wrong = [name for name in names if name not in FORMATS]
    if wrong or not names:
        raise RequestError(f"--formats: expected some of {', '.join(FORMATS)}; received {text!r}")
    if "onnx" in names:
        convert.require_onnx()
    return [name for name in FORMATS if name in names]
