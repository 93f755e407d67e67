"""Adaptive training on a few real scans: maps are made, used and resumed from."""

import json
import shutil

import numpy as np
import pytest
from conftest import data_folder
from safetensors.torch import load_file

import foveal
from foveal.commands.fit import Watcher
from foveal.engine.log import read_log

OPTIONS = [
    "network.features=[4,8]",
    "network.kernels=[[3,3,3],[3,3,3]]",
    "network.strides=[[2,2,2]]",
    "patches.size=[32,32,32]",
    "patches.batch_size=2",
    "splits.folds=6",
    "training.threads=1",
    "training.precision=float32",
    "training.memory_layout=contiguous",
    "training.checkpoint_every_seconds=1e-6",
    # One validation at the end, of few patches: whole scans take time on a CPU.
    "training.validate_every_steps=10",
    "prediction.overlap_fraction=0.1",
    "sampling.adaptive=true",
    "sampling.sampler=class_equal",
    "error_maps.refresh=epoch",
    "error_maps.every_steps=4",
    "error_maps.cases_per_refresh=3",
]


@pytest.fixture(scope="module")
def few_cases(tmp_path_factory):
    """Data set of six scans."""
    source = data_folder("hippocampus")
    folder = tmp_path_factory.mktemp("few") / "hippocampus"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    description = json.loads((source / "dataset.json").read_text())
    description["training"] = description["training"][:6]
    description["test"] = []
    for entry in description["training"]:
        for path in (entry["image"], entry["label"]):
            shutil.copy(source / path, folder / path)
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


class KilledError(Exception):
    pass


def test_real_scans_are_trained_on_where_they_err_and_resumed_exactly(
    few_cases, tmp_path
):
    def train(out, **arguments):
        options = [*OPTIONS, f"store={tmp_path / 'store'}"]
        return foveal.train(few_cases, out, steps=10, options=options, **arguments)

    def kill(now):
        if now.step == 7:
            raise KilledError

    run = train(tmp_path / "unbroken")
    with pytest.raises(KilledError):
        train(tmp_path / "killed", watcher=Watcher(on_step=kill))
    foveal.train(few_cases, tmp_path / "killed", resume=True)
    logs = [
        [
            {key: row[key] for key in row if "seconds" not in key}
            for row in read_log(tmp_path / name / "log.jsonl")
        ]
        for name in ("unbroken", "killed")
    ]
    assert logs[0] == logs[1]
    first, second = (
        load_file(tmp_path / name / "checkpoints" / "last.safetensors")
        for name in ("unbroken", "killed")
    )
    assert all((second[name] == tensor).all() for name, tensor in first.items())
    refreshed = [row["cases"] for row in logs[0] if row["kind"] == "refresh"]
    assert [len(cases) for cases in refreshed] == [3, 3]
    told = [row for row in logs[0] if row["kind"] == "step" and row["step"] >= 4]
    assert np.isfinite([row["loss"] for row in told]).all()
    assert all(0 < row["acceptance"] <= 1 for row in told)
    assert any("map_age_steps" in row for row in told)
    assert all(row["patches"]["labelled"] for row in told)
    assert (run / "validation" / "metrics.json").exists()
