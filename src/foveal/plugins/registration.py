"""What a plugin file adds: parts with a name, a function or class, and options."""

import hashlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from foveal.config import Section
from foveal.config.networks.section import NetworkConfig
from foveal.config.parts import network_section
from foveal.errors import PluginError

PART_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
"""What can stand in ``--set plugins.NAME.option=value``."""

Kind = Literal["loss", "network", "sampler", "method"]

KINDS: tuple[Kind, ...] = ("loss", "network", "sampler", "method")

_CALLED_WITH: dict[Kind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "loss": (("logits", "label_map", "annotated", "structures"), ()),
    "network": (("in_channels", "num_classes"), ()),
    "sampler": (("structures",), ()),
    "method": (("network", "losses"), ("sampler", "batch_size")),
}
"""Positional arguments, then keywords that come before the options."""


class NoOptions(Section):
    """Of a part that has nothing to set."""


@dataclass(frozen=True)
class Part:
    """Something that settings or plan choose by its name."""

    kind: Kind
    name: str
    build: Callable[..., Any]
    """Called with what its kind gets and its options as keywords."""

    section: type[Section]
    """Its options."""


@dataclass(frozen=True)
class Plugin:
    """A file that was run, and what it added."""

    path: Path
    content: bytes
    """Exactly what was run."""

    parts: tuple[Part, ...]

    @property
    def digest(self) -> str:
        """Hash of the content."""
        return content_digest(self.content)

    @property
    def words(self) -> str:
        """What it adds, such as ``loss "focal", method "steady"``."""
        return ", ".join(f'{part.kind} "{part.name}"' for part in self.parts)

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Parts of a kind."""
        return tuple(part.name for part in self.parts if part.kind == kind)


@dataclass
class OwnParts:
    """What a plugin's ``register(parts)`` is given, to add its parts to.

    A part's options are the fields of its section, given to it as keyword arguments.
    """

    added: list[Part] = field(default_factory=list)

    def add_loss(
        self, name: str, loss: Callable[..., Any], section: type[Section] = NoOptions
    ) -> None:
        """Add a loss, whose weight is then ``loss.NAME``.

        Args:
            name: In settings.
            loss: ``loss(logits, label_map, annotated, structures, **options)``, a
                scalar; see `foveal.losses.cross_entropy`.
            section: Options, in the table ``plugins.NAME``.
        """
        self._add("loss", name, loss, section)

    def add_network(
        self, name: str, network: Callable[..., Any], section: type[Section] = NoOptions
    ) -> None:
        """Add a network, chosen by ``network.name``.

        Args:
            name: In the plan.
            network: ``network(in_channels, num_classes, **options)``, a
                `foveal.networks.interface.Network`.
            section: Options, in the plan's table ``network``.
        """
        self._add("network", name, network, section)

    def add_sampler(
        self, name: str, sampler: Callable[..., Any], section: type[Section] = NoOptions
    ) -> None:
        """Add a sampler, chosen by ``sampling.sampler``.

        Args:
            name: In settings.
            sampler: ``sampler(structures, **options)``, where ``structures`` maps
                names to inside classes; has ``draw``, see
                `foveal.sampling.samplers.BaseSampler`.
            section: Options, in the table ``plugins.NAME``.
        """
        self._add("sampler", name, sampler, section)

    def add_method(
        self, name: str, method: Callable[..., Any], section: type[Section] = NoOptions
    ) -> None:
        """Add a method, chosen by ``method.name``.

        Args:
            name: In settings.
            method: ``method(network, losses, sampler=…, batch_size=…, **options)``, a
                `foveal.methods.interface.Method`; the arguments are those of
                `foveal.methods.supervised.Supervised`.
            section: Options, in the table ``plugins.NAME``.
        """
        self._add("method", name, method, section)

    def _add(
        self, kind: Kind, name: str, build: Callable[..., Any], section: type[Section]
    ) -> None:
        if not isinstance(name, str) or not PART_NAME.fullmatch(name):
            raise PluginError(
                f"{kind} {name!r} needs a name of letters, digits, - and _"
            )
        if hasattr(Section, name):
            raise PluginError(f'{kind} "{name}" needs another name; this one is taken')
        if not callable(build):
            raise PluginError(f'{kind} "{name}" is {build!r}; give a function or class')
        if not (isinstance(section, type) and issubclass(section, Section)):
            raise PluginError(
                f'{kind} "{name}": its options are {section!r}; give a class derived '
                "from foveal.config.Section"
            )
        without = [
            option
            for option, field in section.model_fields.items()
            if field.is_required()
        ]
        if without:
            raise PluginError(
                f'{kind} "{name}": give {", ".join(without)} a default, so that a run '
                "can leave it unset"
            )
        _require_call(kind, name, build, tuple(section.model_fields))
        if kind == "network" and not issubclass(section, NetworkConfig):
            section = network_section(name, section)
        self.added.append(Part(kind, name, build, section))


def _require_call(
    kind: Kind, name: str, build: Callable[..., Any], options: Sequence[str]
) -> None:
    """Refuse a function that does not take what it will be given."""
    positional, keywords = _CALLED_WITH[kind]
    given = [*positional, *(f"{option}=…" for option in (*keywords, *options))]
    try:
        inspect.signature(build).bind(
            *positional, **dict.fromkeys((*keywords, *options), None)
        )
    except TypeError as error:
        raise PluginError(
            f'{kind} "{name}" is going to be called with ({", ".join(given)}), which '
            f"it does not take: {error}"
        ) from error


def content_digest(content: bytes) -> str:
    """Hash by which a plugin file is known."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()
