"""A valid network with a wide pathway, from training to prediction."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from phantoms import write_ball_and_box_dataset
from two_pathways import TwoPathways
from typer.testing import CliRunner

import foveal
from foveal import building
from foveal.cli.main import app
from foveal.commands import preview as preview_command
from foveal.commands.distribution import captured_counts
from foveal.commands.rehearsal import rehearse
from foveal.config.settings import Settings
from foveal.engine.run_directory import RunDirectory
from foveal.errors import SettingsError
from foveal.io.datasets import read_dataset
from foveal.methods.labelled_loss import predicted_labels
from foveal.sampling.samplers import Draw
from foveal.settings_files import read_plan, read_settings

PLUGIN = Path(__file__).parents[1] / "two_pathways.py"

SMALL = [
    "network.name=two_pathways",
    "patches.size=[19, 16, 16]",
    "training.device=cpu",
    "training.precision=float32",
    "training.memory_layout=contiguous",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_ball_and_box_dataset(tmp_path_factory.mktemp("dataset"), num_cases=5)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return foveal.train(
        folder,
        out / "run",
        steps=2,
        options=[*SMALL, f"store={out / 'store'}"],
        plugins=[PLUGIN],
    )


def test_it_trains_validates_and_predicts_whole_cases(run, folder, tmp_path):
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "step"]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    assert (run / "validation" / "metrics.json").exists()
    scan = folder / "imagesTr" / "case_0.nii.gz"
    foveal.predict(run, scan, tmp_path / "case_0.nii.gz", plugins=[PLUGIN])
    predicted = nib.load(tmp_path / "case_0.nii.gz")
    assert predicted.shape == nib.load(scan).shape
    # Unset, the volume is cut as is best; in training patches the answer is the same.
    (model,) = foveal.load_model(run, device="cpu", plugins=[PLUGIN]).models
    assert model.tiles.patch_size is None
    assert model.tiles.margins == TwoPathways(1, 3).margins
    in_patches = replace(model.tiles, patch_size=(19, 16, 16), batch_size=3)
    seen = model.prepared(foveal.read_case(scan))
    answers = [
        torch.cat([rows for _, rows in one.probabilities(seen)], dim=1)
        for one in (model, replace(model, tiles=in_patches))
    ]
    torch.testing.assert_close(*answers, rtol=0, atol=1e-5)


def test_a_valid_2d_network_trains_and_predicts_volumes_slice_by_slice(
    folder, tmp_path
):
    run = foveal.train(
        folder,
        tmp_path / "run",
        steps=1,
        options=[
            *SMALL,
            "network.name=two_pathways_2d",
            "patches.size=[19, 16, 1]",
            "training.memory_layout=channels_last",
            f"store={tmp_path / 'store'}",
        ],
        plugins=[PLUGIN],
    )
    assert len(json.loads((run / "validation" / "metrics.json").read_text())["rows"])


def source_of(run):
    """What makes the training patches of a run."""
    directory = RunDirectory(run)
    settings, plan = read_settings(directory.settings)[0], read_plan(directory.plan)
    parts = building.parts_with([PLUGIN])
    stored = foveal.preprocess(
        read_dataset(settings.dataset), plan, store=settings.store
    )
    (source,) = building.patch_sources(
        settings,
        plan,
        building.method(settings, plan, parts),
        {"labelled": stored},
        rank=0,
        parts=parts,
    ).values()
    return source


def test_borders_are_drawn_and_what_lies_beyond_reads_as_nothing(run):
    source = source_of(run)
    assert source.predicted_size == (9, 6, 6)
    starts = set()
    for step in range(40):
        for patch in source.read(step):
            corner = np.add(patch.corner, 6)
            assert (corner >= 0).all()
            assert (corner + source.predicted_size <= patch.case.shape).all()
            starts.add(corner[0])
            if patch.transform.deformation is not None or patch.corner[0] >= 0:
                continue
            image, labels = patch.box
            beyond = -patch.corner[0]
            assert (image[:, :beyond] == 0).all()
            assert (labels[:beyond] == 255).all()
    assert {0, patch.case.shape[0] - 9} <= starts


def test_the_loss_sees_exactly_the_voxels_that_are_predicted():
    network = TwoPathways(1, 2)
    label_map = torch.arange(19 * 16 * 16).reshape(1, 19, 16, 16)
    inside = predicted_labels(label_map, network)
    assert inside.shape == (1, 9, 6, 6)
    assert inside[0, 0, 0, 0] == label_map[0, 6, 6, 6]
    assert inside[0, -1, -1, -1] == label_map[0, 14, 11, 11]
    # Its first logits depend on the input around the first label, and on no other.
    image = torch.zeros(1, 1, 19, 16, 16, requires_grad=True)
    network(image).logits[0, :, 0, 0, 0].sum().backward()
    touched = image.grad[0, 0].abs().sum(dim=(1, 2)).nonzero().flatten()
    assert (touched.min(), touched.max()) == (0, 6 + 6)


def test_preview_frames_what_is_predicted(run, tmp_path, monkeypatch):
    seen = []
    draw = preview_command.patches_picture
    monkeypatch.setattr(
        preview_command,
        "patches_picture",
        lambda *arguments: (seen.append(arguments), draw(*arguments))[1],
    )
    path = foveal.preview(run, tmp_path / "p.png", plugins=[PLUGIN])
    assert path.stat().st_size > 10_000
    ((title, patches, _, _, _),) = seen
    assert title.endswith("the network predicts what is framed")
    for patch in patches:
        assert {plane: int(mask.sum()) for plane, mask in patch.predicted.items()} == {
            "sagittal": 6 * 6,
            "coronal": 9 * 6,
            "axial": 9 * 6,
        }
        for shown, _ in patch.slices:
            assert shown.image.size > shown.labels[patch.predicted[shown.plane]].size
            assert (shown.labels[~patch.predicted[shown.plane]] == 0).all()


@dataclass
class Volume:
    """What counting classes asks of a case."""

    labels: np.ndarray

    @property
    def shape(self):
        return self.labels.shape

    def read_label_map(self, window):
        return self.labels[window]


class Fixed:
    """Draws given corners in turn, of one case."""

    def __init__(self, corners):
        self.corners = iter(corners)

    def draw(self, cases, patch_size, generator):
        assert tuple(patch_size) == (9, 6, 6)
        return Draw(0, next(self.corners))


def test_captured_classes_by_hand(run):
    source = source_of(run)
    case = Volume(np.zeros((20, 20, 20), np.uint8))
    case.labels[:, :, :2] = 1
    case.labels[9:, :, 0] = 255
    # At the corner: 9 * 6 * 2 of class 1; the same with the slice beyond it ignored:
    # 9 * 6 less; one that begins two voxels before the volume: 7 rows.
    corners = [(0, 0, 0), (9, 0, 0), (-2, 0, 10)]
    counted = captured_counts(
        replace(source, cases=[case], sampler=Fixed(corners)), 3, 3
    )
    background = 9 * 6 * 4 + 9 * 6 * 4 + 7 * 6 * 6
    assert counted.tolist() == [background, 9 * 6 * 2 + 9 * 6, 0]


def test_distribution_is_printed_for_people_and_programs(run):
    runner = CliRunner()
    command = ["preview", str(run), "--plugin", str(PLUGIN), "--distribution", "50"]
    result = runner.invoke(app, [*command, "--set", "sampling.foreground_fraction=1"])
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert (
        "50 patches of 19 x 16 x 16 voxels, of which 9 x 6 x 6 are predicted" in words
    )
    assert re.search(r"ball +. +\d\.\d\d % . +\d\d\.\d\d %", result.output)
    result = runner.invoke(app, [*command, "--json"])
    table = json.loads(result.stdout)
    assert table["predicted_size"] == [9, 6, 6]
    background, ball, box = table["classes"]
    assert background["real_fraction"] > background["captured_fraction"]
    assert ball["real_fraction"] < ball["captured_fraction"]
    for which in ("real_fraction", "captured_fraction"):
        total = sum(one[which] for one in (background, ball, box))
        assert total == pytest.approx(1)
    result = runner.invoke(app, ["preview", str(run), "--json"])
    assert "--json goes with --distribution PATCHES" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["patches.size=[10, 10, 10]"],
            (
                "patches.size does not suit network two_pathways: input (10, 10, 10) "
                "must be (10, 10, 10), the context at the borders, plus multiples of "
                "(3, 3, 3); next larger: (13, 13, 13)"
            ),
        ),
        (["patches.size=[13, 14, 13]"], "next larger: (13, 16, 13)"),
        (
            ["prediction.patch_size=[40, 41, 40]"],
            (
                "prediction.patch_size does not suit network two_pathways: input (40, "
                "41, 40) must be (10, 10, 10), the context at the borders, plus "
                "multiples of (3, 3, 3); next larger: (40, 43, 40)"
            ),
        ),
    ],
)
def test_patches_that_do_not_fit_are_told_with_those_that_do(
    folder, tmp_path, options, message
):
    arguments = [part for option in [*SMALL, *options] for part in ("--set", option)]
    result = CliRunner().invoke(
        app,
        [
            *("train", str(folder), "--out", str(tmp_path / "run"), "--steps", "1"),
            *("--plugin", str(PLUGIN), *arguments),
        ],
    )
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())


def test_pictures_for_a_network_of_volumes_are_told(run):
    plan = read_plan(RunDirectory(run).plan)
    tables = plan.model_dump()
    tables["fingerprint"]["median_shape"] = [300.0, 200.0, 1.0]
    parts = building.parts_with([PLUGIN])
    with pytest.raises(
        SettingsError,
        match=r"two_pathways is 3D, but the cases have one slice; use .*unet2d.*, or "
        r"options with which it takes in one voxel along axis 2, and not 13 or more",
    ):
        rehearse(Settings(), type(plan).model_validate(tables), parts)
