import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from foveal.case import CaseFiles, ChannelFile, Dataset
from foveal.cli.plan import plan as plan_verb
from foveal.commands.plan import plan
from foveal.errors import DatasetError, SettingsError
from foveal.settings_files import read_plan, to_toml


def write_case(folder: Path, name: str, *, label: int = 1, split=None) -> CaseFiles:
    image = np.random.default_rng(0).normal(size=(20, 24, 20)).astype(np.float32)
    label_map = np.zeros(image.shape, np.uint8)
    label_map[8:12, 8:12, 8:12] = label
    paths = []
    for kind, array in (("images", image), ("labels", label_map)):
        path = folder / kind / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
        paths.append(path)
    image_path, label_path = paths
    return CaseFiles(name, name, (ChannelFile(image_path),), label_path, split=split)


def dataset_of(folder: Path, *cases: CaseFiles) -> Dataset:
    return Dataset("made up", folder, cases, ("MRI",), {"lesion": 1})


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(plan_verb)
    return app


def test_a_plan_is_made_and_explained(tmp_path):
    dataset = dataset_of(tmp_path, *(write_case(tmp_path, name) for name in "ab"))
    told = []

    planned = plan(
        dataset,
        device="cpu",
        threads=2,
        memory_gb=4.0,
        on_progress=lambda done, total, _: told.append((done, total)),
    )

    assert planned.plan.patches.size == (20, 24, 20)
    assert planned.plan.fingerprint is not None
    assert planned.plan.fingerprint.num_cases == 2
    assert told == [(1, 2), (2, 2)]
    assert planned.reasons[0].startswith("Data: labelled cases 2, channels MRI")


def test_the_written_file_reads_back_as_the_plan(tmp_path):
    dataset = dataset_of(tmp_path, write_case(tmp_path, "a"))

    planned = plan(dataset, device="cpu", output=tmp_path / "plan.toml")

    assert read_plan(tmp_path / "plan.toml") == planned.plan


def test_an_edited_plan_is_never_overwritten_and_an_equal_one_is_left(tmp_path):
    dataset = dataset_of(tmp_path, write_case(tmp_path, "a"))
    output = tmp_path / "plan.toml"
    planned = plan(dataset, device="cpu", output=output)
    plan(dataset, device="cpu", output=output)
    edited = to_toml(planned.plan).replace("made up", "edited")
    output.write_text(edited, encoding="utf-8")

    with pytest.raises(SettingsError, match=r"plan\.toml exists and differs"):
        plan(dataset, device="cpu", output=output)

    assert output.read_text(encoding="utf-8") == edited


def test_cases_of_the_test_split_are_not_looked_at(tmp_path):
    kept_away = write_case(tmp_path, "t", label=9, split="test")
    dataset = dataset_of(tmp_path, write_case(tmp_path, "a"), kept_away)

    planned = plan(dataset, device="cpu")

    assert planned.plan.fingerprint is not None
    assert planned.plan.fingerprint.num_cases == 1


def test_a_data_set_without_labels_is_refused(tmp_path):
    files = write_case(tmp_path, "a")
    unlabelled = CaseFiles(files.name, files.patient, files.channels)

    with pytest.raises(DatasetError, match="no case has a label map"):
        plan(dataset_of(tmp_path, unlabelled), device="cpu")


def test_the_verb_explains_and_writes(tmp_path, app):
    write_case(tmp_path / "data", "a")
    output = tmp_path / "mine.toml"

    result = CliRunner().invoke(
        app, [str(tmp_path / "data"), "-o", str(output), "--device", "cpu"]
    )

    assert result.exit_code == 0, result.output
    assert "Patch: 20 x 24 x 20 voxels" in result.output
    assert read_plan(output).patches.size == (20, 24, 20)


def test_the_verb_prints_the_plan_as_json(tmp_path, app):
    write_case(tmp_path / "data", "a")
    output = tmp_path / "mine.toml"

    result = CliRunner().invoke(
        app, [str(tmp_path / "data"), "-o", str(output), "--device", "cpu", "--json"]
    )

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == read_plan(output).model_dump(mode="json")


def test_the_verb_fails_with_the_remedy(tmp_path, app):
    write_case(tmp_path / "data", "a")
    output = tmp_path / "mine.toml"
    output.write_text("# mine\n", encoding="utf-8")

    result = CliRunner().invoke(
        app, [str(tmp_path / "data"), "-o", str(output), "--device", "cpu"]
    )

    assert result.exit_code == 1
    assert "choose another file" in " ".join(result.stderr.split())
