"""From columns of text (path, label, split, source, method) to a table of images.

Used for list files and for the published lists of data sets.  Imports no TensorFlow.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from trainer.core.errors import RequestError
from trainer.core.litter import LeftOut
from trainer.data.layouts import sources, words
from trainer.data.layouts.images import Images
from trainer.data.layouts.split import COLUMNS, METHOD, SOURCE, VIDEO
from trainer.data.layouts.words import FAKE, REAL, Labels

# The usual names of each column, in lower case; the first that a list has is taken.
GUESSES = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "img_path",
             "image_name", "frame"),
    "label": ("label_str", "label_name", "label", "class", "class_name", "is_fake", "fake", "target", "truth", "gt"),
    "split": ("split", "set", "subset", "partition", "phase"),
    "video": ("video", "video_id", "video_name", "clip"),
    "source": ("source", "source_id", "identity", "subject", "original"),
    "method": ("method", "manipulation", "technique", "generator", "forgery", "algorithm", "attack"),
}  # fmt: skip
_WEIGHTS = ("weight", "sample_weight", "importance")
_NEEDED = ("path", "label")
_TRUTH = {"1": FAKE, "true": FAKE, "yes": FAKE, "0": REAL, "false": REAL, "no": REAL}
_SAY_FAKE = ("is_fake", "fake")  # Columns in which these values are clear.
_SHOWN = 8


def meanings(text: str, names: Sequence[str]) -> dict[str, str]:
    """Return the column of each meaning: as ``--columns`` says, else the first with a usual name.

    Raises:
        RequestError: if the text has another form or names an absent column, or path or label cannot be found.
    """
    given = _given(text, names)
    lower = {name.strip().lower().replace(" ", "_"): name for name in reversed(names)}
    free = {alike: name for alike, name in lower.items() if name not in given.values()}
    found = dict(given)
    for meaning, guesses in GUESSES.items():
        if meaning not in found and (name := next((free[one] for one in guesses if one in free), "")):
            found[meaning] = name
            free = {alike: other for alike, other in free.items() if other != name}
    lacking = [meaning for meaning in _NEEDED if meaning not in found]
    if lacking:
        raise RequestError(
            f"--columns: expected columns for {' and '.join(lacking)}, received the columns "
            f"{', '.join(map(repr, names[:_SHOWN])) or 'none'}; name them, such as --columns=path:file,label:target"
        )
    return found


def notes_on(given: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """Return what is said of the columns: which means what, and that nobody uses weights of single images."""
    weights = [name for name in names if name.strip().lower() in _WEIGHTS and name not in given.values()]
    taken = f"columns: {', '.join(f'{meaning} is {name!r}' for meaning, name in given.items())}"
    return [taken, *(f"the column {name!r} is not used: every image counts once" for name in weights)]


def _given(text: str, names: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        meaning, colon, name = part.partition(":")
        if meaning not in GUESSES or not colon or meaning in given:
            raise RequestError(
                f"--columns: expected meaning:name, separated by commas, each of {', '.join(GUESSES)} once, received "
                f"{part!r}"
            )
        if name not in names:
            raise RequestError(
                f"--columns: expected one of the columns {', '.join(map(repr, names[:_SHOWN]))}, received {name!r}"
            )
        given[meaning] = name
    return given


@dataclasses.dataclass(frozen=True)
class Rows:
    """Columns by meaning, ``path`` and ``label`` at least, each ``[N]``; ``classes``: of a label, if it is known."""

    root: str
    what: str
    columns: Mapping[str, Sequence[str]]
    label_name: str = "label"
    notes: tuple[str, ...] = ()
    source_rule: str = ""
    classes: Callable[[str], str] | None = None


def to_images(rows: Rows, labels: Labels) -> Images:
    """Return the table of images; rows that ``labels`` leaves out are counted in a note.

    Raises:
        RequestError: if labels or splits are not understood, or a path has two different rows.
    """
    names = [path.removeprefix("./") for path in rows.columns["path"]]
    values = rows.columns["label"]
    tally = Counter(values)
    class_of = _classes(tally, labels, rows)
    notes = [*rows.notes]
    keep = [i for i, (name, value) in enumerate(zip(names, values, strict=True)) if name and class_of[value]]
    left = {value: count for value, count in tally.items() if not class_of[value]}
    if left:
        shown = ", ".join(f"{value!r} ({count:,})" for value, count in sorted(left.items())[:_SHOWN])
        notes.append(f"not used, not in --labels: {shown}{', ...' if len(left) > _SHOWN else ''}")
    if empty := sum(not name for name in names):
        notes.append(f"not used: {empty:,} rows without a path")
    keep, repeated = _without_repeats(names, keep, rows)
    if repeated:
        notes.append(f"not used: {repeated:,} rows that repeat another")
    splits = _splits(rows.columns.get("split"), len(names), rows)
    columns = _columns(rows, values, class_of)
    table = Images(rows.root, rows.what, names, [class_of[value] for value in values], splits, columns,
                   rows.source_rule, notes=tuple(notes)).select(keep)  # fmt: skip
    return dataclasses.replace(_with_sources(table), mount=_mount(table))


def _classes(tally: Mapping[str, int], labels: Labels, rows: Rows) -> dict[str, str]:
    """Return the class of each label; "" for those that are left out."""
    if labels:
        return {value: labels.class_of(value) for value in tally}
    if rows.classes:
        return {value: rows.classes(value) for value in tally}
    if truth := truth_of(rows.label_name, tally):
        return truth
    kinds = {value: words.kind_of(value) for value in tally}
    unclear = [value for value, kind in kinds.items() if not kind]
    if not unclear:
        return kinds
    if len(unclear) == len(kinds) > 1 and not any(value.lower() in _TRUTH or value == "" for value in unclear):
        return {value: value for value in tally}  # Classes of other names.
    example = unclear[0] if len(unclear[0]) else "..."
    raise RequestError(
        f"--labels: expected labels that say real or fake in {rows.what}, received "
        f"{', '.join(repr(value) for value in unclear[:_SHOWN])}; say which is which, such as "
        f"--labels=real:{'0' if '0' in tally else 'original'},fake:{'1' if '0' in tally else example}"
    )


def truth_of(label_name: str, values: Iterable[str]) -> dict[str, str]:
    """Return the class of each value of a column such as ``is_fake``; empty: its name or values say nothing clear."""
    values = set(values)
    is_clear = label_name.lower() in _SAY_FAKE and all(value.lower() in _TRUTH for value in values)
    return {value: _TRUTH[value.lower()] for value in values} if is_clear else {}


def _without_repeats(names: Sequence[str], keep: list[int], rows: Rows) -> tuple[list[int], int]:
    if len({names[i] for i in keep}) == len(keep):
        return keep, 0
    first: dict[str, int] = {}
    kept = []
    for i in keep:
        other = first.setdefault(names[i], i)
        if other == i:
            kept.append(i)
        elif any(column[i] != column[other] for column in rows.columns.values()):
            raise RequestError(
                f"--data_dir: expected one row for each image in {rows.what}, received two different ones for "
                f"{names[i]!r}; remove one"
            )
    return kept, len(keep) - len(kept)


def _splits(values: Sequence[str] | None, count: int, rows: Rows) -> list[str]:
    if values is None:
        return [""] * count
    meant = {value: words.split_of(value) for value in set(values)}
    strange = sorted(value for value, split in meant.items() if value and not split)
    if strange:
        raise RequestError(
            f"--data_dir: expected train, val or test in the column split of {rows.what}, received "
            f"{', '.join(map(repr, strange[:_SHOWN]))}; correct it, or name another column with --columns=split:..."
        )
    return [meant[value] for value in values]


def _columns(rows: Rows, values: Sequence[str], class_of: Mapping[str, str]) -> dict[str, list[str]]:
    columns = {name: list(rows.columns[name]) for name in COLUMNS if name in rows.columns}
    if VIDEO in columns and SOURCE not in columns:
        columns[SOURCE] = columns.pop(VIDEO)
    fakes = {value for value, one in class_of.items() if one and one != REAL}
    if METHOD not in columns and len(fakes) > 1 and REAL in class_of.values() and FAKE in class_of.values():
        columns[METHOD] = [value if value in fakes else "" for value in values]
    if METHOD in columns:  # A real image has no method, whatever a list says of it.
        columns[METHOD] = ["" if class_of[value] == REAL else one
                           for one, value in zip(columns[METHOD], values, strict=True)]  # fmt: skip
    return columns


def _with_sources(table: Images) -> Images:
    """Return the table with the sources that names tell, if no column does."""
    if SOURCE in table.columns or not table.names:
        return table
    keys, rule = sources.keys_by_name(table.names, above=0, fewest=sources.FEWEST_SOURCES)
    return dataclasses.replace(table, columns={**table.columns, SOURCE: keys}, source_rule=rule) if keys else table


def _mount(table: Images) -> str:
    """Return a local folder that holds something while the images are mounted; for remote ones the root will do."""
    absolute = [name for name in table.names if name.startswith("/")]
    if not absolute:
        return table.root
    first, last = min(absolute), max(absolute)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:length].rpartition("/")[0] or "/"


def with_left_out(table: Images, left_out: LeftOut) -> Images:
    """Return the table with what the listing of its folder left out."""
    return dataclasses.replace(table, left_out=left_out)
