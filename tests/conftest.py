"""Fixtures and switches that every test shares."""

import os
import sys
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


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Scans of tests are so small that a second thread waits more than it works.

    Commands set the threads of the whole process, so this holds for what a test
    calls itself; a program that it starts has all processors, as at the user's.
    """
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0})
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
