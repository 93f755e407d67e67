"""A full disk and a read-only folder: one clear sentence, and what was there stays."""

import errno
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from phantoms import write_ball_and_box_dataset
from typer.testing import CliRunner

import foveal
from foveal.cli.main import app
from foveal.cli.screen import errors_for_people
from foveal.unfinished import is_unfinished

if sys.platform != "win32":
    import resource

NETWORK = [
    "network.features=[4,8]",
    "network.kernels=[[3,3,3],[3,3,3]]",
    "network.strides=[[2,2,2]]",
    "patches.size=[16,16,16]",
    "training.threads=1",
    "training.precision=float32",
    "training.memory_layout=contiguous",
    "training.validate_every_steps=2",
    "splits.folds=3",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data set, its store, a run and predictions."""
    folder = tmp_path_factory.mktemp("full")
    dataset = write_ball_and_box_dataset(folder / "dataset")
    options = [*NETWORK, f"store={folder / 'store'}"]
    foveal.train(dataset, folder / "run", steps=4, options=options)
    foveal.predict(folder / "run", dataset / "imagesTr", folder / "predictions")
    return folder


def words_of(verb, place, out):
    dataset, run = place / "dataset", place / "run"
    options = [part for option in NETWORK for part in ("--set", option)]
    return {
        "preprocess": ["preprocess", dataset, "--store", out / "store"],
        "train": [
            *("train", dataset, "--out", out / "run", "--steps", "4", *options),
            *("--set", f"store={place / 'store'}"),
        ],
        "resume": ["train", dataset, "--out", out / "run", "--resume"],
        "predict": ["predict", run, dataset / "imagesTr", out / "predictions"],
        "evaluate": [
            *("evaluate", place / "predictions", dataset / "labelsTr"),
            *("-o", out / "metrics.json"),
        ],
        "report": ["report", run, "-o", out / "report.html"],
        "plan": ["plan", dataset, "-o", out / "plan.toml"],
    }[verb]


VERBS = ("preprocess", "train", "resume", "predict", "evaluate", "report", "plan")


def run_command(words):
    """Exit status and what was printed, on one line."""
    answer = CliRunner().invoke(app, [str(word) for word in words])
    if answer.exception and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    return answer.exit_code, " ".join(answer.output.split())


@contextmanager
def files_of_at_most(num_bytes):
    """The system refuses to write more into a file, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def files_in(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize("num_bytes", [0, 3000])
@pytest.mark.parametrize("verb", VERBS)
def test_where_the_disk_ends_does_not_matter(place, tmp_path, verb, num_bytes):
    if verb == "resume":
        shutil.copytree(place / "run", tmp_path / "run")
        (tmp_path / "run" / "validation" / "metrics.json").unlink()
    before = {path: path.read_bytes() for path in files_in(tmp_path)}

    with files_of_at_most(num_bytes):
        status, text = run_command(words_of(verb, place, tmp_path))

    if status == 0:  # Nothing that it writes is larger.
        assert verb in {"plan", "predict", "preprocess"}
        return
    assert status == 1
    assert str(tmp_path) in text
    assert "is kept" in text
    assert not [path for path in tmp_path.rglob("*") if is_unfinished(path)]
    for path, content in before.items():
        assert path.read_bytes() == content or path.suffix in {".jsonl", ".json"}

    words = words_of(verb, place, tmp_path)
    if verb == "train" and (tmp_path / "run" / "settings.toml").exists():
        words = words_of("resume", place, tmp_path)
    if verb == "predict" and (tmp_path / "predictions").exists():
        words = [*words, "--resume"]
    status, text = run_command(words)
    assert status == 0, text


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "resume"])
def test_a_read_only_folder_is_named(place, tmp_path, monkeypatch, verb):
    # Rights do not bind a superuser, so the system's refusal is imitated.
    def refuse(path, *_arguments, **_options):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    words = words_of(verb, place, tmp_path)
    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)

    status, text = run_command(words)

    assert status == 1
    assert str(tmp_path) in text
    assert "ead-only" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "wrong", "remedy"),
    [
        (errno.ENOSPC, "the disk is full", "free some space"),
        (errno.EDQUOT, "your share of the disk is used up", "free some space"),
        (errno.EROFS, "the disk is read-only", "choose another folder"),
        (errno.EACCES, "you may not read or write it", "choose another folder"),
        (errno.EMFILE, "too many files are open", "ulimit -n 4096"),
        (errno.ENAMETOOLONG, "the name is too long", "choose a shorter name"),
    ],
)
def test_what_the_system_refuses_is_said_in_words(capsys, number, wrong, remedy):
    with pytest.raises(BaseException, match="1") as ended, errors_for_people():
        raise OSError(number, "as the system says it", "/data/run/log.jsonl")

    assert ended.type.__name__ == "Exit"
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith(f"error: /data/run/log.jsonl: {wrong} (as the system")
    assert remedy in said


def test_other_errors_of_the_system_keep_their_traceback():
    with pytest.raises(ConnectionResetError, match="reset"), errors_for_people():
        raise ConnectionResetError(errno.ECONNRESET, "reset")
