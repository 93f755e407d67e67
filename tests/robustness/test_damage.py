"""Any file of a run or of the store, cut short or with a byte changed, is never used as
if it were sound: the result is the same, or the file is made anew, or the error names
it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from phantoms import write_ball_and_box_dataset
from typer.testing import CliRunner

import foveal
from foveal.cli.main import app
from foveal.commands.fit import Watcher
from foveal.engine.checkpoints import load_checkpoint
from foveal.engine.log import read_log
from foveal.errors import CaseError, FovealError

STEPS = 12
OPTIONS = [
    "network.features=[4,8]",
    "network.kernels=[[3,3,3],[3,3,3]]",
    "network.strides=[[2,2,2]]",
    "patches.size=[16,16,16]",
    "patches.batch_size=1",
    "training.threads=1",
    "training.precision=float32",
    "training.memory_layout=contiguous",
    "training.validate_every_steps=3",
    "splits.folds=3",
]

FILES_OF_A_RUN = (
    "settings.toml",
    "plan.toml",
    "splits.toml",
    "environment.json",
    "log.jsonl",
    "checkpoints/last.safetensors",
    "checkpoints/previous.safetensors",
    "checkpoints/best.safetensors",
    "checkpoints/last.json",
    "checkpoints/best.json",
)

FILES_OF_AN_ENTRY = (
    "entry.json",
    "image.tiles",
    "label_map.tiles",
    "class_voxels.tiles",
)


def cut(content, generator):
    return content[: generator.integers(len(content))]


def emptied(_content, _generator):
    return b""


def flipped(content, generator):
    changed = bytearray(content)
    changed[generator.integers(len(changed))] ^= 1 << generator.integers(8)
    return bytes(changed)


EMPTIED = [
    (name, emptied)
    for name in ("settings.toml", "log.jsonl", "checkpoints/last.safetensors")
]


def damage(path, how, seed):
    content = path.read_bytes()
    path.write_bytes(how(content, np.random.default_rng(seed)))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data set, its store, a finished run, and the same run stopped half-way."""
    folder = tmp_path_factory.mktemp("damage")
    write_ball_and_box_dataset(folder / "dataset")
    options = [*OPTIONS, f"store={folder / 'store'}"]
    foveal.train(folder / "dataset", folder / "finished", steps=STEPS, options=options)

    def stop(progress):
        if progress.step == STEPS * 2 // 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        foveal.train(
            folder / "dataset",
            folder / "stopped",
            steps=STEPS,
            options=options,
            watcher=Watcher(on_step=stop),
        )
    return folder


@pytest.fixture
def copy(place, tmp_path):
    """Of a run, to be damaged."""

    def copied(name):
        return Path(shutil.copytree(place / name, tmp_path / name))

    return copied


def predicted(run, dataset, output):
    """Exit status, what was printed and the voxels predicted."""
    words = ["predict", run, dataset / "imagesTr" / "case_0.nii.gz", output]
    answer = CliRunner().invoke(app, [str(word) for word in words])
    assert answer.exception is None or isinstance(answer.exception, SystemExit)
    written = output / "case_0.nii.gz"
    voxels = foveal.read_case(written).image if written.exists() else None
    return answer.exit_code, " ".join(answer.output.split()), voxels


@pytest.mark.parametrize("name", FILES_OF_A_RUN)
def test_prediction_is_the_same_or_names_the_damaged_file(place, copy, tmp_path, name):
    run = copy("finished")
    sound = (run / name).read_bytes()
    status, text, expected = predicted(run, place / "dataset", tmp_path / "expected")
    assert status == 0, text

    for seed, how in enumerate([emptied, cut, flipped]):
        (run / name).write_bytes(sound)
        damage(run / name, how, seed)
        output = tmp_path / f"predicted {seed}"
        status, text, voxels = predicted(run, place / "dataset", output)
        if status == 0:
            np.testing.assert_array_equal(voxels, expected)
        else:
            assert status == 1
            assert name.rpartition("/")[2] in text
            assert voxels is None


@pytest.mark.parametrize("how", [emptied, cut, flipped])
@pytest.mark.parametrize("name", ["best.safetensors", "settings.toml", "plan.toml"])
def test_what_prediction_needs_is_refused_with_the_remedy(
    place, copy, tmp_path, name, how
):
    run = copy("finished")
    folder = run / "checkpoints" if name.startswith("best") else run
    # Not in the first line, where a changed word hides the checksum and nothing else.
    content = (folder / name).read_bytes()
    start = content.index(b"\n") + 1 if name.endswith("toml") else 0
    rest = how(content[start:], np.random.default_rng(0))
    (folder / name).write_bytes(content[:start] + rest)

    status, text, _ = predicted(run, place / "dataset", tmp_path / "predicted")

    assert status == 1
    assert f"{name} is damaged" in text
    assert "delete" in text


