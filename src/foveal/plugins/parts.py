"""Every part that settings and plan may choose, whoever wrote it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from foveal.config import Section
from foveal.config.networks.section import NetworkConfig
from foveal.config.parts import PartSections, plan_model
from foveal.config.plan import Plan
from foveal.errors import PluginError, SettingsError
from foveal.plugins.blame import blaming
from foveal.plugins.registration import KINDS, Kind, Part, Plugin
from foveal.settings_files import options_of


@dataclass(frozen=True)
class Parts:
    """All losses, networks, samplers and methods: built in, and those of plugins."""

    built_in: Mapping[Kind, Collection[str]]
    """Names."""

    plugins: tuple[Plugin, ...] = ()

    def __post_init__(self) -> None:
        owners: dict[str, Path] = {}
        for plugin in self.plugins:
            for part in plugin.parts:
                if any(part.name in self.built_in[kind] for kind in KINDS):
                    raise PluginError(
                        f'plugin {plugin.path}: "{part.name}" is built in; give your '
                        f"{part.kind} another name"
                    )
                if part.name in owners:
                    raise PluginError(
                        f'plugin {plugin.path}: there is a "{part.name}" already, in '
                        f"{owners[part.name]}; give one of them another name"
                    )
                owners[part.name] = plugin.path

    def names(self, kind: Kind) -> tuple[str, ...]:
        """All of a kind, the built-in ones first."""
        added = (name for plugin in self.plugins for name in plugin.names(kind))
        return (*self.built_in[kind], *added)

    def added(self, kind: Kind, name: str) -> Part | None:
        """A plugin's part; ``None`` for one that is built in.

        Raises:
            SettingsError: There is neither.
        """
        for plugin in self.plugins:
            for part in plugin.parts:
                if (part.kind, part.name) == (kind, name):
                    return part
        if name not in self.built_in[kind]:
            raise SettingsError(
                f'no {kind} "{name}"; there are {", ".join(self.names(kind))}. Another '
                "comes with --plugin FILE.py"
            )
        return None

    @cached_property
    def sections(self) -> PartSections:
        """Every name and its options, to check plan and settings by."""
        networks: dict[str, type[NetworkConfig]] = dict(Plan.networks)
        options: dict[str, type[Section]] = {}
        for plugin in self.plugins:
            for part in plugin.parts:
                if issubclass(part.section, NetworkConfig):
                    networks[part.name] = part.section
                else:
                    options[part.name] = part.section
        return PartSections(
            networks=networks,
            losses=self.names("loss"),
            samplers=self.names("sampler"),
            methods=self.names("method"),
            plugins=options,
        )

    @cached_property
    def plan_model(self) -> type[Plan]:
        """Plans that name nothing else."""
        return plan_model(self.sections)

    def built(
        self,
        part: Part,
        options: object,
        *context: Any,  # noqa: ANN401 - what the kind of part gets
        **keywords: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """What a plugin's part makes of its context and options.

        Raises:
            SettingsError: The options are wrong.
            PluginError: The plugin's code fails.
        """
        values = options_of(part.section, options, f"{part.kind} {part.name}")
        if part.kind == "network":
            del values["name"]
        with blaming([plugin.path for plugin in self.plugins]):
            return part.build(*context, **keywords, **values)
