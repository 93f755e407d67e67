"""Where a case is unlike the training cases, so that a network may go wrong on it.

A network is only known to work on scans such as it was trained on. What is found here
is no error: the case is predicted all the same, and a person should look at it first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foveal.case import Case
from foveal.config.plan import ChannelConfig, FingerprintConfig
from foveal.config.sections import Range
from foveal.geometry import reorientation
from foveal.planning.fingerprint import ORIENTATION, Quantiles, image_quantiles

SPACING_FACTOR = 1.5
"""Beyond the range of the training cases; augmentation scales patches by 0.7 to 1.4, so
the network has seen structures coarser and finer to about this degree."""

EXTENT_FACTOR = 1.5
"""Beyond the range of the training cases; a scan half as long again shows other anatomy
than any of them, one of two thirds is cut short."""

SMALLEST_MARGIN_FRACTION = 0.1
"""Of the spread of the training intensities: a quantile may lie this far outside its
range, and further where the training cases themselves differ by more. Alone the width
of the range would flag everything after training on cases of one scanner."""

_AXIS_NAMES = ("left to right", "back to front", "feet to head")
_PICTURE_AXIS_NAMES = ("left to right", "top to bottom", "first to last slice")
_QUANTILE_NAMES = ("5th percentile", "median", "95th percentile")


@dataclass(frozen=True)
class Appearance:
    """What one case looks like before anything is done to it; axes as `ORIENTATION`."""

    stored_orientation: str
    spacing_mm: tuple[float, float, float]
    extent_mm: tuple[float, float, float]

    quantiles: tuple[Quantiles, ...]
    """Per channel, see `image_quantiles`."""

    is_constant: tuple[bool, ...]
    """Per channel that there is: every voxel has the same value."""

    missing_channels: tuple[int, ...] = ()
    """Numbers of channels that the case lacks."""


def look_at(case: Case) -> Appearance:
    """Look at a case as read, labelled or not."""
    grid = reorientation(case.grid, ORIENTATION).apply_to_grid(case.grid)
    i, j, k = np.multiply(grid.shape, grid.spacing_mm).tolist()
    return Appearance(
        stored_orientation=case.grid.orientation,
        spacing_mm=grid.spacing_mm,
        extent_mm=(i, j, k),
        quantiles=image_quantiles(case.image),
        is_constant=tuple(
            number not in case.missing_channels and bool(channel.min() == channel.max())
            for number, channel in enumerate(case.image)
        ),
        missing_channels=case.missing_channels,
    )


def departures(
    seen: Appearance,
    usual: FingerprintConfig | None,
    channels: Sequence[ChannelConfig],
) -> list[str]:
    """Say in words and numbers where a case lies outside the training cases.

    Absolute intensities are compared only where the network sees them (CT, or not
    normalised), and only within the window that they are clipped to.

    Args:
        seen: Of the case; as many channels as ``channels``.
        usual: Of the training cases; ``None``: the plan has none, and only images
            without content are found.
        channels: How each channel is normalised.

    Returns:
        One sentence each; empty for a case like those of training.
    """
    reasons = [
        f"channel {channel.name} is {seen.quantiles[n][0]:.4g} everywhere: "
        "there is nothing to see"
        for n, channel in enumerate(channels)
        if seen.is_constant[n]
    ]
    reasons += [
        f"channel {channels[n].name} is missing: the network sees a constant instead"
        for n in seen.missing_channels
    ]
    if usual is None:
        return reasons
    unit = "pixels" if usual.are_pictures else "mm"
    axis_names = _PICTURE_AXIS_NAMES if usual.are_pictures else _AXIS_NAMES
    for what, values, ranges, factor in (
        ("spacing", seen.spacing_mm, usual.spacing_mm_range, SPACING_FACTOR),
        ("extent", seen.extent_mm, usual.extent_mm_range, EXTENT_FACTOR),
    ):
        for axis, value, known in zip(axis_names, values, ranges, strict=True):
            if not known[0] / factor <= value <= known[1] * factor:
                reasons.append(
                    f"{what} from {axis} is {value:.3g} {unit}; in training it was "
                    f"{_range_text(known)} {unit}"
                )
    for n, channel in enumerate(channels):
        is_absolute = (
            channel.normalisation in ("ct", "none") and channel.landmarks is None
        )
        is_seen = not seen.is_constant[n] and n not in seen.missing_channels
        if is_absolute and is_seen:
            reasons += _unusual_intensities(
                channel, seen.quantiles[n], usual.image_quantiles[n]
            )
    if seen.stored_orientation not in usual.orientations:
        reasons.append(
            f"stored in the orientation {seen.stored_orientation}; in training it was "
            f"{' or '.join(usual.orientations)}. It is turned as those were, which is "
            "right if the file says rightly how the patient lay"
        )
    return reasons


def _unusual_intensities(
    channel: ChannelConfig, seen: Quantiles, usual: tuple[Range, Range, Range]
) -> list[str]:
    """Quantiles that differ where the network can see it."""
    low, high = channel.clip or (-np.inf, np.inf)
    ranges = np.clip(usual, low, high)
    spread = float(ranges.max() - ranges.min())
    reasons = []
    for name, value, (lowest, highest), known in zip(
        _QUANTILE_NAMES, seen, ranges.tolist(), usual, strict=True
    ):
        margin = max(highest - lowest, SMALLEST_MARGIN_FRACTION * spread)
        if not lowest - margin <= min(max(value, low), high) <= highest + margin:
            reasons.append(
                f"the {name} of channel {channel.name} is {value:.4g}; in training it "
                f"was {_range_text(known)}"
            )
    return reasons


def _range_text(known: Range) -> str:
    low, high = (f"{value:.4g}" for value in known)
    return low if low == high else f"{low} to {high}"
