"""Weights of other programs, whole and broken."""

import contextlib
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch

from foveal.errors import RunError
from foveal.io.foreign_weights import read_foreign_weights, texts_of_safetensors

WEIGHTS = {"conv1.weight": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(4)}


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) for name in one
    )


def test_both_formats_give_the_weights(tmp_path):
    torch.save(WEIGHTS, tmp_path / "a.pth")
    safetensors.torch.save_file(WEIGHTS, tmp_path / "a.safetensors")
    assert same(read_foreign_weights(tmp_path / "a.pth"), WEIGHTS)
    assert same(read_foreign_weights(tmp_path / "a.safetensors"), WEIGHTS)
    assert texts_of_safetensors(tmp_path / "a.pth") == {}


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": WEIGHTS, "epoch": 3},
        {"model": {f"module.{name}": value for name, value in WEIGHTS.items()}},
    ],
)
def test_what_training_scripts_put_around_weights_is_taken_off(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    assert same(read_foreign_weights(tmp_path / "a.pth"), WEIGHTS)


class Harmful:
    def __reduce__(self):
        return print, ("was run",)


def test_a_pickle_that_is_a_program_is_not_run(tmp_path, capsys):
    torch.save({"conv1.weight": Harmful()}, tmp_path / "a.pth")
    with pytest.raises(RunError, match="more than weights"):
        read_foreign_weights(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(RunError, match=r"more than weights.*state_dict"):
        read_foreign_weights(tmp_path / "b.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([1, 2], "holds a list"),
        ({"epoch": 3}, 'such as "epoch"'),
        ({}, "holds no weights"),
        ({"a": torch.tensor([1.0, float("nan")])}, "not finite, in a"),
    ],
)
def test_other_content_is_refused(tmp_path, content, complaint):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(RunError, match=complaint):
        read_foreign_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04cut"])
def test_damaged_files_are_refused(tmp_path, ending, content):
    (tmp_path / f"a.{ending}").write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        read_foreign_weights(tmp_path / f"a.{ending}")


def test_half_a_file_is_refused(tmp_path):
    for ending, save in (("pth", torch.save), ("st", safetensors.torch.save_file)):
        path = tmp_path / f"a.{ending}"
        save(WEIGHTS, path)
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(RunError, match="damaged"):
            read_foreign_weights(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RunError, match="is no file"):
        read_foreign_weights(tmp_path / "none.pth")


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_told_wherever_the_damage_is(tmp_path, is_zip):
    path = tmp_path / "a.pth"
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=is_zip)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole[: random.integers(1, len(whole))])
        path.write_bytes(damaged)
        with pytest.raises(RunError, match="is damaged"):
            read_foreign_weights(path)
        changed = bytearray(whole)
        changed[random.integers(len(whole))] = random.integers(256)
        path.write_bytes(changed)
        # A byte of a weight's value may change unnoticed.
        with contextlib.suppress(RunError):
            read_foreign_weights(path)
