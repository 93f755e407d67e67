"""Looking for parameters that score best, at random or on a grid; and what is luck.

The thesis determines the parameters of its CRF by random search (sections 3.2.5 and
3.4.1). Bergstra and Bengio 2012, https://jmlr.org/papers/v13/bergstra12a.html, say why:
where few of many parameters matter, a grid tries few values of those.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from numpy.typing import NDArray

Value = float | int | bool | str
Parameters = Mapping[str, Value]


@dataclass(frozen=True)
class Span:
    """Numbers between two, as likely in each octave.

    Raises:
        ValueError: An end is not positive or not finite, or they are the wrong way
            round.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Refuse ends without a logarithm."""
        if not 0 < self.low <= self.high < math.inf:
            raise ValueError(
                f"a search from {self.low} to {self.high} is not possible; both ends "
                "must be above 0, the lower one first"
            )


@dataclass(frozen=True)
class Choice:
    """One of some values, each as likely.

    Raises:
        ValueError: There are none.
    """

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        """Refuse an empty choice."""
        if not self.values:
            raise ValueError("a search among no values is not possible; give one")


Space = Mapping[str, Span | Choice]
"""Parameter to where it is looked for."""


def drawn(space: Space, count: int, seed: int) -> list[dict[str, Value]]:
    """Parameters drawn at random, each independently of the others.

    Args:
        space: Where to look.
        count: How many; more of them begin with the same ones.
        seed: The same one draws the same.
    """
    trials = []
    for number in range(count):
        # One generator per trial: a longer search goes on where a shorter one ended.
        generator = np.random.default_rng([seed, number])
        trials.append({name: _draw(part, generator) for name, part in space.items()})
    return trials


def grid(space: Space, per_span: int) -> list[dict[str, Value]]:
    """Every combination of some values of each parameter; the last changes fastest.

    Args:
        space: Where to look.
        per_span: Values of each span, its ends among them, evenly spaced in octaves;
            one is its middle. Of a choice all values count.

    Raises:
        ValueError: ``per_span`` is below 1.
    """
    if per_span < 1:
        raise ValueError(f"a grid of {per_span} values per parameter is empty; give 1")
    values = [
        part.values if isinstance(part, Choice) else _spread(part, per_span)
        for part in space.values()
    ]
    return [
        dict(zip(space, combination, strict=True))
        for combination in itertools.product(*values)
    ]


def best(scores: Float[NDArray[np.floating], "trial case"]) -> int:
    """Trial of the highest mean; of equal ones the first.

    Args:
        scores: Higher is better; no NaN.
    """
    return int(np.argmax(scores.mean(axis=1)))


def chosen_by_others(
    scores: Float[NDArray[np.floating], "trial case"], groups: Sequence[str]
) -> Int64[NDArray[np.integer], " case"]:
    """For each case, the trial that is best in the cases of the other groups.

    The score of the best trial flatters, as it was chosen on the same cases. That of
    each case in the trial chosen without it does not.

    Args:
        scores: Higher is better; no NaN. A trial "nothing is done" belongs to them if
            doing nothing is a choice; put it first, so that it wins where others are
            only as good.
        groups: Of each case; all cases of a group are left out together. Two or more.

    Raises:
        ValueError: All cases are of one group, so that none is left to choose on.
    """
    if len(set(groups)) < 2:
        raise ValueError("a choice can be checked on cases of two groups or more")
    of_case = np.array(groups)
    choices = np.empty(scores.shape[1], np.int64)
    for group in dict.fromkeys(groups):
        is_out = of_case == group
        choices[is_out] = best(scores[:, ~is_out])
    return choices


def _draw(part: Span | Choice, generator: np.random.Generator) -> Value:
    if isinstance(part, Choice):
        return part.values[int(generator.integers(len(part.values)))]
    low, high = math.log(part.low), math.log(part.high)
    return _rounded(math.exp(generator.uniform(low, high)))


def _spread(part: Span, count: int) -> list[Value]:
    if count == 1:
        return [_rounded(math.sqrt(part.low * part.high))]
    return [
        _rounded(part.low * (part.high / part.low) ** (place / (count - 1)))
        for place in range(count)
    ]


def _rounded(value: float) -> float:
    """To three digits, which a person can read in a file and type again."""
    return float(f"{value:.3g}")
