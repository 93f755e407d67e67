"""Landmarks of histograms as JSON, for other runs and for people."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foveal.errors import SettingsError
from foveal.io.files import atomic_write_text

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ChannelLandmarks:
    """What was learned of one channel."""

    channel: str
    """Name, which says the modality."""

    percentiles: tuple[float, ...]
    values: tuple[float, ...]
    """One per percentile."""

    num_cases: int
    """Training cases that they were learned from."""


def write_landmarks(path: Path, channels: Sequence[ChannelLandmarks]) -> None:
    """Write a landmarks file, replacing ``path`` in one step."""
    table = {
        "format_version": FORMAT_VERSION,
        "channels": [asdict(channel) for channel in channels],
    }
    atomic_write_text(path, json.dumps(table, indent=2) + "\n")


def read_landmarks(path: Path, channel: str) -> ChannelLandmarks:
    """Read the landmarks of one channel; whether they increase is not looked at.

    Args:
        path: As `write_landmarks` wrote it.
        channel: Name; landmarks of another modality would spoil its intensities.

    Raises:
        SettingsError: The file is missing or damaged, of a version that this Foveal
            does not know, or has no such channel.
    """
    known = {found.channel: found for found in _read(path)}
    if channel not in known:
        raise SettingsError(
            f'{path} has no landmarks of channel "{channel}", only of '
            f"{', '.join(known)}; landmarks of another channel do not suit it: learn "
            'its own with landmarks = "learn", or give the channel the name that it '
            "has there"
        )
    return known[channel]


def _read(path: Path) -> list[ChannelLandmarks]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"landmarks: {path} cannot be read ({error.strerror}); give the "
            'landmarks.json of a run, or "learn"'
        ) from error
    except ValueError as error:
        raise _damaged(path) from error
    version = table.get("format_version") if isinstance(table, dict) else None
    if isinstance(version, int) and version != FORMAT_VERSION:
        raise SettingsError(
            f"{path} has format version {version}, this Foveal reads "
            f"{FORMAT_VERSION}; install a newer Foveal"
        )
    if version is None or not isinstance(table.get("channels"), list):
        raise _damaged(path)
    return [_channel(path, entry) for entry in table["channels"]]


def _channel(path: Path, entry: Any) -> ChannelLandmarks:  # noqa: ANN401 - any JSON
    try:
        return ChannelLandmarks(
            channel=str(entry["channel"]),
            percentiles=tuple(float(number) for number in entry["percentiles"]),
            values=tuple(float(number) for number in entry["values"]),
            num_cases=int(entry["num_cases"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> SettingsError:
    return SettingsError(
        f"{path} is no landmarks file, or damaged; give the landmarks.json of a run, "
        'copied again, or "learn"'
    )
