"""What the votes of each source weigh, as given or as validated."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from foveal.commands.out_of_fold import read_measured
from foveal.ensembles.voting import Weight, require_weights
from foveal.errors import SettingsError, listed

SourceWeight = float | Mapping[str, float]
"""One for everything a source says, or one per structure by name."""


def weights_of_sources(
    names: Sequence[str],
    method: str,
    given: Sequence[float] | None,
    measured: Sequence[Path] | None,
) -> dict[str, SourceWeight]:
    """Weight of each source, by name; empty unless the method weighs votes.

    Args:
        names: Of the sources, in the order given.
        method: How they are fused.
        given: One number per source.
        measured: In their place, what each source reached in validation: a
            ``metrics.json``, a run or a folder of runs per source. The weights are the
            mean Dice of each structure.

    Raises:
        SettingsError: Weights are lacking, given twice, unused, not as many as sources,
            or one is not above 0.
        EvaluationError: A ``metrics.json`` is absent or damaged.
    """
    if method != "weighted":
        if given is not None or measured is not None:
            raise SettingsError(
                f"weights are given, but {method} does not use them; leave them out, "
                "or add --method weighted"
            )
        return {}
    if (given is None) == (measured is None):
        raise SettingsError(
            "a weighted vote needs the weight of each source: give --weights 0.9,0.8 "
            "or --weights-from with a metrics.json each, and not both"
        )
    if given is not None:
        require_weights(given, names)
        return dict(zip(names, given, strict=True))
    return _validated(names, measured or ())


def _validated(
    names: Sequence[str], measured: Sequence[Path]
) -> dict[str, SourceWeight]:
    if len(measured) != len(names):
        raise SettingsError(
            f"{len(measured)} files of validated Dice are given for {len(names)} "
            "sources; give one each, in the same order"
        )
    weights: dict[str, dict[str, float]] = {}
    for name, path in zip(names, measured, strict=True):
        evaluation = read_measured(path)
        dice = {one: evaluation.mean(one, "dice") for one in evaluation.structures}
        useless = [one for one, value in dice.items() if not value > 0]
        if useless or not dice:
            raise SettingsError(
                f"{path} gives {name} no Dice above 0 for {listed(useless) or 'any'}; "
                "leave the source out, or give numbers with --weights"
            )
        weights[name] = dice
    first = sorted(weights[names[0]])
    for name, own in weights.items():
        if sorted(own) != first:
            raise SettingsError(
                f"the validated structures differ: {names[0]} has {first}, {name} has "
                f"{sorted(own)}; measure the same of all"
            )
    return {**weights}


def weight_of_labels(weight: SourceWeight) -> Weight:
    """Weight of a source's votes in label maps.

    Structures whose names are values of labels (as `foveal.evaluate` calls them without
    a data set) weigh apart; of others, whose values are not known, the mean counts.
    """
    if not isinstance(weight, Mapping):
        return weight
    if all(name.isdecimal() for name in weight):
        return {int(name): value for name, value in weight.items()}
    return sum(weight.values()) / len(weight)


def weight_of_mask(source: str, weight: SourceWeight, structure: str) -> float:
    """Weight of a source's mask of a structure.

    Raises:
        SettingsError: The structure was not validated.
    """
    if not isinstance(weight, Mapping):
        return weight
    if structure not in weight:
        raise SettingsError(
            f"{source} has no validated Dice of {structure}, only of "
            f"{listed(sorted(weight))}; measure it too, or give one number per source "
            "with --weights"
        )
    return weight[structure]
