"""Left and right: which structures are pairs, and whether a mirror image is possible.

Names say which structures are pairs; positions confirm them, and show which single
structures (liver, spleen) would end up on the wrong side of a mirrored body.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

SIDED_OFFSET = 0.1
"""A structure further from the midplane than this share of the body's width is on one
side."""

USUAL_SHARE = 0.8
"""Of the cases that must agree before a structure counts as one-sided."""

SIMILAR_VOLUME_RATIO = 1.5

_SIDE_OF_WORD = {
    "left": "left",
    "lt": "left",
    "l": "left",
    "right": "right",
    "rt": "right",
    "r": "right",
}
_WORDS = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+")
_HEART_CHAMBERS = {"atrium", "ventricle"}


@dataclass(frozen=True)
class SidePositions:
    """Where the structures of one case lie between left and right."""

    offsets: Mapping[str, float]
    """Structure to its centroid's distance from the body's midplane, in body widths;
    negative is the patient's left. Absent structures are left out."""

    volumes_ml: Mapping[str, float]


@dataclass(frozen=True)
class Mirroring:
    """What mirrored copies of a patch may look like."""

    axes: tuple[int, ...]
    """Axes that may be mirrored: of a body the sagittal axis 0 or none."""

    left_right_pairs: tuple[tuple[str, str], ...]
    """Structures that change places, left one first."""

    reasons: tuple[str, ...]


def choose_mirroring(names: Sequence[str], cases: Sequence[SidePositions]) -> Mirroring:
    """Decide whether the sagittal axis may be mirrored, and what swaps.

    Mirrored left to right, paired structures change places and midline structures stay.
    A structure that is always on one side and has no partner would make an impossible
    body: its presence turns mirroring off. The other axes are never mirrored: nobody
    is scanned upside down.

    Args:
        names: Structures.
        cases: Positions in the labelled cases.
    """
    pairs = left_right_pairs(names)
    paired = {name for pair in pairs for name in pair}
    unpaired = [name for name in names if name not in paired]
    reasons = []
    if pairs:
        listed = ", ".join(f"{left} and {right}" for left, right in pairs)
        reasons.append(f"Left and right: {listed} are pairs by name")
    else:
        reasons.append("Left and right: no structure is half of a pair by name")
    blocking = [name for name in unpaired if side_of(name) is not None]
    blocking += [
        name for name in unpaired if name not in blocking and _is_one_sided(name, cases)
    ]
    if blocking:
        reasons.append(
            f"Mirroring: off; one side only, without a mirror image to change places "
            f"with: {', '.join(blocking)}"
        )
    else:
        reasons.append(
            "Mirroring: left to right only (axis 0)"
            + ("; the pairs then change places" if pairs else "")
            + "; the other axes are off, as no scan is upside down or back to front"
        )
    reasons += _contradicted_names(pairs, cases)
    reasons += _likely_pairs(unpaired, cases)
    return Mirroring(() if blocking else (0,), pairs, tuple(reasons))


def mirroring_of_pictures(of_bodies: Mirroring) -> Mirroring:
    """Mirroring for pictures, which may be mirrored along both of their axes.

    They need not show a body. Where structures are of one side, in name or in place,
    they do, and what is right for bodies holds.
    """
    if of_bodies.left_right_pairs or not of_bodies.axes:
        return of_bodies
    reason = (
        "Mirroring: left to right and upside down (axes 0 and 1), as no structure of "
        "these pictures keeps to one side"
    )
    warnings = [text for text in of_bodies.reasons if text.startswith("Warning")]
    return Mirroring((0, 1), (), (reason, *warnings))


