"""Config fields as absl flags: command line -> values, and Config -> command line.

Flags are defined in a separate ``FlagValues``, so importing or parsing changes nothing global.
Owns: parsing.  Does not own: the page of ``--help`` (``help_page.py``).  Imports no TensorFlow.
"""

import dataclasses
import logging
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from absl import flags

from trainer.core import checked_json, errors, installed
from trainer.core import config as config_lib
from trainer.core.config import changes, help_page
from trainer.core.config.help_page import Fields, HelpPage
from trainer.core.config.help_page import HelpRequested as HelpRequested
from trainer.core.storage import files

log = logging.getLogger(__name__)

T = TypeVar("T")


def parse(
    argv: Sequence[str], fields: Fields, *, usage: str, sections: Mapping[str, Sequence[str]] | None = None,
    required: Sequence[str] = (),
) -> tuple[dict[str, config_lib.Value], list[str]]:  # fmt: skip
    """Parse a command line.

    Args:
        argv: words after the program's name.
        fields: settings (made by ``config.setting``) by flag name.
        usage: text that ``--help`` prints above the flags.
        sections: flag names by heading, for ``--help``; None puts all under one.
        required: flags that ``--help`` marks as required; the caller refuses a request without them.

    Returns:
        The values of the flags on the command line (defaults are not filled in), and the words that are not flags.

    Raises:
        HelpRequested: if ``--help`` is among the words.
        RequestError: for an unknown flag, or a value of the wrong type or range.
    """
    help_page.answer(_before_separator(argv), HelpPage(usage, fields, sections, required))
    flag_values = flags.FlagValues()
    for name, field in fields.items():
        _define(name, field, flag_values)
    try:
        rest = flag_values(["command", *with_underscores(argv, fields)])[1:]
    except flags.UnrecognizedFlagError as error:
        near = config_lib.did_you_mean(error.flagname, fields)
        raise errors.RequestError(f"expected a known flag, received --{error.flagname}{near}; see --help") from error
    except flags.IllegalFlagValueError as error:
        raise errors.RequestError(_illegal_value(error, fields)) from error
    except (flags.Error, ValueError) as error:  # ValueError: a switch with a value, --noxla=1.
        raise errors.RequestError(" ".join(str(error).replace("flag --", "--").split())) from error
    values = {name: config_lib.check_written(field, _number_or_word(field, flag_values[name].value))
              for name, field in fields.items() if flag_values[name].present}  # fmt: skip
    return values, list(rest)


def fields_of(form: type) -> dict[str, "dataclasses.Field[Any]"]:
    """Return a dataclass's settings by name, as ``parse`` takes them; those that it inherits come last."""
    inherited = {field.name for base in form.__bases__ if dataclasses.is_dataclass(base) for field in
                 dataclasses.fields(base)}  # fmt: skip
    fields = sorted(dataclasses.fields(form), key=lambda field: field.name in inherited)
    return {field.name: field for field in fields}


def parse_request(
    argv: Sequence[str], form: type[T], *, usage: str, required: Sequence[str] = (), marked: Sequence[str] = ()
) -> T:
    """Parse a command line of flags only into a dataclass of settings.

    Args:
        argv: words after the program's name.
        form: the dataclass; its fields are made by ``config.setting``.
        usage: text that ``--help`` prints above the flags.
        required: fields that must not be empty; paths among them must be local or gs://.
        marked: fields that ``--help`` marks as required, and that the command itself checks.

    Raises:
        HelpRequested: if ``--help`` is among the words.
        RequestError: for anything wrong with the command line.
    """
    values, rest = parse(argv, fields_of(form), usage=usage, required=[*required, *marked])
    refuse_words(rest)
    request = form(**values)
    require(request, required)
    return request


def require(request: Any, names: Sequence[str]) -> None:
    """Refuse a request in which one of the fields ``names`` is empty, or a path that is neither local nor gs://.

    Raises:
        RequestError: naming the first one.
    """
    for name in names:
        if not getattr(request, name):
            raise errors.RequestError(f"expected --{name}, received none; see --help")
        files.require_form(getattr(request, name), name)


def _number_or_word(field: "dataclasses.Field[Any]", value: Any) -> Any:
    """Return the value of a flag; of one that also takes ``auto``, absl returns the word."""
    if field.metadata["auto"] is None or not isinstance(value, str) or value == config_lib.AUTO:
        return value
    try:
        return field.type(value)  # type: ignore[operator]
    except ValueError as error:
        kind = "a whole number" if field.type is int else "a number"
        raise errors.RequestError(f"--{field.name}: expected auto or {kind}, received {value!r}") from error


