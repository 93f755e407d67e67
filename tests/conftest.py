"""Fixtures and switches that every test shares."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A machine that is busy is slow, not wrong.
settings.register_profile("foveal", deadline=None)
settings.load_profile("foveal")

DATA = Path(
    os.environ.get(
        "FOVEAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"
    )
)


def data_folder(name: str) -> Path:
    """Folder of a real data set; the test is skipped where it is absent."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"real scans absent: no folder {folder}; set FOVEAL_DATA")
    return folder