def left_right_pairs(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Structures whose names differ by their side only, left one first.

    Sides are the words left, right, lt, rt, l, r, in upper or lower case, set apart by
    a separator or a capital, the short ones first or last: ``LeftParotid`` and
    ``Parotid_R`` are a pair, ``L1`` and ``R1`` are not. Chambers of the heart are no
    pair: the left ones are not mirror images of the right ones.
    """
    by_side: dict[str, dict[str, list[str]]] = {"left": {}, "right": {}}
    for name in names:
        sided = _side_and_rest(name)
        if sided is not None and not _is_heart_chamber(sided[1]):
            side, rest = sided
            by_side[side].setdefault(rest, []).append(name)
    # A rest that occurs twice on a side does not say which of the two is meant.
    return tuple(
        (lefts[0], by_side["right"][rest][0])
        for rest, lefts in by_side["left"].items()
        if len(lefts) == len(by_side["right"].get(rest, [])) == 1
    )


def side_of(name: str) -> str | None:
    """``"left"`` or ``"right"`` if a structure's name says so."""
    sided = _side_and_rest(name)
    return None if sided is None else sided[0]


def _is_heart_chamber(rest: str) -> bool:
    words = set(rest.split())
    # The brain's lateral ventricles are mirror images.
    return bool(words & _HEART_CHAMBERS) and "lateral" not in words


def _side_and_rest(name: str) -> tuple[str, str] | None:
    """Side that a name says and its other words, ``None`` if it says no side."""
    # "leftkidney" reads as "left kidney".
    apart = re.sub(r"(?i)\b(left|right)(?=[a-z])", r"\1 ", name)
    words = [word.lower() for word in _WORDS.findall(apart)]
    for n, word in enumerate(words):
        is_outermost = n in (0, len(words) - 1)
        if word in ("left", "right") or (is_outermost and word in _SIDE_OF_WORD):
            return _SIDE_OF_WORD[word], " ".join(words[:n] + words[n + 1 :])
    return None


def _is_one_sided(name: str, cases: Sequence[SidePositions]) -> bool:
    """Whether a structure lies clearly off the midplane on the same side as a rule."""
    offsets = np.array([case.offsets[name] for case in cases if name in case.offsets])
    if len(offsets) == 0:
        return False
    left = np.mean(offsets < -SIDED_OFFSET)
    right = np.mean(offsets > SIDED_OFFSET)
    return bool(max(left, right) >= USUAL_SHARE)


def _contradicted_names(
    pairs: Sequence[tuple[str, str]], cases: Sequence[SidePositions]
) -> list[str]:
    """Warn of pairs whose left structure lies to the right of its partner."""
    warnings = []
    for left, right in pairs:
        both = [case.offsets for case in cases if {left, right} <= case.offsets.keys()]
        swapped = sum(offsets[left] > offsets[right] for offsets in both)
        if swapped:
            warnings.append(
                f"Warning: {left} lies to the patient's right of {right} in {swapped} "
                f"of {len(both)} cases; check these cases' orientation and labels"
            )
    return warnings


def _likely_pairs(unpaired: Sequence[str], cases: Sequence[SidePositions]) -> list[str]:
    """Warn of structures that lie like a pair but are not named like one."""
    warnings = []
    for first, second in combinations(unpaired, 2):
        both = [case for case in cases if {first, second} <= case.offsets.keys()]
        alike = sum(_lie_like_a_pair(case, first, second) for case in both)
        if both and alike >= USUAL_SHARE * len(both):
            warnings.append(
                f"Warning: {first} and {second} lie like a left/right pair in {alike} "
                f"of {len(both)} cases but their names do not say so; if they are one, "
                "add them to mirroring.left_right_pairs and set mirroring.axes = [0]"
            )
    return warnings


def _lie_like_a_pair(case: SidePositions, first: str, second: str) -> bool:
    offsets = case.offsets[first], case.offsets[second]
    volumes = case.volumes_ml[first], case.volumes_ml[second]
    return (
        offsets[0] * offsets[1] < 0
        and min(abs(offsets[0]), abs(offsets[1])) > SIDED_OFFSET
        and abs(offsets[0] + offsets[1]) < SIDED_OFFSET
        and max(volumes) <= SIMILAR_VOLUME_RATIO * min(volumes)
    )
