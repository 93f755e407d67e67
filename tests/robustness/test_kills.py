"""A few kills of the campaign in ``benchmarks/kill.py``, which makes many."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

kill = pytest.importorskip("kill", reason="the benchmarks are not there")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform == "win32", reason="Windows has no process groups to kill"
    ),
]


@pytest.mark.parametrize("name", ["preprocess", "train", "predict"])
def test_killed_twice_and_called_again_a_command_ends_as_if_unbroken(tmp_path, name):
    commands = kill.make_commands(tmp_path, num_cases=6, steps=30, num_scans=5)

    _, outcomes = kill.campaign(commands[name], tmp_path / name, kills=2, seed=0)

    assert sum(len(outcome.phases) for outcome in outcomes) == 2
    assert [outcome.differences for outcome in outcomes] == [()] * len(outcomes)
    assert [outcome.strays for outcome in outcomes] == [()] * len(outcomes)
