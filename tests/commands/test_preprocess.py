from dataclasses import replace

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from foveal.case import CaseFiles, ChannelFile, Dataset
from foveal.cli import preprocess as cli
from foveal.commands import plan as planning
from foveal.commands import preprocess as module
from foveal.commands.preprocess import preprocess
from foveal.config.networks.unet import UNet3dConfig
from foveal.config.plan import (
    ChannelConfig,
    LabelsConfig,
    PatchesConfig,
    Plan,
    PreprocessingConfig,
)
from foveal.errors import CaseError
from foveal.geometry import Grid
from foveal.io.volumes import write_volume
from foveal.settings_files import to_toml

SHAPE = (9, 8, 7)
WHOLE = tuple(slice(0, length) for length in SHAPE)
GRID = Grid(SHAPE, np.eye(4))

PLAN = Plan(
    dataset_name="made up",
    labels=LabelsConfig(names=("liver", "spleen"), values=(5, 9)),
    preprocessing=PreprocessingConfig(
        spacing_mm=(1.0, 1.0, 1.0),
        channels=(ChannelConfig(name="MR", normalisation="zscore"),),
    ),
    patches=PatchesConfig(size=(8, 8, 8), batch_size=1),
    network=UNet3dConfig(),
)


def image_and_labels(seed):
    generator = np.random.default_rng(seed)
    image = generator.normal(100, 20, SHAPE).astype(np.float32)
    return image, generator.choice(np.array([0, 5, 9], np.int16), size=SHAPE)


@pytest.fixture
def dataset(tmp_path):
    """Two labelled cases and an unlabelled one, in folders as a person keeps them."""
    root = tmp_path / "data"
    cases = []
    for n, name in enumerate("abc"):
        image, label_map = image_and_labels(n)
        path = root / "images" / f"{name}.nii.gz"
        write_volume(path, image, GRID)
        labels = None
        if name != "c":
            labels = root / "labels" / f"{name}.nii.gz"
            write_volume(labels, label_map, GRID)
        cases.append(
            CaseFiles(
                name=name,
                patient=f"patient {name}",
                channels=(ChannelFile(path),),
                label_map=labels,
                annotated=("spleen",) if name == "b" else None,
            )
        )
    return Dataset("made up", root, tuple(cases), ("MR",), {"liver": 5, "spleen": 9})


@pytest.fixture
def read_cases(monkeypatch):
    """Names of the cases that were read from their files, as they are."""
    names = []
    read = module.read_case

    def note(files, **options):
        names.append(files.name)
        return read(files, **options)

    monkeypatch.setattr(module, "read_case", note)
    return names


def test_all_cases_are_stored_in_the_order_of_the_data_set(dataset, tmp_path):
    reports = []

    stored = preprocess(
        dataset,
        PLAN,
        store=tmp_path / "store",
        threads=2,
        on_progress=lambda *report: reports.append(report),
    )

    assert [case.name for case in stored] == ["a", "b", "c"]
    assert [case.patient for case in stored] == ["patient a", "patient b", "patient c"]
    assert [bool(case.class_counts) for case in stored] == [True, True, False]
    assert [case.annotated for case in stored] == [None, (False, True), None]
    assert [report[:2] for report in reports] == [(1, 3), (2, 3), (3, 3)]
    assert {report[2] for report in reports} == {"a", "b", "c"}
    image, label_map = image_and_labels(0)
    np.testing.assert_allclose(
        stored[0].read_image(WHOLE)[0], (image - image.mean()) / image.std(), atol=1e-5
    )
    np.testing.assert_array_equal(
        stored[0].read_label_map(WHOLE), np.searchsorted([0, 5, 9], label_map)
    )


def test_cases_that_are_there_are_not_read_again(dataset, tmp_path, read_cases):
    first = preprocess(dataset, PLAN, store=tmp_path / "store")
    assert sorted(read_cases) == ["a", "b", "c"]

    second = preprocess(dataset, PLAN, store=tmp_path / "store")

    assert sorted(read_cases) == ["a", "b", "c"]
    assert [case.image.path for case in first] == [case.image.path for case in second]


def test_what_is_missing_after_a_stop_is_added(dataset, tmp_path, read_cases):
    preprocess(
        replace(dataset, cases=dataset.cases[:2]), PLAN, store=tmp_path / "store"
    )
    del read_cases[:]

    stored = preprocess(dataset, PLAN, store=tmp_path / "store")

    assert read_cases == ["c"]
    assert [case.name for case in stored] == ["a", "b", "c"]


