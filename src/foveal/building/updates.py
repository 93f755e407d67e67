"""How gradients become updates."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.nn import Module, Parameter
from torch.optim import Optimizer

from foveal.config.optimisation import OptimiserConfig
from foveal.config.settings import Settings
from foveal.engine.batch_statistics import batch_norms
from foveal.engine.penalties import WeightPenalty
from foveal.engine.plateau import PlateauRule
from foveal.engine.rmsprop import NesterovRMSprop
from foveal.engine.schedules import cycle_ends, learning_rate_factor
from foveal.engine.training import UpdateRules
from foveal.errors import SettingsError
from foveal.methods.interface import Method
from foveal.networks.layer_names import layers_named, rate_factors, regularised_weights


def optimisers(settings: Settings, trained: Method) -> dict[str, Optimizer]:
    """One optimiser per parameter group of a method.

    Each has a group of its own for every factor of the learning rate.

    Raises:
        SettingsError: A layer's name is wrong, or nothing is left to learn.
    """
    factors = rate_factors(
        trained,
        settings.transfer.learning_rate_factors,
        "transfer.learning_rate_factors",
    )
    made = {}
    for name, parameters in trained.parameter_groups().items():
        of_factor: dict[float, list[Parameter]] = {}
        for parameter in parameters:
            if parameter.requires_grad:
                of_factor.setdefault(factors.get(parameter, 1.0), []).append(parameter)
        if not of_factor:
            raise SettingsError(
                f"transfer.freeze leaves nothing to learn in {name}; name fewer layers"
            )
        rate = trained.constant_rates.get(name, settings.optimiser.learning_rate)
        made[name] = _optimiser(
            settings.optimiser,
            [
                {"params": group, "lr": rate * factor}
                for factor, group in of_factor.items()
            ],
        )
    return made


def _optimiser(config: OptimiserConfig, groups: list[dict[str, Any]]) -> Optimizer:
    options = config.options
    rate = options["learning_rate"]
    match config.name:
        case "sgd":
            return torch.optim.SGD(
                groups,
                lr=rate,
                momentum=options["momentum"],
                weight_decay=options["weight_decay"],
                nesterov=options["momentum"] > 0,
            )
        case "rmsprop":
            return NesterovRMSprop(
                groups,
                rate,
                squares_decay=options["squares_decay"],
                momentum=options["momentum"],
                epsilon=options["epsilon"],
            )
        case "adadelta":
            return torch.optim.Adadelta(
                groups, lr=rate, rho=options["squares_decay"], eps=options["epsilon"]
            )
        case "adam":
            return torch.optim.Adam(
                groups,
                lr=rate,
                betas=(options["momentum"], options["squares_decay"]),
                eps=options["epsilon"],
            )
        case "adamw":
            return torch.optim.AdamW(
                groups,
                lr=rate,
                betas=(options["momentum"], options["squares_decay"]),
                eps=options["epsilon"],
                weight_decay=options["weight_decay"],
            )


def frozen_layers(settings: Settings, trained: Method) -> list[Module]:
    """Modules that do not learn, all that is inside them included.

    Raises:
        SettingsError: There is no such layer.
    """
    return [
        layer
        for name in settings.transfer.freeze
        for layer in layers_named(trained, name, "transfer.freeze")
    ]


def update_rules(settings: Settings, trained: Method) -> UpdateRules:
    """Schedule, clipping, averaging, regularisation, and what stays as it is.

    Raises:
        SettingsError: A setting would change nothing of this method.
    """
    frozen = frozen_layers(settings, trained)
    batches = settings.training.batch_norm_batches
    norms = batch_norms(trained.predictor).values()
    fixed = {module for layer in frozen for module in layer.modules()}
    if batches is not None and fixed.issuperset(norms):
        raise SettingsError(
            "training.batch_norm_batches: the network has no batch norm that learns; "
            "leave it out"
        )
    schedule = settings.schedule
    drops = schedule.options if schedule.name == "plateau" else None
    rules = UpdateRules(
        learning_rate_factor=partial(
            learning_rate_factor,
            name=schedule.name,
            warmup_steps=schedule.warmup_steps,
            warmup_start_fraction=schedule.warmup_start_fraction,
            **({} if drops else schedule.options),
        ),
        gradient_clip_norm=settings.optimiser.gradient_clip_norm,
        ema_decay=settings.training.ema_decay,
        plateau=PlateauRule(drops["patience_validations"], drops["drop_factor"])
        if drops
        else None,
        penalty=_penalty(settings, trained),
        frozen=frozen,
        batch_norm_batches=batches or 0,
    )
    if schedule.name != "cyclic":
        return rules
    ends = partial(cycle_ends, **schedule.options)
    return replace(rules, kept_steps=ends)


def _penalty(settings: Settings, trained: Method) -> WeightPenalty | None:
    l1, l2 = settings.optimiser.l1, settings.optimiser.l2
    if l1 == l2 == 0:
        return None
    learned = [
        parameter
        for parameters in trained.parameter_groups().values()
        for parameter in parameters
        if parameter.requires_grad
    ]
    weights = regularised_weights(
        trained, learned, with_classifier=settings.optimiser.regularise_classifier
    )
    if not weights:
        raise SettingsError(
            "optimiser.l1 and l2 change nothing: no convolution learns; leave them out"
        )
    return WeightPenalty(weights, l1, l2)