def _illegal_value(error: flags.IllegalFlagValueError, fields: Fields) -> str:
    """Reword absl's "flag --name=value: <Python error>" to say what is expected."""
    name, _, value = str(error).removeprefix("flag --").partition("=")
    value = value.removesuffix(f": {error.__context__}")
    expected = {int: "a whole number", float: "a number", bool: "true or false"}
    field = fields[name]
    word = "auto, " if field.metadata["auto"] is not None else ""
    return f"--{name}: expected {word}{expected.get(config_lib.kind(field), 'another value')}, received {value!r}"


def with_underscores(argv: Sequence[str], names: Iterable[str]) -> list[str]:
    """Return a command line in which the flags ``names`` are written as they are declared: ``--batch-size=8`` too."""
    known = {form for name in names for form in (name, f"no{name}")}
    own = _before_separator(argv)
    return [*(_with_underscores(word, known) for word in own), *argv[len(own) :]]


def _with_underscores(word: str, known: Container[str]) -> str:
    flag, sign, value = word.partition("=")
    name = flag.lstrip("-").replace("-", "_")
    return f"--{name}{sign}{value}" if flag.startswith("-") and name in known else word


def _before_separator(argv: Sequence[str]) -> Sequence[str]:
    return argv[: argv.index("--")] if "--" in argv else argv