def test_a_stop_keeps_what_was_finished(dataset, tmp_path, read_cases):
    def stop(done, _total, _what):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        preprocess(dataset, PLAN, store=tmp_path / "store", threads=1, on_progress=stop)
    finished = list(read_cases)
    preprocess(dataset, PLAN, store=tmp_path / "store")

    assert sorted(read_cases) == ["a", "b", "c"]
    assert "a" in finished


def test_a_changed_file_and_a_changed_plan_make_new_entries(
    dataset, tmp_path, read_cases
):
    preprocess(dataset, PLAN, store=tmp_path / "store")
    del read_cases[:]

    image, _ = image_and_labels(7)
    write_volume(dataset.cases[1].channels[0].path, image, GRID)
    changed = preprocess(dataset, PLAN, store=tmp_path / "store")
    assert read_cases == ["b"]
    assert changed[1].read_image(WHOLE).mean() == pytest.approx(0, abs=1e-5)

    section = PLAN.preprocessing.model_copy(update={"spacing_mm": (2.0, 2.0, 2.0)})
    coarser = PLAN.model_copy(update={"preprocessing": section})
    stored = preprocess(dataset, coarser, store=tmp_path / "store")
    assert sorted(read_cases) == ["a", "b", "b", "c"]
    assert stored[0].shape == (4, 4, 4)


def test_a_case_of_another_patient_keeps_its_entry_but_not_the_patient(
    dataset, tmp_path, read_cases
):
    preprocess(dataset, PLAN, store=tmp_path / "store")
    del read_cases[:]
    moved = replace(dataset.cases[0], name="z", patient="another")

    (stored,) = preprocess(
        replace(dataset, cases=(moved,)), PLAN, store=tmp_path / "store"
    )

    assert (stored.name, stored.patient) == ("z", "another")
    assert read_cases == []


def test_every_unusable_case_is_named_and_the_others_are_kept(
    dataset, tmp_path, read_cases
):
    wrong_label, missing, sound = dataset.cases
    _, label_map = image_and_labels(0)
    label_map[0, 0, 0] = 77
    write_volume(wrong_label.label_map, label_map, GRID)
    missing.channels[0].path.unlink()

    with pytest.raises(CaseError, match="2 of 3 cases cannot be used") as raised:
        preprocess(dataset, PLAN, store=tmp_path / "store")
    message = str(raised.value)
    assert "case a: label map holds 77 (1 voxels)" in message
    assert "case b: " in message
    assert "b.nii.gz cannot be read (No such file or directory)" in message

    del read_cases[:]
    preprocess(replace(dataset, cases=(sound,)), PLAN, store=tmp_path / "store")
    assert read_cases == []


def test_an_annotated_label_that_the_plan_does_not_know_is_refused(dataset, tmp_path):
    case = replace(dataset.cases[0], annotated=("liver", "tail"))

    with pytest.raises(CaseError, match=r"case a: annotated structures \['tail'\]"):
        preprocess(replace(dataset, cases=(case,)), PLAN, store=tmp_path / "store")


def test_little_memory_means_one_case_at_a_time(monkeypatch):
    monkeypatch.setattr(planning, "available_memory_bytes", lambda: 3e9)
    assert planning.cases_at_once(8) == 1

    monkeypatch.setattr(planning, "available_memory_bytes", lambda: 13e9)
    assert planning.cases_at_once(8) == 3
    assert planning.cases_at_once(2) == 2


def test_the_command_says_where_the_store_is_and_how_many_cases_are_ready(
    dataset, tmp_path
):
    plan = tmp_path / "plan.toml"
    plan.write_text(to_toml(PLAN), encoding="utf-8")
    rows = ["case,channels,label_map"] + [
        f"{case.name},{case.channels[0].path},{case.label_map or ''}"
        for case in dataset.cases
    ]
    table = tmp_path / "cases.csv"
    table.write_text("\n".join(rows), encoding="utf-8")
    app = Typer()
    app.command()(cli.preprocess)

    result = CliRunner().invoke(
        app, [str(table), "--plan", str(plan), "--store", str(tmp_path / "store")]
    )

    assert result.exit_code == 0, result.output
    assert "store: " in result.output
    assert "3 cases are ready" in result.output
    assert len(list((tmp_path / "store").glob("*/entry.json"))) == 3


def test_damaged_entry_is_made_anew(dataset, tmp_path):
    store = tmp_path / "store"
    before = preprocess(dataset, PLAN, store=store)[0].read_image(WHOLE)
    damaged = next(store.rglob("image.tiles"))
    damaged.write_bytes(damaged.read_bytes()[:10])
    after = preprocess(dataset, PLAN, store=store)
    assert damaged.stat().st_size > 10
    np.testing.assert_array_equal(after[0].read_image(WHOLE), before)
