"""Names that plan and settings may choose from, those of plugins included."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

from pydantic import AfterValidator, NonNegativeFloat, create_model

from foveal.config.losses import LossConfig
from foveal.config.methods import MethodConfig, UnknownMethodConfig
from foveal.config.networks.section import NetworkConfig, UnknownNetworkConfig
from foveal.config.plan import Plan
from foveal.config.sampling import SamplingConfig
from foveal.config.sections import Model, Section
from foveal.config.settings import PluginsConfig, Settings


@dataclass(frozen=True)
class PartSections:
    """Every name that plan and settings may choose, with its options."""

    networks: Mapping[str, type[NetworkConfig]]
    losses: Collection[str]
    samplers: Collection[str]
    methods: Collection[str]
    plugins: Mapping[str, type[Section]]
    """Options of the losses, samplers and methods that plugins add."""


def network_section(name: str, options: type[Section]) -> type[NetworkConfig]:
    """Section of the plan's table ``network`` for a network with these options."""
    bases: Any = (options, NetworkConfig)
    return cast(
        type[NetworkConfig],
        create_model(options.__name__, __base__=bases, name=(str, name)),
    )


def plan_model(sections: PartSections) -> type[Plan]:
    """`Plan` that refuses networks it does not know."""
    name = (_one_of(sections.networks), ...)

    class KnownPlan(Plan):
        networks: ClassVar[Mapping[str, type[NetworkConfig]]] = sections.networks
        other_networks: ClassVar[type[NetworkConfig]] = create_model(
            "NetworkConfig", __base__=UnknownNetworkConfig, name=name
        )

    return KnownPlan


def settings_model(sections: PartSections) -> type[Settings]:
    """`Settings` that refuse names they do not know and hold plugins' defaults."""
    weights = set(sections.losses) - LossConfig.model_fields.keys()
    tables: dict[str, type[Section]] = {
        "sampling": _narrowed(
            SamplingConfig,
            {"sampler": (_one_of(sections.samplers), SamplingConfig().sampler)},
        ),
        "loss": _narrowed(
            LossConfig, dict.fromkeys(sorted(weights), (NonNegativeFloat, 0.0))
        ),
        "plugins": _narrowed(
            PluginsConfig,
            {name: (table, table()) for name, table in sections.plugins.items()},
        ),
    }

    class KnownMethods(Settings):
        other_methods: ClassVar[type[MethodConfig]] = create_model(
            "MethodConfig",
            __base__=UnknownMethodConfig,
            name=(_one_of(sections.methods), ...),
        )

    known = _narrowed(
        KnownMethods, {name: (table, table()) for name, table in tables.items()}
    )
    known.__name__ = Settings.__name__
    return known


def _narrowed(section: type[Model], fields: Mapping[str, Any]) -> type[Model]:
    """The same section with some of its names declared, and no others."""
    declared: dict[str, Any] = dict(fields)
    return create_model(
        section.__name__,
        __base__=section,
        __cls_kwargs__={"extra": "forbid"},
        **declared,
    )


def _one_of(names: Collection[str]) -> Any:  # noqa: ANN401 - a type made of values
    """Text that is one of the names."""

    def checked(name: str) -> str:
        if name not in names:
            raise ValueError(
                f'"{name}" is none of {", ".join(names)}; another comes with '
                "--plugin FILE.py"
            )
        return name

    return Annotated[str, AfterValidator(checked)]
