"""Reading, choosing and writing settings and plans; every mistake in words, at once.

What a table may hold is said in `config`.
"""

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import ValidationError

from foveal.config import Section
from foveal.config.ensemble import EnsembleConfig
from foveal.config.networks.section import DEFAULT_NETWORK
from foveal.config.parts import PartSections, plan_model, settings_model
from foveal.config.plan import LEARN, Plan
from foveal.config.postprocessing import PostprocessingConfig
from foveal.config.settings import Settings
from foveal.errors import SettingsError
from foveal.io.files import atomic_write_text

Model = TypeVar("Model", bound=Section)

PLAN_TABLES = frozenset(Plan.model_fields) - {"format_version"}
"""Tables of the plan; all others are of the settings."""

TABLES = PLAN_TABLES | Settings.model_fields.keys()
"""Of settings files."""

LONGEST_SHOWN = 80
"""Characters of a wrong value that a message repeats."""

PATHS = (("dataset",), ("store",), ("transfer", "weights"))
"""Settings that are relative to the file they stand in."""


def read_plan(path: Path, model: type[Plan] = Plan) -> Plan:
    """Read and check a plan file; paths in it are relative to it.

    Args:
        path: TOML.
        model: `plan_model` for a plan to work with; `Plan` for reading.

    Raises:
        SettingsError: Lists every wrong entry with its full name.
    """
    table = _with_landmarks_from(path.parent, _read_table(path))
    return _validated(model, table, str(path))


