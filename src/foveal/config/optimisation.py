"""How weights move: what they begin with, the optimiser and its learning rate."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from foveal.config.sections import NamedSection, PositiveFraction, Section


class OptimiserConfig(NamedSection):
    """How weights follow gradients."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "adamw": {
            "learning_rate": 3e-3,
            "weight_decay": 1e-2,
            "momentum": 0.9,
            "squares_decay": 0.999,
            "epsilon": 1e-8,
        },
        "adam": {
            "learning_rate": 1e-3,
            "momentum": 0.9,
            "squares_decay": 0.999,
            "epsilon": 1e-8,
        },
        "sgd": {"learning_rate": 3e-3, "weight_decay": 0.0, "momentum": 0.9},
        "rmsprop": {
            "learning_rate": 1e-3,
            "momentum": 0.6,
            "squares_decay": 0.9,
            "epsilon": 1e-4,
        },
        "adadelta": {"learning_rate": 1.0, "squares_decay": 0.95, "epsilon": 1e-6},
    }

    name: Literal["adamw", "adam", "sgd", "rmsprop", "adadelta"] = "adamw"
    """``sgd`` is with Nesterov momentum; ``rmsprop`` is DeepMedic's, with Nesterov
    momentum and ``epsilon`` inside the root. An option that the chosen one does not use
    is an error."""

    learning_rate: PositiveFloat = 3e-3
    """Unset: ``adam`` and ``rmsprop`` 0.001, ``adadelta`` 1, others 0.003."""

    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """AdamW, Adam: decay of the mean gradient. SGD, RMSProp: Nesterov momentum. Unset:
    0.9, ``rmsprop`` 0.6."""

    squares_decay: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Of the mean squared gradient, all but SGD. Unset: 0.999, ``rmsprop`` 0.9,
    ``adadelta`` 0.95."""

    epsilon: PositiveFloat | None = None
    """Keeps the division by the root mean square from being one by zero, all but SGD.
    Unset: 1e-8, ``rmsprop`` 1e-4, ``adadelta`` 1e-6."""

    weight_decay: NonNegativeFloat | None = None
    """Of every parameter. AdamW: share lost per step, times the learning rate, apart
    from the gradient. SGD: what is added to the gradient per weight. Unset: ``adamw``
    0.01, ``sgd`` 0."""

    l1: NonNegativeFloat = 0.0
    """Added to the loss: this times the sum of absolute weights of convolutions and
    linear layers, so neither of biases, norms nor slopes."""

    l2: NonNegativeFloat = 0.0
    """Added to the loss: this times the sum of squares of the same weights; half of the
    "weight decay" of papers that add it to the gradient."""

    regularise_classifier: bool = True
    """Whether ``l1`` and ``l2`` hold for the layers that make logits too."""

    gradient_clip_norm: PositiveFloat = 12.0
    """Largest norm of the gradient of all that the optimiser updates; inf: no limit."""

    @model_validator(mode="after")
    def something_is_regularised(self) -> Self:
        """Refuse an exemption from nothing."""
        if not self.regularise_classifier and self.l1 == self.l2 == 0:
            raise ValueError(
                "regularise_classifier = false changes nothing while l1 and l2 are 0"
            )
        return self


class ScheduleConfig(NamedSection):
    """How the learning rate moves over the run."""

    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "poly": {"power": 0.9, "wait_fraction": 0.0},
        "cosine": {},
        "cyclic": {"cycles": 5},
        "constant": {},
        "steps": {"drop_at": (), "drop_factor": 0.5},
        "plateau": {"drop_factor": 0.5, "patience_validations": 5},
    }

    name: Literal["poly", "cosine", "cyclic", "constant", "steps", "plateau"] = "poly"
    """``poly``: down to 0 as a power of what is left of the run; ``cosine``: down to 0;
    ``cyclic``: the same several times, each beginning anew, with a snapshot at the end
    of each (Huang et al. 2017; ``foveal predict --snapshots`` averages them);
    ``steps``: drops at given points; ``plateau``: drops when validation gets no better.
    An option that the chosen one does not use is an error."""

    power: PositiveFloat | None = None
    """Of ``poly``. Unset: 0.9."""

    wait_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Of ``poly``: share of the run before the decay begins. Unset: 0."""

    cycles: Annotated[int, Field(ge=2)] | None = None
    """Of ``cyclic``: how often it falls to 0 in a run. Unset: 5."""

    drop_at: tuple[PositiveFloat, ...] | None = None
    """Of ``steps``: when the learning rate drops; below 1 a share of the run, from 1 on
    a number of steps."""

    drop_factor: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Of ``steps`` and ``plateau``: what each drop multiplies by. Unset: 0.5."""

    patience_validations: PositiveInt | None = None
    """Of ``plateau``: validations in a row without a new best score, such as mean Dice,
    until the learning rate drops. Unset: 5."""

    warmup_steps: NonNegativeInt = 20
    """Steps of a linear rise at the beginning; the decay runs under it."""

    warmup_start_fraction: PositiveFraction | None = None
    """Of the learning rate at the first step; the whole is reached after
    ``warmup_steps``. Unset: 1 / (``warmup_steps`` + 1)."""

    @model_validator(mode="after")
    def rise_and_drops_exist(self) -> Self:
        """Refuse a rise that takes no time, and drops without points."""
        if self.warmup_start_fraction is not None and self.warmup_steps == 0:
            raise ValueError("warmup_start_fraction changes nothing: warmup_steps is 0")
        if self.drop_at == ():
            raise ValueError(
                "steps needs drop_at, for example [0.5, 0.75]: shares of the run"
            )
        return self


class TransferConfig(Section):
    """What a run begins with that was learned elsewhere, and what of it may change."""

    weights: Path | None = None
    """Folder of a run, an exported model, or ``.safetensors`` or ``.pth`` with weights
    of a classification network in torchvision's naming; relative to the settings file.
    Unset: all weights are drawn."""

    freeze: tuple[str, ...] = ()
    """Modules that do not learn, with all that is inside: ``backbone.layer1``. Their
    batch norms' statistics stay as they are too."""

    learning_rate_factors: dict[str, NonNegativeFloat] = Field({})
    """Name of a module to what multiplies the learning rate of all that is inside; the
    longest name counts."""
