"""A request as its user may want to see it: what differs from the defaults, and all of it as a file.

Imports no TensorFlow, and no YAML: JSON's scalars are YAML's, too.
"""

import json
from collections.abc import Iterator
from typing import cast

from trainer.core import terminal
from trainer.core.config.field import Value, written
from trainer.core.config.schema import Config, settings, settings_with_section

_PLACES = ("data_dir", "job_dir")
_HEAD = """\
# Settings of trainer.train, as --config=FILE.yaml takes them.  "auto" is settled when the job starts: config.json in
# its job_dir has the value.\
"""


def differing(config: Config) -> dict[str, Value]:
    """Return the settings that differ from the defaults, besides the folders, as a file has them."""
    fields, values = settings(), config.written()
    return {name: values[name] for name, value in config.flat().items()
            if value != fields[name].default and name not in _PLACES}  # fmt: skip


def line(config: Config) -> str:
    """Return one line that says which settings differ from the defaults."""
    words = [f"{name}={_text(value)}" for name, value in differing(config).items()]
    return terminal.in_line(f"settings that differ from the defaults: {', '.join(words) or 'none'}")


def as_yaml(config: Config) -> str:
    """Return all settings as a file that ``--config`` takes, with a mark at those that differ from the defaults."""
    return "\n".join(_lines(config))


def _lines(config: Config) -> Iterator[str]:
    values, changed, heading = config.written(), differing(config), ""
    yield _HEAD
    for section, field in settings_with_section():
        if section != heading:
            heading = section
            yield f"\n# {heading.capitalize()}"
        usual = _text(written(field, cast(Value, field.default)))
        default = f"  # default: {usual or 'empty'}" if field.name in changed else ""
        yield f"{field.name}: {_text(values[field.name], quoted=True)}{default}"


def _text(value: Value, *, quoted: bool = False) -> str:
    return value if isinstance(value, str) and not quoted else json.dumps(value)
