"""What every table of settings and plans shares."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

PositiveFraction = Annotated[float, Field(gt=0.0, le=1.0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Range = tuple[float, float]
Factors = tuple[PositiveFloat, PositiveFloat]
PerAxis = tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat]
Pair = tuple[PositiveInt, PositiveInt]
Triple = tuple[PositiveInt, PositiveInt, PositiveInt]


class Section(BaseModel):
    """One table of a settings file; a name that it does not know is an error."""

    # Nothing of pydantic's own is called "model_…" that a setting could hide.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class NamedSection(Section):
    """A table in which one entry decides which of the others there are.

    An unset option has the default of what is chosen; one that it does not use must be
    left out.
    """

    chooser: ClassVar[str] = "name"
    """That entry."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]]
    """Choice to the options that it has beside those that all have."""

    @model_validator(mode="wrap")
    @classmethod
    def with_defaults(
        cls,
        table: Any,  # noqa: ANN401 - whatever a file holds
        handler: ModelWrapValidatorHandler[Self],
    ) -> Self:
        """Fill in what is unset."""
        if not isinstance(table, dict):
            return handler(table)
        name = table.get(cls.chooser, cls.model_fields[cls.chooser].default)
        # A choice that is none is told of by its own field.
        known = cls.defaults.get(name, {}) if isinstance(name, str) else {}
        given = {key: value for key, value in table.items() if value is not None}
        made = handler({**known, **given})
        # A resumed run is compared with what its file sets, not with defaults.
        made.model_fields_set.intersection_update(given)
        return made

    @model_validator(mode="after")
    def every_option_is_used(self) -> Self:
        """Refuse an option that would change nothing."""
        optional = {key for options in self.defaults.values() for key in options}
        chosen = getattr(self, self.chooser)
        own = self.defaults[chosen]
        unused = [
            key
            for key in sorted(optional - own.keys())
            if getattr(self, key) is not None
        ]
        if unused:
            raise ValueError(
                f"{chosen} does not use {', '.join(unused)}; "
                f"its options are {', '.join(own) or 'none'}"
            )
        return self

    @property
    def options(self) -> dict[str, Any]:
        """Values of the options of what is chosen."""
        own = self.defaults[getattr(self, self.chooser)]
        return {key: getattr(self, key) for key in own}


Model = TypeVar("Model", bound=Section)