def parse_plan(text: str, source: str) -> Plan:
    """Check the text of a plan that is kept in something else than a plan file.

    Args:
        text: TOML.
        source: Where it comes from, for messages.

    Raises:
        SettingsError: Lists every wrong entry with its full name.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{source} is not TOML: {error}") from error
    return _validated(Plan, table, source)


def read_settings(path: Path) -> tuple[Settings, dict[str, Any]]:
    """Read a settings file, which may also name tables of the plan.

    Paths in the file are relative to the file.

    Returns:
        The settings, and the entries meant for the plan (see `changed_plan`).

    Raises:
        SettingsError: Lists every wrong entry with its full name.
    """
    table, plan_entries = _divided(_with_paths_from(path.parent, _read_table(path)))
    return _validated(Settings, table, str(path)), plan_entries


def read_postprocessing(path: Path) -> PostprocessingConfig:
    """Read and check what follows a network; nothing does if there is no such file.

    Raises:
        SettingsError: Lists every wrong entry with its full name.
    """
    if not path.exists():
        return PostprocessingConfig()
    return _validated(PostprocessingConfig, _read_table(path), str(path))


def kept_postprocessing(path: Path, made_of: Sequence[str]) -> PostprocessingConfig:
    """What is there to go on from; nothing if it was chosen with other models.

    Raises:
        SettingsError: Lists every wrong entry with its full name.
    """
    kept = read_postprocessing(path)
    return kept if kept.made_of in {(), tuple(made_of)} else PostprocessingConfig()


def write_postprocessing(path: Path, changes: PostprocessingConfig) -> None:
    """Change some tables of what follows a network, and keep the others.

    Args:
        path: ``postprocessing.toml`` of a run or an ensemble; made if absent.
        changes: The tables named in it replace those of the file; ``None`` or an empty
            tuple removes one. Tables that were chosen with other models than its
            ``made_of`` go too.

    Raises:
        SettingsError: The file that is there is wrong.
        OSError: It cannot be written.
    """
    named = {name: getattr(changes, name) for name in changes.model_fields_set}
    before = read_postprocessing(path)
    if changes.made_of:
        before = kept_postprocessing(path, changes.made_of)
    kept = before.model_copy(update=named)
    atomic_write_text(path, to_toml(kept))


def parse_postprocessing(table: object, source: str) -> PostprocessingConfig:
    """Check what follows a network where it is kept in something else than its file.

    Raises:
        SettingsError: Lists every wrong entry with its full name.
    """
    return _validated(PostprocessingConfig, table, source)


def read_ensemble(path: Path) -> EnsembleConfig:
    """Read the file that an ensemble is trained from; paths in it are relative to it.

    Raises:
        SettingsError: Lists every wrong entry with its full name.
    """
    folder, table = path.resolve().parent, _read_table(path)
    for keys in (("dataset",), ("store",)):
        table = _with_path_from(folder, table, keys)
    placed = _with_entries_from(folder, table, "settings")
    for name in ("members", "variants"):
        each = placed.get(name)
        if isinstance(each, list):
            placed = placed | {
                name: [_with_own_paths_from(folder, one) for one in each]
            }
    return _validated(EnsembleConfig, placed, str(path))


def _with_own_paths_from(folder: Path, table: object) -> object:
    """Member or variant whose paths are relative to a folder no more."""
    if not isinstance(table, dict):
        return table
    channel = table.get("every_channel")
    if isinstance(channel, dict) and channel.get("landmarks") not in ("", LEARN):
        table = _with_path_from(folder, table, ("every_channel", "landmarks"))
    placed = _with_path_from(folder, table, ("settings",))
    return _with_entries_from(folder, placed, "set")


def _with_entries_from(
    folder: Path, table: dict[str, Any], name: str
) -> dict[str, Any]:
    entries = table.get(name)
    if not isinstance(entries, dict):
        return table
    return table | {name: _with_paths_from(folder, entries)}


def choose_settings(
    file: Path | None,
    options: Sequence[str],
    arguments: Mapping[str, Any],
    *,
    sections: PartSections,
    plan: Path | None = None,
) -> tuple[Settings, dict[str, Any]]:
    """Settings from a file, then options, then arguments, each over the one before.

    Whatever can be told to be wrong before the data are looked at is told at once, of
    the plan too.

    Args:
        file: Settings file; ``None``: all defaults.
        options: ``table.name=value``; paths are relative to the working folder. With
            ``sampling.adaptive=false`` the file's ``[error_maps]`` do not count.
        arguments: Tables of settings.
        sections: Every part that may be named.
        plan: Plan file that is going to be changed; ``None``: the data decide.

    Returns:
        The settings, and the entries meant for the plan (see `changed_plan`).

    Raises:
        SettingsError: Lists every wrong entry with its full name.
    """
    wanted, problems = _option_table(options)
    table = _with_paths_from(Path.cwd(), wanted)
    if file is not None:
        written = _with_paths_from(file.resolve().parent, _read_table(file))
        if _switches_adaptive_off(wanted):
            # The command line could not take the table out of the file.
            written.pop("error_maps", None)
        table = merged(written, table)
    table, plan_entries = _divided(merged(table, dict(arguments)))
    settings, more = _settings_or_problems(settings_model(sections), table)
    known_plan = plan_model(sections)
    if plan is None:
        more += _problems_before_planning(known_plan, plan_entries)
    else:
        changed = _with_network(_read_table(plan), plan_entries)
        more += _settings_or_problems(known_plan, changed)[1]
    if settings is None or problems or more:
        sources = [str(path) for path in (file, plan) if path is not None]
        sources += ["--set"] if options else []
        heading = f"wrong settings in {' and '.join(sources or ['the arguments'])}"
        raise SettingsError(_listed(heading, [*problems, *more]))
    return settings, plan_entries


def is_settings_file(path: Path) -> bool:
    """Whether a file holds settings rather than a table of cases."""
    return path.suffix == ".toml" and not {"cases", "folder"} & _read_table(path).keys()


def changed_plan(
    plan: Plan, entries: dict[str, Any], model: type[Plan] | None = None
) -> Plan:
    """Plan with some entries replaced; nested tables are merged, lists replaced.

    Another network begins with its own defaults.

    Args:
        plan: Left as it is.
        entries: Tables of the plan.
        model: To check the result by; ``None``: as ``plan`` was.
    """
    table = _with_network(plan.model_dump(), entries)
    return _validated(model or type(plan), table, "plan")


def changed_settings(settings: Settings, entries: dict[str, Any]) -> Settings:
    """Settings with some entries replaced; nested tables are merged."""
    table = merged(settings.model_dump(), entries)
    return _validated(type(settings), table, "settings")


def _option_table(options: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Nested tables of the options, and what is wrong with their form."""
    entries: dict[str, Any] = {}
    problems = []
    for option in options:
        name, equals, text = option.partition("=")
        keys = name.strip().split(".")
        if not equals or not all(keys):
            problems.append(
                f'"{option}" must read table.name=value, for example training.seed=3'
            )
            continue
        value = _toml_value(text.strip())
        for key in reversed(keys):
            value = {key: value}
        entries = merged(entries, value)
    return entries, problems


