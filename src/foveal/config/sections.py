"""What every table of settings and plans shares."""

from typing import Annotated, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
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


Model = TypeVar("Model", bound=Section)
