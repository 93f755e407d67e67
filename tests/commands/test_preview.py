import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from phantoms import write_ball_and_box_dataset
from typer.testing import CliRunner

import foveal
from foveal import building
from foveal.cli.main import app
from foveal.commands import preview as command
from foveal.commands.cases_of_folds import cases_of
from foveal.commands.fit import Watcher
from foveal.commands.newest_error_maps import with_newest_maps
from foveal.commands.preprocess import preprocess
from foveal.engine.error_maps import ErrorMapFolder
from foveal.engine.run_directory import RunDirectory
from foveal.errors import RunError, SettingsError
from foveal.inference.errors import CaseErrors
from foveal.io.datasets import read_dataset
from foveal.planning.splits import read_splits
from foveal.settings_files import read_plan, read_settings

SMALL = [
    "network.features=[2, 4]",
    "network.kernels=[[3, 3, 3], [3, 3, 3]]",
    "network.strides=[[2, 2, 2]]",
    "patches.size=[16, 16, 12]",
    "training.precision=float32",
    "training.memory_layout=contiguous",
    "training.threads=1",
    "training.device=cpu",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_ball_and_box_dataset(tmp_path_factory.mktemp("dataset"), num_cases=5)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """A run of one step on the data set."""
    out = tmp_path_factory.mktemp("runs")
    return foveal.train(
        folder, out / "run", steps=1, options=[*SMALL, f"store={out / 'store'}"]
    )


@pytest.fixture
def seen(monkeypatch):
    """Everything that is drawn."""
    pictures = []

    def note(title, patches, cases, labels, structures):
        pictures.append((title, patches, cases, labels, structures))
        return b"picture"

    monkeypatch.setattr(command, "patches_picture", note)
    return pictures


def test_the_patches_are_those_of_training_at_that_step(run, tmp_path, seen):
    foveal.preview(run, tmp_path / "preview.png", step=7)
    ((title, patches, _, labels, structures),) = seen
    assert "step 7" in title
    assert labels == {1: "ball", 2: "box"}
    assert structures == {"ball": (1,), "box": (2,)}

    # What training itself takes, every case preprocessed.
    directory = RunDirectory(run)
    settings, plan = read_settings(directory.settings)[0], read_plan(directory.plan)
    dataset = read_dataset(settings.dataset)
    fold = read_splits(directory.splits).folds[0]
    stored = preprocess(dataset, plan, store=settings.store)
    trained_on = {case.name for case in cases_of(dataset, fold.train)}
    labelled = [case for case in stored if case.name in trained_on]
    method = building.method(settings, plan)
    (source,) = building.patch_sources(
        settings, plan, method, {"labelled": labelled}, rank=0
    ).values()
    batch = source.batch(7, source.read(7), torch.device("cpu"))
    assert len(patches) == len(batch.case_names)
    for number, patch in enumerate(patches):
        assert patch.caption.startswith(f"{batch.case_names[number]}, corner ")
        assert ", ".join(map(str, batch.corners[number])) in patch.caption
        image, labels = batch.image[number, 0].numpy(), batch.label_map[number].numpy()
        axial = patch.slices[2][0]
        k = int(np.argmax(((labels != 0) & (labels != 255)).sum(axis=(0, 1))))
        # Rows run to the back and columns to the left: both against RAS.
        assert np.array_equal(axial.image, image[::-1, ::-1, k].T)
        assert np.array_equal(axial.labels, labels[::-1, ::-1, k].T)


def test_a_case_is_preprocessed_when_it_is_asked_for(run, tmp_path):
    directory = RunDirectory(run)
    settings, plan = read_settings(directory.settings)[0], read_plan(directory.plan)
    dataset = read_dataset(settings.dataset)
    store = tmp_path / "store"
    cases = command.CasesOnUse(
        dataset.cases,
        dataset,
        plan,
        settings.model_copy(update={"store": store}),
        Watcher(),
    )
    assert len(cases) == 5
    assert not store.exists()
    assert cases[3].name == "case_3"
    assert cases[3] is cases[3]
    assert len([path for path in store.iterdir() if path.is_dir()]) == 1
    assert [case.name for case in cases[2:4]] == ["case_2", "case_3"]


def test_centres_and_shares_are_those_of_the_draws(run, tmp_path, seen):
    foveal.preview(run, tmp_path / "p.png", options=["sampling.foreground_fraction=1"])
    ((_, _, cases, _, _),) = seen
    for case in cases:
        for seen_through, _ in case.projections:
            assert seen_through.centres.sum() == case.num_draws == 500
            assert set(seen_through.structures) == {1, 2}
        assert case.shares.keys() == {"ball", "box"}
        # Half of the patches are drawn for each, and each shows the other at times.
        assert all(0.4 < share <= 1 for share in case.shares.values())


def test_regions_have_bars_of_their_own(run, tmp_path, seen):
    options = ['labels.regions={"both"=["ball","box"],"box"=["box"]}']
    foveal.preview(run, tmp_path / "p.png", options=options)
    ((_, _, cases, labels, structures),) = seen
    assert labels == {1: "ball", 2: "box"}
    assert structures == {"both": (1, 2), "box": (2,)}
    for case in cases:
        assert case.shares.keys() == {"both", "box"}
        assert 0 < case.shares["box"] <= case.shares["both"] <= 1


def test_a_picture_is_written(folder, tmp_path):
    path = foveal.preview(
        folder, tmp_path / "p.png", options=[*SMALL, f"store={tmp_path / 'store'}"]
    )
    pixels = imread(path)
    assert pixels.ndim == 3
    assert min(pixels.shape[:2]) > 300


def test_a_run_has_its_own_plan_and_its_folds(run, tmp_path):
    with pytest.raises(SettingsError, match="is a run, which has a plan of its own"):
        foveal.preview(run, tmp_path / "p.png", plan=RunDirectory(run).plan)
    with pytest.raises(SettingsError, match=r"splits.fold 9: the run has 5 folds"):
        foveal.preview(run, tmp_path / "p.png", options=["splits.fold=9"])


def test_a_run_whose_plan_is_damaged_is_refused(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    plan = copy / "plan.toml"
    plan.write_bytes(plan.read_bytes().replace(b"size = [16", b"size = [32"))
    with pytest.raises(RunError, match=r"plan\.toml is damaged or was changed"):
        foveal.preview(copy, tmp_path / "p.png")


@pytest.mark.usefixtures("seen")
def test_the_command_says_where_the_picture_is_and_what_is_wrong(run, tmp_path):
    runner = CliRunner()
    path = tmp_path / "p.png"
    result = runner.invoke(app, ["preview", str(run), "-o", str(path), "--step", "2"])
    assert result.exit_code == 0
    assert f"Picture: {path}" in result.output.replace("\n", "")
    assert path.read_bytes() == b"picture"
    result = runner.invoke(app, ["preview", str(tmp_path / "nowhere")])
    assert result.exit_code == 1
    assert "does not exist" in " ".join(result.output.split())


def test_an_adaptive_run_is_shown_with_its_newest_error_maps(run, tmp_path, seen):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    adaptive = ["sampling.adaptive=true", "error_maps.epsilon=0"]
    foveal.preview(copy, tmp_path / "p.png", options=adaptive)
    assert "drawn without error maps, as there are none yet" in seen[-1][0]

    # One voxel of each case is wrong, so every patch is drawn around it.
    directory = RunDirectory(copy)
    settings, plan = read_settings(directory.settings)[0], read_plan(directory.plan)
    stored = preprocess(settings.dataset, plan, store=settings.store)
    cases = {case.name: case for case in stored}
    maps = ErrorMapFolder(directory.error_maps, cases)
    for case in stored:
        error = np.zeros(case.shape, np.uint8)
        middle = tuple(length // 2 for length in case.shape)
        error[middle] = 255
        maps.write(case.name, 4, CaseErrors(error, 1.0, {}))
    foveal.preview(copy, tmp_path / "p.png", options=adaptive)
    title, _, drawn, _, _ = seen[-1]
    assert "drawn by the error maps of step 4" in title
    for case in drawn:
        for projection, _ in case.projections:
            assert projection.centres.max() == 500


@pytest.fixture
def replaced_maps(tmp_path):
    """Maps of a case at steps 1 and 2, of which 1 is in use."""
    image = SimpleNamespace(path=tmp_path / "store" / "content" / "image.tiles")
    case = SimpleNamespace(name="a", shape=(4, 5, 6), image=image)
    maps = ErrorMapFolder(tmp_path / "error_maps", {"a": case})
    for step in (1, 2):
        # Not to be packed, so that damage hits the content.
        error = np.random.default_rng(step).integers(0, 256, case.shape, np.uint8)
        error[0, 0, 0] = step
        maps.write("a", step, CaseErrors(error, 0.5, {}))
    maps.use("a", 1)
    return maps


def value_of(maps):
    found = maps.current("a")
    return None if found is None else found.read([slice(0, 1)] * 3).item()


def test_a_map_that_training_replaces_meanwhile_is_read_anew(replaced_maps):
    told = []
    replaced_maps.delete("a", 1)
    watcher = Watcher(on_stage=told.append)
    found = with_newest_maps(lambda: value_of(replaced_maps), replaced_maps, watcher)
    assert found == 2
    assert told == []


def test_a_damaged_newest_map_is_told_of_and_its_case_is_wrong_everywhere(
    replaced_maps,
):
    told = []
    replaced_maps.use("a", 2)
    path = replaced_maps.path / "cases" / "a" / "step_0000002.tiles"
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    watcher = Watcher(on_stage=told.append)
    found = with_newest_maps(lambda: value_of(replaced_maps), replaced_maps, watcher)
    assert found is None
    (sentence,) = told
    assert f"case a counts as wrong everywhere: {path} is missing" in sentence
