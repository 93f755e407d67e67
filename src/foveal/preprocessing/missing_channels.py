"""Channels that some cases lack, such as a sequence that was not acquired.

They are filled with one value once the others are normalised, in all voxels and beyond
the borders: -4 in Kamnitsas's thesis (Imperial College London 2019, chapter 5), "a very
low value" on the scale of z-scores that no tissue has, so that a network can learn to
tell what is missing. 0 would be the mean of what is there.
"""

from collections.abc import Sequence

from foveal.errors import CaseError, listed

SETTING = "preprocessing.missing_channel_value"


def require_filling(
    missing: Sequence[int], channel_names: Sequence[str], value: float | None
) -> None:
    """Refuse a case that lacks channels where nothing says what takes their place.

    Args:
        missing: Numbers of the channels; may be empty.
        channel_names: Of all channels.
        value: What they are filled with; ``None``: cases must be complete.

    Raises:
        CaseError: Names the channels and the setting.
    """
    if missing and value is None:
        names = listed([channel_names[number] for number in missing])
        raise CaseError(
            f"it lacks the channel(s) {names}; add the files, take the case out of the "
            f'data set, or fill what is missing with a constant: "--set {SETTING}=-4" '
            '(foveal plan: "--missing-channel-value -4")'
        )
