"""What a run keeps of its plugins: copies to read and hashes to compare, never run."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from foveal.engine.run_directory import RunDirectory
from foveal.errors import PluginError, RunError
from foveal.io.files import atomic_write_bytes, atomic_write_text
from foveal.plugins.registration import KINDS, Kind, Plugin

FORMAT_VERSION = 1
"""Of a run's ``plugins.toml``."""


@dataclass(frozen=True)
class KeptPlugin:
    """What a run holds of a plugin it was made with."""

    path: Path
    """The copy."""

    digest: str
    parts: Mapping[Kind, tuple[str, ...]]

    @property
    def words(self) -> str:
        """What it adds, as `Plugin.words`."""
        return ", ".join(
            f'{kind} "{name}"' for kind in KINDS for name in self.parts[kind]
        )


def keep_plugins(run: RunDirectory, plugins: Sequence[Plugin]) -> None:
    """Copy plugins into a run and write down what they are.

    Raises:
        PluginError: Two are files of the same name.
    """
    if not plugins:
        return
    names = [plugin.path.name for plugin in plugins]
    for name in names:
        if names.count(name) > 1:
            raise PluginError(f"two plugins are called {name}; rename one of them")
    for plugin in plugins:
        atomic_write_bytes(run.plugins / plugin.path.name, plugin.content)
    records = [
        {
            "file": plugin.path.name,
            "blake2b": plugin.digest,
            **{kind: list(plugin.names(kind)) for kind in KINDS if plugin.names(kind)},
        }
        for plugin in plugins
    ]
    table = {"format_version": FORMAT_VERSION, "plugins": records}
    atomic_write_text(run.plugin_records, tomli_w.dumps(table))


def kept_plugins(run: RunDirectory) -> tuple[KeptPlugin, ...]:
    """What a run says of its plugins; none of them is run.

    Raises:
        RunError: The file is damaged or of another format.
    """
    path = run.plugin_records
    if not path.exists():
        return ()
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        if table["format_version"] != FORMAT_VERSION:
            raise RunError(
                f"{path} has format version {table['format_version']}; this Foveal "
                f"reads {FORMAT_VERSION}"
            )
        return tuple(
            KeptPlugin(
                run.plugins / Path(record["file"]).name,
                record["blake2b"],
                {kind: tuple(record.get(kind, ())) for kind in KINDS},
            )
            for record in table["plugins"]
        )
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is damaged ({error}); take it from a copy of the run"
        ) from error


def require_kept(run: RunDirectory, plugins: Sequence[Plugin]) -> None:
    """Refuse to resume a run with other plugins than it was begun with.

    Raises:
        PluginError: One is missing, another one, or too many; says what to do.
    """
    kept = kept_plugins(run)
    for needed in kept:
        _matching(run, needed, plugins)
    known = {plugin.digest for plugin in kept}
    for plugin in plugins:
        if plugin.digest not in known:
            raise PluginError(
                f"run {run.path} was made without plugin {plugin.path}; leave it out"
            )


def plugins_for_network(
    run: RunDirectory, network: str, plugins: Sequence[Plugin]
) -> tuple[Plugin, ...]:
    """Those that are needed to build a run's network; all others are not asked for.

    Raises:
        PluginError: The one needed was not given; says what to do.
    """
    return tuple(
        _matching(run, needed, plugins)
        for needed in kept_plugins(run)
        if network in needed.parts["network"]
    )


def _matching(
    run: RunDirectory, needed: KeptPlugin, plugins: Sequence[Plugin]
) -> Plugin:
    for plugin in plugins:
        if plugin.digest == needed.digest:
            return plugin
    given = [
        f"{plugin.path} (blake2b {plugin.digest})"
        for plugin in plugins
        if plugin.path.name == needed.path.name
    ]
    instead = f" {' and '.join(given)} is another." if given else ""
    raise PluginError(
        f"run {run.path} needs the plugin {needed.path.name} (blake2b "
        f"{needed.digest}), which adds {needed.words}.{instead} A saved run never "
        f"runs code by itself: look at the copy {needed.path} and, if you trust it, "
        f"add --plugin {needed.path}"
    )
