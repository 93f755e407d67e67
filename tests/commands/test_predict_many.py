"""`foveal predict` on folders in which not everything is as it should be."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
from made_up_models import scan, write_run
from typer.testing import CliRunner

import foveal
from foveal.case import Case, CaseFiles, ChannelFile
from foveal.cli.main import app
from foveal.commands import prediction_folder, prediction_stages
from foveal.ensembles.members import Ensemble
from foveal.errors import CaseError, DatasetError, RunError
from foveal.geometry import Grid
from foveal.inference.record import open_record, read_outcomes
from foveal.io.volumes import ITK_ENDINGS, NIFTI_ENDINGS, read_volume, write_volume


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "run", values=(7, 300))


@pytest.fixture
def scans(tmp_path):
    """Three good scans."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for n in range(3):
        write_scan(folder / f"case_{n}.nii.gz", *scan(n))
    return folder


def write_scan(path, image, affine):
    nib.save(nib.Nifti1Image(image, affine), path)


def typed(*words):
    """Exit status and output of the command line."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def named_structures(folder, *names):
    return write_run(folder, plan={"labels": {"names": names, "values": (1, 2)}})


def statuses(outcomes):
    return {outcome.case: outcome.status for outcome in outcomes}


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*.nii.gz")
    }


def test_bad_cases_fail_alone_and_odd_ones_are_suspect(run, scans, tmp_path):
    image, affine = scan(5)
    (scans / "a_empty.nii.gz").write_bytes(b"")
    whole = (scans / "case_0.nii.gz").read_bytes()
    (scans / "b_cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    with_nan = image.copy()
    with_nan[1, 2, 3] = np.nan
    write_scan(scans / "c_nan.nii.gz", with_nan, affine)
    write_scan(scans / "d_two_channels.nii.gz", np.stack([image] * 2, axis=3), affine)
    (scans / "e_text.nii.gz").write_bytes(b"no gzip at all")
    write_scan(scans / "f_constant.nii.gz", np.full_like(image, 3), affine)
    write_scan(scans / "g_coarse.nii.gz", image, affine @ np.diag([3, 1, 1, 1]))
    write_scan(scans / "h_turned.nii.gz", image[::-1], np.diag([1.5, 1.5, 2.0, 1.0]))
    out = tmp_path / "out"
    status, text = typed("predict", run, scans, out, "--threads", 1)
    assert status == 3
    assert "6 label map(s)" in text
    assert "3 of them suspect" in text
    assert "5 case(s) failed" in text
    outcomes = {
        outcome.case: outcome for outcome in read_outcomes(out / "predictions.jsonl")
    }
    assert statuses(outcomes.values()) == {
        **dict.fromkeys(("case_0", "case_1", "case_2"), "done"),
        **dict.fromkeys(
            ("a_empty", "b_cut", "c_nan", "d_two_channels", "e_text"), "failed"
        ),
        **dict.fromkeys(("f_constant", "g_coarse", "h_turned"), "suspect"),
    }
    assert "1 voxels that are NaN" in outcomes["c_nan"].reasons[0]
    assert "2 channels where one was expected" in outcomes["d_two_channels"].reasons[0]
    assert outcomes["f_constant"].reasons == (
        "channel MRI_0 is 3 everywhere: there is nothing to see",
    )
    assert outcomes["g_coarse"].reasons[0] == (
        "spacing from left to right is 4.5 mm; in training it was 1.5 mm"
    )
    assert "stored in the orientation RAS" in outcomes["h_turned"].reasons[0]
    assert "LAS" in outcomes["h_turned"].reasons[0]
    written = {path.name for path in out.iterdir()}
    assert written == {"predictions.jsonl"} | {
        f"{name}.nii.gz"
        for name, outcome in outcomes.items()
        if outcome.status != "failed"
    }


@pytest.mark.parametrize("ending", NIFTI_ENDINGS + ITK_ENDINGS)
def test_every_format_is_predicted_to_the_same_voxels(ending, run, tmp_path):
    image, affine = scan()
    grid = Grid(image.shape, affine)
    write_volume(tmp_path / f"a{ending}", image, grid)
    (outcome,) = foveal.predict(run, tmp_path / f"a{ending}", tmp_path / "out")
    (output,) = outcome.outputs
    written = {".mhd": ".mha", ".seg.nrrd": ".nrrd"}.get(ending, ending)
    assert output.file == f"a{written}"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "predictions.jsonl",
        output.file,
    }
    found = read_volume(tmp_path / "out" / output.file)
    expected = foveal.load_model(run).predict(Case("a", image[None], grid))
    np.testing.assert_array_equal(found.array, expected)
    np.testing.assert_allclose(found.grid.affine, affine, atol=1e-6)
    assert len(np.unique(expected)) > 1
    (again,) = foveal.predict(
        run, tmp_path / f"a{ending}", tmp_path / "out", resume=True
    )
    assert again == outcome


@pytest.mark.parametrize(
    ("ending", "instead"), [(".mhd", "b.mha"), (".seg.nrrd", "b.nrrd")]
)
def test_a_single_output_in_two_files_or_in_slicers_form_is_refused(
    ending, instead, run, scans, tmp_path
):
    with pytest.raises(CaseError, match=f"no prediction is written as.*give {instead}"):
        foveal.predict(run, scans / "case_0.nii.gz", tmp_path / f"b{ending}")


def test_an_ending_in_capitals_is_no_part_of_a_name(run, scans, tmp_path):
    foveal.predict(
        run, scans / "case_0.nii.gz", tmp_path / "A.NII.GZ", probabilities=True
    )
    names = {path.name for path in (tmp_path / "probabilities").rglob("*.nii.gz")}
    assert names == {"ball.nii.gz", "box.nii.gz"}
    assert (tmp_path / "probabilities" / "A").is_dir()


def test_record_tells_what_a_prediction_was_made_from(run, scans, tmp_path):
    out = tmp_path / "out"
    outcomes = foveal.predict(run, scans, out, threads=1)
    lines = (out / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["case"] for line in lines] == [
        "case_0",
        "case_1",
        "case_2",
    ]
    first = json.loads(lines[0])
    assert first["format_version"] == 1
    assert first["foveal"] == foveal.__version__
    assert first["options"] == {"probabilities": False}
    (output,) = first["outputs"]
    assert output["file"] == "case_0.nii.gz"
    assert first["inputs"][0]["file"] == "case_0.nii.gz"
    digest = hashlib.blake2b((scans / "case_0.nii.gz").read_bytes()).hexdigest()
    assert first["inputs"][0]["blake2b"] == digest
    assert first["finished"].endswith("+00:00")
    assert outcomes == read_outcomes(out / "predictions.jsonl")


def test_json_prints_the_records_alone(run, scans, tmp_path):
    result = CliRunner().invoke(
        app, ["predict", str(run), str(scans), str(tmp_path / "out"), "--json"]
    )
    records = json.loads(result.stdout)
    assert [record["status"] for record in records] == ["done"] * 3


def test_nothing_predicted_is_exit_status_one(run, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    (folder / "empty.nii.gz").write_bytes(b"")
    status, text = typed("predict", run, folder, tmp_path / "out")
    assert status == 1
    assert "0 label map(s)" in text


def test_resume_skips_what_is_done_and_tries_again_what_failed(
    run, scans, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    good = (scans / "case_1.nii.gz").read_bytes()
    (scans / "case_1.nii.gz").write_bytes(good[:200])
    assert statuses(foveal.predict(run, scans, out, threads=1))["case_1"] == "failed"
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    (scans / "case_1.nii.gz").write_bytes(good)
    image, affine = scan(9)
    write_scan(scans / "case_3.nii.gz", image, affine)
    read = []

    def counted(files, **options):
        read.append(files.name)
        return foveal.read_case(files, **options)

    monkeypatch.setattr(prediction_stages, "read_case", counted)
    outcomes = foveal.predict(run, scans, out, resume=True, threads=1)
    assert read == ["case_1", "case_3"]
    assert set(statuses(outcomes).values()) == {"done"}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (out / "case_0.nii.gz").unlink()
    foveal.predict(run, scans, out, resume=True, threads=1)
    assert read == ["case_1", "case_3", "case_0"]
    foveal.predict(run, scans, tmp_path / "unbroken", threads=1)
    assert content(out) == content(tmp_path / "unbroken")


def test_changed_input_is_predicted_again_unless_the_prediction_was_edited(
    run, scans, tmp_path
):
    out = tmp_path / "out"
    foveal.predict(run, scans, out, threads=1)
    before = content(out)
    for name in ("case_0", "case_1"):
        write_scan(scans / f"{name}.nii.gz", *scan(12))
    edited = nib.load(out / "case_1.nii.gz")
    write_scan(out / "case_1.nii.gz", np.asarray(edited.dataobj) * 0, edited.affine)
    by_hand = (out / "case_1.nii.gz").read_bytes()
    outcomes = foveal.predict(run, scans, out, resume=True, threads=1)
    assert statuses(outcomes) == {
        "case_0": "done",
        "case_1": "failed",
        "case_2": "done",
    }
    assert "perhaps corrected by hand" in outcomes[1].reasons[0]
    assert "case_1.nii.gz, is still there" in outcomes[1].reasons[1]
    assert (out / "case_1.nii.gz").read_bytes() == by_hand
    assert (out / "case_0.nii.gz").read_bytes() != before["case_0.nii.gz"]


def test_an_older_prediction_is_never_under_the_line_of_a_newer(
    run, scans, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    foveal.predict(run, scans, out, probabilities=True, threads=1)
    write_scan(scans / "case_1.nii.gz", *scan(12))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prediction_stages, "replace_file", killed)
    with pytest.raises(KeyboardInterrupt):
        foveal.predict(run, scans, out, probabilities=True, resume=True, threads=1)
    assert not (out / "case_1.nii.gz").exists()
    monkeypatch.undo()
    foveal.predict(run, scans, out, probabilities=True, resume=True, threads=1)
    foveal.predict(run, scans, tmp_path / "unbroken", probabilities=True, threads=1)
    assert content(out) == content(tmp_path / "unbroken")


def test_a_case_that_fails_now_says_that_its_earlier_prediction_is_kept(
    run, scans, tmp_path
):
    out = tmp_path / "out"
    foveal.predict(run, scans, out, threads=1)
    before = content(out)
    (scans / "case_1.nii.gz").write_bytes(b"")
    outcome = foveal.predict(run, scans, out, resume=True, threads=1)[1]
    assert outcome.status == "failed"
    assert outcome.reasons[1].startswith("an earlier prediction, case_1.nii.gz, is")
    assert content(out) == before


def test_a_folder_with_predictions_needs_resume(run, scans, tmp_path):
    out = tmp_path / "out"
    foveal.predict(run, scans, out, threads=1)
    status, text = typed("predict", run, scans, out)
    assert status == 1
    assert "already holds predictions" in text
    assert "--resume" in text


def test_resume_refuses_other_models_and_options(run, scans, tmp_path):
    out = tmp_path / "out"
    foveal.predict(run, scans, out, threads=1)
    before = content(out)
    other = write_run(tmp_path / "other", seed=1, values=(7, 300))
    with pytest.raises(RunError, match="made with other models"):
        foveal.predict(other, scans, out, resume=True, threads=1)
    with pytest.raises(RunError, match=r"other options .probabilities = False."):
        foveal.predict(run, scans, out, resume=True, probabilities=True, threads=1)
    assert content(out) == before


def test_files_of_the_user_are_never_replaced(run, scans, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "case_1.nii.gz").write_bytes(b"drawn by hand")
    for resume in (False, True):
        with pytest.raises(CaseError, match=r"would be overwritten \(case_1.nii.gz\)"):
            foveal.predict(run, scans, out, resume=resume, threads=1)
    assert [path.name for path in out.iterdir()] == ["case_1.nii.gz"]
    (out / "case_1.nii.gz").unlink()
    (out / "probabilities" / "case_0").mkdir(parents=True)
    (out / "probabilities" / "case_0" / "box.nii.gz").write_bytes(b"mine")
    with pytest.raises(CaseError, match=r"\(box\.nii\.gz\)"):
        foveal.predict(run, scans, out, probabilities=True, threads=1)
    single = tmp_path / "single.nii.gz"
    single.write_bytes(b"mine")
    with pytest.raises(CaseError, match="would be overwritten"):
        foveal.predict(run, scans / "case_0.nii.gz", single, threads=1)


def test_names_that_run_together_are_different_probability_files(scans, tmp_path):
    run = named_structures(tmp_path / "run", "kidney", "left_kidney")
    shutil.copy(scans / "case_0.nii.gz", scans / "case_0_left.nii.gz")
    foveal.predict(run, scans, tmp_path / "out", probabilities=True, threads=1)
    assert len(list((tmp_path / "out" / "probabilities").rglob("*.nii.gz"))) == 8


def test_cases_that_share_an_output_on_some_disks_are_refused(run, scans, tmp_path):
    image = ChannelFile(scans / "case_0.nii.gz")
    cases = [CaseFiles(name, name, (image,)) for name in ("Scan", "scan")]
    with pytest.raises(CaseError, match="would be one file where upper and lower"):
        foveal.predict(run, cases, tmp_path / "out", threads=1)
    outside = [CaseFiles("../scan", "a", (image,))]
    with pytest.raises(DatasetError, match="cannot name files everywhere"):
        foveal.predict(run, outside, tmp_path / "out", threads=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../../evil", "/evil", "BALL", "aux", "a/b"])
def test_structures_of_a_model_never_name_files_elsewhere(name, scans, tmp_path):
    run = named_structures(tmp_path / "run", "ball", name)
    out = tmp_path / "deep" / "er" / "out"
    with pytest.raises(RunError, match="structures of this model cannot name"):
        foveal.predict(run, scans, out, probabilities=True, threads=1)
    assert not out.exists()
    # In a label map they are values only.
    foveal.predict(run, scans, out, threads=1)
    assert not list(tmp_path.rglob("evil*"))


def test_file_drawn_by_hand_for_a_failed_case_is_left_alone(run, scans, tmp_path):
    out = tmp_path / "out"
    (scans / "case_1.nii.gz").write_bytes(b"")
    foveal.predict(run, scans, out, threads=1)
    (out / "case_1.nii.gz").write_bytes(b"drawn by hand")
    with pytest.raises(CaseError, match="would be overwritten"):
        foveal.predict(run, scans, out, resume=True, threads=1)


def test_two_cases_of_one_name_are_refused_before_work(run, scans, tmp_path):
    (scans / "x").mkdir()
    shutil.copy(scans / "case_0.nii.gz", scans / "x" / "y.nii.gz")
    shutil.copy(scans / "case_0.nii.gz", scans / "x_y.nii.gz")
    with pytest.raises(DatasetError, match=r"case name .x_y. stands 2 times"):
        foveal.predict(run, scans, tmp_path / "out", threads=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no such lock on Windows")
def test_a_second_program_in_one_folder_is_refused(run, scans, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with (
        open_record(out / "predictions.jsonl"),
        pytest.raises(RunError, match="another program is predicting"),
    ):
        foveal.predict(run, scans, out, threads=1)


def test_memory_that_runs_out_fails_the_case_only(run, scans, tmp_path, monkeypatch):
    prediction = Ensemble.prediction

    def scarce(self, case, **wishes):
        if case.name == "case_1":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")
        return prediction(self, case, **wishes)

    monkeypatch.setattr(Ensemble, "prediction", scarce)
    outcomes = foveal.predict(run, scans, tmp_path / "out", threads=1)
    assert statuses(outcomes) == {
        "case_0": "done",
        "case_1": "failed",
        "case_2": "done",
    }
    assert "memory ran out" in outcomes[1].reasons[0]


@pytest.mark.parametrize(
    "error", [MemoryError("9 bytes"), CaseError("odd"), OSError(5, "I/O error")]
)
def test_a_case_that_cannot_be_written_fails_alone(
    error, run, scans, tmp_path, monkeypatch
):
    write = prediction_stages.write_volume

    def scarce(path, *rest):
        if path.name.startswith("case_1"):
            raise error
        write(path, *rest)

    monkeypatch.setattr(prediction_stages, "write_volume", scarce)
    outcomes = foveal.predict(run, scans, tmp_path / "out", threads=1)
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "done"]
    assert "case_1.nii.gz" not in content(tmp_path / "out")


def test_what_another_program_predicted_before_the_lock_is_seen(
    run, scans, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    opened = prediction_folder.open_record

    def late(path):
        monkeypatch.undo()
        foveal.predict(run, scans, out, threads=1)
        return opened(path)

    monkeypatch.setattr(prediction_folder, "open_record", late)
    with pytest.raises(RunError, match="already holds predictions"):
        foveal.predict(run, scans, out, threads=1)
    assert len(read_outcomes(out / "predictions.jsonl")) == 3


def test_full_disk_stops_with_what_is_finished_kept(run, scans, tmp_path, monkeypatch):
    out = tmp_path / "out"
    write = prediction_stages.write_volume

    def full(path, *rest):
        if path.name.startswith("case_1"):
            raise OSError(28, "No space left on device")
        write(path, *rest)

    monkeypatch.setattr(prediction_stages, "write_volume", full)
    with pytest.raises(RunError, match=r"No space left.*--resume goes on"):
        foveal.predict(run, scans, out, threads=1)
    assert sorted(path.name for path in out.iterdir()) == [
        "case_0.nii.gz",
        "predictions.jsonl",
    ]
    monkeypatch.undo()
    outcomes = foveal.predict(run, scans, out, resume=True, threads=1)
    assert set(statuses(outcomes).values()) == {"done"}


def test_several_channels_in_one_file_and_a_damaged_one_among_them(tmp_path):
    run = write_run(tmp_path / "run", channels=2)
    folder = tmp_path / "scans"
    folder.mkdir()
    image, affine = scan()
    write_scan(folder / "both.nii.gz", np.stack([image, image], axis=3), affine)
    write_scan(folder / "one.nii.gz", image, affine)
    (folder / "cut.nii.gz").write_bytes(b"")
    outcomes = foveal.predict(run, folder, tmp_path / "out", threads=1)
    assert statuses(outcomes) == {"both": "done", "cut": "failed", "one": "failed"}
    assert "it has 1 channel(s), the plan needs 2" in outcomes[2].reasons[0]
    roles = [one.role for one in outcomes[0].inputs]
    assert roles == ["channel 0", "channel 1"]


def test_folder_of_runs_is_their_average_in_order_of_number(scans, tmp_path):
    folds = tmp_path / "cv"
    for number in (0, 2, 10):
        write_run(folds / f"fold_{number}", seed=number)
    (folds / "notes").mkdir()
    one_by_one = [folds / f"fold_{number}" for number in (0, 2, 10)]
    together = foveal.predict(folds, scans, tmp_path / "together", threads=1)
    apart = foveal.predict(one_by_one, scans, tmp_path / "apart", threads=1)
    assert len(together[0].models) == 3
    assert [one.models for one in together] == [one.models for one in apart]
    assert content(tmp_path / "together") == content(tmp_path / "apart")


@pytest.mark.slow
def test_killed_and_resumed_gives_the_unbroken_result(run, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for n in range(12):
        write_scan(folder / f"case_{n:02d}.nii.gz", *scan(n))
    out = tmp_path / "killed"
    start = [sys.executable, "-m", "foveal", "predict", str(run), str(folder), str(out)]
    start += ["--threads", "1", "--probabilities", "--resume"]
    record = out / "predictions.jsonl"
    process = subprocess.Popen(
        start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if record.exists() and record.read_bytes().count(b"\n") >= 4:
            process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
            break
        time.sleep(0.002)
    process.wait()
    with record.open("ab") as file:
        file.write(b'{"format_version": 1, "case": "case_1')  # as a kill may leave it
    subprocess.run(start, check=True, capture_output=True, env=os.environ)
    foveal.predict(run, folder, tmp_path / "unbroken", probabilities=True, threads=1)
    assert content(out) == content(tmp_path / "unbroken")
    assert len(content(out)) == 12 * 3
    assert sorted(path.name for path in out.iterdir()) == sorted(
        path.name for path in (tmp_path / "unbroken").iterdir()
    )
    assert len(read_outcomes(record)) >= 12


def test_many_scans_do_not_go_into_what_is_named_like_a_file(run, scans, tmp_path):
    with pytest.raises(RunError, match=r"names a file, but there are \d+ cases"):
        foveal.predict(run, scans, tmp_path / "out.nii.gz", threads=1)
    assert not (tmp_path / "out.nii.gz").exists()
