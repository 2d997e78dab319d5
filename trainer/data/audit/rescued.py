"""The images of a data set that are read, but not by every decoder.  Does not own: which these are (``measure.py``)."""

import numpy as np

from trainer.core import tables
from trainer.core.storage import files
from trainer.data.audit.measure import RESCUES
from trainer.data.audit.scan import Records

FILE = "rescued.csv"
_HEADS = ("path", "format", "how")


def counts(records: Records) -> dict[str, int]:
    """Return the number of rescued images by how; none if there are none."""
    tally = np.bincount(records.table["rescued"], minlength=len(RESCUES)).tolist()
    return {how: number for how, number in zip(RESCUES, tally, strict=True) if how and number}


def table(records: Records) -> str:
    """Return a CSV of the rescued images: path, format and how."""
    rows = [_row(records, index) for index in np.flatnonzero(records.table["rescued"]).tolist()]
    return tables.to_csv(rows) or tables.csv_line(_HEADS)


def _row(records: Records, index: int) -> tables.Row:
    image = records.table[index]
    cells = files.printable(records.names[index]), str(image["format"]), RESCUES[image["rescued"]]
    return dict(zip(_HEADS, cells, strict=True))