def _switches_adaptive_off(wanted: Mapping[str, Any]) -> bool:
    sampling = wanted.get("sampling")
    return isinstance(sampling, Mapping) and sampling.get("adaptive") is False


def _divided(table: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Entries of the settings, and those of the plan."""
    plan_entries = {name: table[name] for name in table.keys() & PLAN_TABLES}
    return {
        name: value for name, value in table.items() if name not in PLAN_TABLES
    }, plan_entries


def _with_paths_from(folder: Path, table: dict[str, Any]) -> dict[str, Any]:
    """Settings whose paths are relative to a folder no more."""
    for keys in PATHS:
        table = _with_path_from(folder, table, keys)
    return _with_landmarks_from(folder, table)


def _with_landmarks_from(folder: Path, table: dict[str, Any]) -> dict[str, Any]:
    """Plan whose landmark files are relative to a folder no more."""
    section = table.get("preprocessing")
    channels = section.get("channels") if isinstance(section, dict) else None
    if not isinstance(section, dict) or not isinstance(channels, list):
        return table
    placed = [
        channel
        if not isinstance(channel, dict) or channel.get("landmarks") in ("", LEARN)
        else _with_path_from(folder, channel, ("landmarks",))
        for channel in channels
    ]
    return table | {"preprocessing": section | {"channels": placed}}


def _with_path_from(
    folder: Path, table: dict[str, Any], keys: Sequence[str]
) -> dict[str, Any]:
    name, *inner = keys
    value = table.get(name)
    if inner and isinstance(value, dict):
        return table | {name: _with_path_from(folder, value, inner)}
    if not inner and isinstance(value, str):
        return table | {name: str(folder / value)}
    return table


def _with_network(plan: dict[str, Any], entries: dict[str, Any]) -> dict[str, Any]:
    """Merge, but leave behind the options of a network that is not wanted any more."""
    planned, wanted = plan.get("network", {}), entries.get("network", {})
    if isinstance(planned, dict) and isinstance(wanted, dict):
        before = planned.get("name", DEFAULT_NETWORK)
        if wanted.get("name", before) != before:
            plan = plan | {"network": {}}
    return merged(plan, entries)


def options_of(section: type[Section], table: object, source: str) -> dict[str, Any]:
    """Options of a part as plain values, defaults included.

    Raises:
        SettingsError: Lists every wrong entry, and what there is.
    """
    checked, problems = _settings_or_problems(section, table, within=source)
    if checked is None:
        known = ", ".join(name for name in section.model_fields if name != "name")
        heading = f"{source} is wrong (its options are {known or 'none'})"
        raise SettingsError(_listed(heading, problems))
    return checked.model_dump()


def to_toml(section: Section) -> str:
    """Text of a settings or plan file; unset entries are left out."""
    text = tomli_w.dumps(section.model_dump(mode="json", exclude_none=True))
    # One array per line, as a person would write them, where it fits.
    joined = None
    while joined != text:
        joined, text = text, _SPREAD_ARRAY.sub(_on_one_line, joined or text)
    return text


_SPREAD_ARRAY = re.compile(
    r"""\[\n((?:[ ]*(?:[-+.\w]+|"[^"\n]*"|\[[^\[\]\n]*\]),\n)+)[ ]*\]"""
)


def _on_one_line(array: re.Match[str]) -> str:
    line = "[" + " ".join(array[1].split()).removesuffix(",") + "]"
    return line if len(line) <= 80 else array[0]


def _read_table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"{path} does not exist; give a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not a TOML file: {error}") from error


def _toml_value(text: str) -> Any:  # noqa: ANN401 - any TOML value
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def merged(table: dict[str, Any], entries: dict[str, Any]) -> dict[str, Any]:
    """Table with some entries replaced; nested tables are merged, lists replaced."""
    result = dict(table)
    for name, value in entries.items():
        if isinstance(value, dict) and isinstance(result.get(name), dict):
            result[name] = merged(result[name], value)
        else:
            result[name] = value
    return result


def _validated(model: type[Model], table: object, source: str) -> Model:
    checked, problems = _settings_or_problems(model, table)
    if checked is None:
        raise SettingsError(_listed(f"{source} is wrong", problems))
    return checked


def _settings_or_problems(
    model: type[Model], table: object, within: str = ""
) -> tuple[Model | None, list[str]]:
    """What a table says, or a line for every wrong entry.

    Args:
        model: What there may be.
        table: As given.
        within: Name of the table, if it is not the whole file.
    """
    try:
        return model.model_validate(table), []
    except ValidationError as error:
        known = TABLES
        if not issubclass(model, Settings | Plan):
            known = frozenset(model.model_fields) - {"format_version"}
        return None, [_in_words(problem, within, known) for problem in _roots(error)]


def _problems_before_planning(model: type[Plan], entries: dict[str, Any]) -> list[str]:
    """What is wrong with entries of a plan whatever the data say.

    Nothing that is missing, and nothing that depends on several entries: the rest of
    the plan is not known yet. Lists are whole, as they are replaced and not merged.
    """
    try:
        model.model_validate(entries)
    except ValidationError as error:
        network = entries.get("network", {})
        is_chosen = isinstance(network, Mapping) and "name" in network
        return [
            _in_words(problem)
            for problem in _roots(error)
            if (
                problem["type"] not in {"missing", "value_error"}
                or any(isinstance(part, int) for part in problem["loc"])
                or problem["loc"] == ("network", "name")
            )
            # For pictures the planner chooses a network of two axes.
            and (is_chosen or not _is_number_of_axes(problem))
        ]
    return []


def _is_number_of_axes(problem: Any) -> bool:  # noqa: ANN401 - pydantic's own
    """Whether an option of the network is not as long as it has axes."""
    counts = {"missing", "too_long", "too_short"}
    return problem["loc"][0] == "network" and problem["type"] in counts


def _roots(error: ValidationError) -> list[Any]:
    """Problems, without "too short" of a list that lacks its wrong entries only."""
    places = [problem["loc"] for problem in error.errors()]
    return [
        problem
        for problem in error.errors()
        if problem["type"] != "too_short"
        or not any(
            place[:-1][: len(problem["loc"])] == problem["loc"] for place in places
        )
    ]


def _in_words(
    problem: Any,  # noqa: ANN401 - pydantic's own
    within: str = "",
    known: Collection[str] = TABLES,
) -> str:
    place = [within, *problem["loc"]] if within else problem["loc"]
    name = ".".join(str(part) for part in place)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "no such setting; check the spelling"
        if len(problem["loc"]) == 2 and problem["loc"][0] in {"loss", "plugins"}:
            message += ", or give the plugin that has it (--plugin FILE.py)"
        elif "." not in name:
            message = f"no such table; there are {', '.join(sorted(known))}"
    elif problem["type"] in {"model_type", "dict_type"}:
        message = f"must be a table, not {problem['input']!r}"
    elif message.startswith("Input should be"):
        given = repr(problem["input"])
        message += f", not {given}" if len(given) <= LONGEST_SHOWN else ""
    return f"{name}: {message}" if name else message


def _listed(heading: str, problems: Sequence[str]) -> str:
    return "\n".join([f"{heading}:", *(f"  {problem}" for problem in problems)])