@pytest.mark.parametrize(
    ("name", "how"), [(name, flipped) for name in FILES_OF_A_RUN] + EMPTIED
)
def test_a_resumed_run_ends_as_the_unbroken_one_or_says_why_not(place, copy, name, how):
    run = copy("stopped")
    damage(run / name, how, seed=1)
    said = []

    try:
        foveal.train(
            place / "dataset", run, resume=True, watcher=Watcher(on_stage=said.append)
        )
    except FovealError as error:
        said.append(str(error))
    if not (run / "validation" / "metrics.json").exists():
        assert name in said[-1]
        return
    for checkpoint in ("last", "best"):
        path = Path("checkpoints") / f"{checkpoint}.safetensors"
        if not (run / path).exists():
            assert any("best.safetensors is damaged" in sentence for sentence in said)
            continue
        expected, state = load_checkpoint(place / "finished" / path)
        found, found_state = load_checkpoint(run / path)
        if name.endswith("best.safetensors") and checkpoint == "best":
            continue  # The best of the validations that were left.
        assert all(tensor.equal(found[key]) for key, tensor in expected.items())
        assert state["step"] == found_state["step"]
    assert (run / "validation" / "metrics.json").exists()
    if name.endswith("last.safetensors"):
        assert any("going on from the checkpoint before it" in one for one in said)


def test_a_best_checkpoint_that_was_deleted_gives_way_to_the_last(
    place, copy, tmp_path
):
    run = copy("finished")
    (run / "checkpoints" / "best.safetensors").unlink()
    status, text, _ = predicted(run, place / "dataset", tmp_path / "predicted")
    assert status == 0, text

    said = []
    watcher = Watcher(on_stage=said.append)
    foveal.train(place / "dataset", run, resume=True, watcher=watcher)

    assert any("best.safetensors does not exist; it is dropped" in one for one in said)


def test_a_damaged_line_of_the_log_is_left_out_with_a_warning(copy, caplog):
    run = copy("finished")
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    lines[4] = "{garbage\n"
    (run / "log.jsonl").write_text("".join(lines) + '{"kind": "st')

    rows = read_log(run / "log.jsonl")

    assert len(rows) == len(lines) - 1
    assert rows[4] == json.loads(lines[5])
    assert "log.jsonl is damaged; left out: lines [5]" in caplog.text


def test_a_resumed_log_has_every_row_once(place, copy):
    run = copy("stopped")
    with (run / "log.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')  # As a kill leaves it.

    foveal.train(place / "dataset", run, resume=True)

    def without_times(folder):
        return [
            {key: value for key, value in row.items() if "seconds" not in key}
            for row in read_log(folder / "log.jsonl")
        ]

    assert without_times(run) == without_times(place / "finished")


@pytest.mark.parametrize("how", [emptied, cut, flipped])
@pytest.mark.parametrize("name", FILES_OF_AN_ENTRY)
def test_a_damaged_entry_is_made_anew(place, tmp_path, name, how):
    store = Path(shutil.copytree(place / "store", tmp_path / "store"))
    dataset, plan = place / "dataset", place / "finished" / "plan.toml"
    expected = contents(foveal.preprocess(dataset, plan, store=store))
    for seed, path in enumerate(sorted(store.glob(f"*/{name}"))):
        damage(path, how, seed)

    for _ in range(7):  # Six cases may each be found damaged once, when read.
        try:
            found = contents(foveal.preprocess(dataset, plan, store=store))
        except CaseError as error:
            assert "was damaged on disk and has been deleted" in str(error)  # noqa: PT017
        else:
            break

    assert found == expected
    assert not list(store.glob(".*"))


def contents(cases):
    found = []
    for case in cases:
        whole = tuple(slice(0, length) for length in case.shape)
        voxels = [case.class_voxel(1, n) for n in range(case.class_counts[1])]
        image, label_map = case.read_image(whole), case.read_label_map(whole)
        grid = case.grid.affine.tolist()
        found.append((image.tobytes(), label_map.tobytes(), voxels, grid))
    return found


@pytest.mark.parametrize("how", [emptied, cut, flipped])
def test_damaged_hashes_of_files_are_found_again(place, tmp_path, how):
    store = Path(shutil.copytree(place / "store", tmp_path / "store"))
    dataset, plan = place / "dataset", place / "finished" / "plan.toml"
    expected = contents(foveal.preprocess(dataset, plan, store=store))
    damage(store / "file_digests.json", how, seed=0)

    assert contents(foveal.preprocess(dataset, plan, store=store)) == expected


@pytest.mark.parametrize("text", ["[]", "3", '{"a": 1}', '{"a": {"state": 1}}'])
def test_hashes_of_another_form_are_found_again(place, tmp_path, text):
    store = Path(shutil.copytree(place / "store", tmp_path / "store"))
    (store / "file_digests.json").write_text(text)

    foveal.preprocess(place / "dataset", place / "finished" / "plan.toml", store=store)

    assert len(json.loads((store / "file_digests.json").read_text())) == 12
