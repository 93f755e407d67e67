import errno
import json
import sys

import pytest

from foveal.errors import RunError
from foveal.inference import record as record_module
from foveal.inference.record import (
    InputFile,
    Outcome,
    OutputFile,
    open_record,
    read_outcomes,
)

OUTCOME = Outcome(
    case="a",
    status="suspect",
    outputs=(OutputFile("a.nii.gz", "00"),),
    reasons=("spacing is 9 mm",),
    inputs=(InputFile("channel 0", "a.nii.gz", "ff"),),
    models=("12",),
    options={"probabilities": True},
    device="cpu",
    foveal="1.2.3",
    seconds=1.5,
    finished="2026-01-01T00:00:00+00:00",
)


def test_what_is_added_is_read_again(tmp_path):
    path = tmp_path / "predictions.jsonl"
    for _ in range(2):
        with open_record(path) as record:
            record.append(OUTCOME)
    assert read_outcomes(path) == [OUTCOME, OUTCOME]
    assert json.loads(path.read_text().splitlines()[0])["format_version"] == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no such lock on Windows")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_keeps_records_too(number, tmp_path, monkeypatch):
    def none(*_):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(record_module.fcntl, "flock", none)
    path = tmp_path / "predictions.jsonl"
    with open_record(path) as record:
        record.append(OUTCOME)
    assert read_outcomes(path) == [OUTCOME]


def test_every_cut_of_the_last_line_is_tolerated_and_mended(tmp_path):
    path = tmp_path / "predictions.jsonl"
    with open_record(path) as record:
        record.append(OUTCOME)
    line = path.read_bytes()
    for length in range(len(line)):
        path.write_bytes(line + line[:length])
        assert read_outcomes(path) == [OUTCOME]
    with open_record(path) as record:
        record.append(OUTCOME)
    assert path.read_bytes() == line * 2


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"format_version": 2}', '{"format_version": 1, "case": "a"}']
)
def test_damage_before_the_end_is_named(tmp_path, line):
    path = tmp_path / "predictions.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(RunError, match=r"line 1 of .*predictions.jsonl is damaged"):
        read_outcomes(path)


def test_no_file_is_no_outcome(tmp_path):
    assert read_outcomes(tmp_path / "predictions.jsonl") == []


def test_renamed_inputs_are_the_same_and_other_content_is_not():
    (one,) = OUTCOME.inputs
    assert OUTCOME.is_of([InputFile("channel 0", "other name", "ff")])
    assert not OUTCOME.is_of([InputFile("channel 0", "a.nii.gz", "fe")])
    assert not OUTCOME.is_of([one, InputFile("mask", "m.nii.gz", "00")])
