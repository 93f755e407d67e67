"""CCLP through `foveal train`, with outlines of a few cases only."""

import pytest
from phantoms import write_ball_and_box_dataset
from typer.testing import CliRunner

from foveal.cli.main import app
from foveal.engine.log import read_log

OPTIONS = (
    *("--set", "method.name=cclp", "--set", "network.features=[4,8]"),
    *("--set", "network.kernels=[[3,3,3],[3,3,3]]", "--set", "network.norm=batch"),
    *("--set", "network.strides=[[2,2,2]]", "--set", "patches.size=[8,8,8]"),
    *("--set", "splits.folds=2", "--set", "training.precision=float32"),
    *("--set", "training.memory_layout=contiguous", "--steps", "4"),
    # So small a network may not predict any foreground yet.
    *("--set", "method.background_share=1"),
)


def command(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cclp")
    write_ball_and_box_dataset(folder / "scans", num_cases=4)
    rows = ["case,channels,label_map"]
    images = sorted((folder / "scans" / "imagesTr").glob("*.nii.gz"))
    for number, image in enumerate(images):
        outline = f"scans/labelsTr/{image.name}" if number < 2 else ""
        name = image.name.removesuffix(".nii.gz")
        rows.append(f"{name},scans/imagesTr/{image.name},{outline}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return folder


def train(folder, out, *options):
    return command(
        *("train", folder / "cases.csv", "--out", folder / out),
        *("--set", f"store={folder / 'store'}", *OPTIONS, *options),
    )


def test_cases_without_outlines_are_learned_from(folder):
    status, text = train(folder, "run")
    assert status == 0, text
    log = read_log(folder / "run" / "log.jsonl")
    steps = [row for row in log if row["kind"] == "step"]
    assert len(steps) == 4
    for row in steps:
        assert row["terms"].keys() == {"cross_entropy", "dice", "compact_clusters"}
        assert row["measures"]["labelled_classes"] >= 1
    assert steps[-1]["terms"]["compact_clusters"] > 0
    drawn = [row["measures"].get("unlabelled_voxels", 0) for row in steps]
    assert max(drawn) > 0
    assert (folder / "run" / "validation" / "metrics.json").exists()


def test_a_layer_that_is_not_there_is_refused_before_a_step(folder):
    status, text = train(folder, "other", "--set", "method.layer=last")
    assert status == 1
    assert "method.layer: no layer is called last" in " ".join(text.split())
    assert "encoder.0, encoder.1, decoder.0" in " ".join(text.split())
    assert not (folder / "other" / "log.jsonl").exists()


def test_a_classifier_learns_from_images_of_which_nothing_is_known(folder):
    options = OPTIONS[2:-2]
    status, text = command(
        *("train", folder / "cases.csv", "--out", folder / "classifier", *options),
        *("--set", f"store={folder / 'store'}"),
        *("--set", "method.name=cclp_classification"),
    )
    assert status == 0, text
    log = read_log(folder / "classifier" / "log.jsonl")
    steps = [row for row in log if row["kind"] == "step"]
    assert {tuple(row["terms"]) for row in steps} == {("presence", "compact_clusters")}
    assert all(row["measures"]["labelled_classes"] >= 1 for row in steps)
    assert (folder / "classifier" / "validation" / "presence.json").exists()
    status, text = command("predict", folder / "classifier", folder, folder / "out")
    assert status == 1
    assert "transfer.weights" in text