def _define(name: str, field: "dataclasses.Field[Any]", flag_values: flags.FlagValues) -> None:
    if config_lib.kind(field) is bool and field.metadata["auto"] is not None:
        flag = flags.Flag(_SwitchParser(), None, name, None, config_lib.help_of(field), boolean=True)
        flags.DEFINE_flag(flag, flag_values)
        return
    if field.metadata["auto"] is not None:  # Checked later, as the values of a file are.
        flags.DEFINE_string(name, None, config_lib.help_of(field), flag_values=flag_values)
        return
    define: dict[Any, Callable[..., Any]] = {
        bool: flags.DEFINE_boolean,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    define[field.type](name, field.default, config_lib.help_of(field), flag_values=flag_values)


class _SwitchParser(flags.BooleanParser):  # type: ignore[misc]
    """Values of a switch that also takes ``auto``."""

    def parse(self, argument: Any) -> Any:
        return argument if argument == config_lib.AUTO else super().parse(argument)


def help_text(fields: Fields, usage: str, sections: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return the text of ``--help``: usage, then each flag with default, unit, choices and meaning."""
    return HelpPage(usage, fields, sections).whole()


TRAIN_USAGE = """\
Train a deepfake detector from a folder or bucket of images.

  python -m trainer.train --data_dir=D --job_dir=J [flags]

D holds {Train,Validation,Test}/{Fake,Real}/* images.  Everything is written to J: checkpoints, metrics.jsonl, the
exported model, plots and result.json.  Rerun the same command to resume.

  python -m trainer.train --selftest    check GPUs, CUDA, memory and write access

Exit codes: 0 done (or already done); 2 invalid request, a retry cannot help; 75 stopped with everything saved,
rerun to resume (76 in a Kubernetes pod after another one of the job was lost); 1 anything else."""

_DESCRIPTION = "description"  # What a file of settings says about itself.
_CONFIG_FILE = config_lib.setting(
    "",
    "JSON or YAML (.yaml, .yml) file of flag names and values, local or gs://, such as a recipe or a job_dir's "
    "config.json; flags on the command line override it.",
    path=config_lib.PATH,
)
_PRINT_CONFIG = config_lib.setting(
    False, "Print all settings as a YAML file that --config takes, with those that differ from the defaults marked, "
    "and do nothing else.", fixed=False,
)  # fmt: skip
_NO_SETTINGS = ("config", "print_config")
PLACES = ("data_dir", "job_dir")  # What a job cannot do without.


def train_fields() -> dict[str, "dataclasses.Field[Any]"]:
    """Return the flags of ``trainer.train``: every setting of Config, ``--config`` and ``--print_config``."""
    extra = [("config", str, _CONFIG_FILE), ("print_config", bool, _PRINT_CONFIG)]
    fields = dataclasses.fields(dataclasses.make_dataclass("_", extra))
    return {**config_lib.settings(), **{field.name: field for field in fields}}


def train_config(argv: Sequence[str], defaults: Mapping[str, str] = MappingProxyType({})) -> config_lib.Config:
    """Parse the command line of ``trainer.train`` into a checked Config.

    Args:
        argv: words after the program's name.
        defaults: settings where neither flags nor the file give one.

    Raises:
        HelpRequested: if ``--help`` is among the words.
        RequestError: for anything wrong with the flags, their values or the ``--config`` file.
    """
    values, rest = parse(argv, train_fields(), usage=TRAIN_USAGE, sections=train_sections(), required=PLACES)
    refuse_words(rest)
    return config_of(values, defaults)


def train_sections() -> dict[str, list[str]]:
    """Return the flag names of ``trainer.train`` by the headings of ``--help``."""
    sections: dict[str, list[str]] = {}
    for section, field in config_lib.settings_with_section():
        sections.setdefault(section.capitalize(), []).append(field.name)
    sections["Loop"] += _NO_SETTINGS
    return sections


def refuse_words(rest: Sequence[str]) -> None:
    """Refuse words that are not flags.

    Raises:
        RequestError: naming the first one.
    """
    if rest:
        raise errors.RequestError(f"expected only flags, received {rest[0]!r}; write --flag=value")


def config_of(
    values: Mapping[str, config_lib.Value], defaults: Mapping[str, str] = MappingProxyType({})
) -> config_lib.Config:
    """Build a checked Config from flags of ``trainer.train``; they override the ``--config`` file's settings.

    Raises:
        HelpRequested: with the settings as a file, for ``--print_config``.
        RequestError: for anything wrong with the values or the file.
    """
    config = config_lib.from_flat({**defaults, **given_settings(values)})
    if values.get("print_config"):
        raise HelpRequested(changes.as_yaml(config), is_file=True)
    return _with_folders(config)


def given_settings(values: Mapping[str, config_lib.Value]) -> dict[str, Any]:
    """Return the settings that a command line and its ``--config`` file set.

    Raises:
        RequestError: if the file does not hold settings.
    """
    path = values.get("config", "")
    from_file = _read_config_file(str(path)) if path else {}
    return {**from_file, **{name: value for name, value in values.items() if name not in _NO_SETTINGS}}


def _with_folders(config: config_lib.Config) -> config_lib.Config:
    for name in PLACES:
        if not config.flat()[name]:
            raise errors.RequestError(f"expected --{name}, received none; set it to a folder or gs:// path")
        files.require_form(str(config.flat()[name]), name)
    return config


def _read_config_file(path: str) -> dict[str, Any]:
    """Return the settings in a file, and log its description if it has one."""
    path = installed.recipe(path)
    files.require_form(path, "config")
    remedy = "name a file of settings, such as a job's config.json"
    try:
        if path.endswith((".yaml", ".yml")):
            from trainer.core import checked_yaml  # Late, as a command without such a file needs no PyYAML.

            settings = checked_yaml.read(path, flag="config", remedy=remedy, what="settings in YAML")
        else:
            settings = checked_json.read(path, {}, flag="config", remedy=remedy)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise errors.RequestError(
            f"--config: expected a readable JSON or YAML file, received {path!r}, which does not exist; check the path"
        ) from error
    checked_json.check(settings, {_DESCRIPTION: checked_json.optional(checked_json.TEXT)},
                       name=f"--config: expected {path!r}", remedy="correct it", what="settings")  # fmt: skip
    if description := " ".join(str(settings.pop(_DESCRIPTION, "")).split()):
        log.info("%s: %s", path, description)
    _refuse_hidden_numbers(settings)
    return settings


def _refuse_hidden_numbers(settings: Mapping[str, Any]) -> None:
    """Refuse the numbers behind ``auto``; all other checks follow when a Config is built."""
    fields = config_lib.settings()
    for name in settings.keys() & {name for name, field in fields.items() if field.metadata["auto"] is not None}:
        config_lib.check_written(fields[name], settings[name])


def to_argv(config: config_lib.Config) -> list[str]:
    """Return the flags that produce this Config: those whose value is not the default, in declaration order."""
    fields = config_lib.settings()
    return to_words({name: value for name, value in config.flat().items() if value != fields[name].default})


def to_words(values: Mapping[str, config_lib.Value]) -> list[str]:
    """Return the flags that set these values."""
    return [_to_word(name, value) for name, value in values.items()]


def _to_word(name: str, value: config_lib.Value) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    field = config_lib.settings().get(name)
    return f"--{name}={config_lib.AUTO if field and config_lib.is_auto(field, value) else value}"
