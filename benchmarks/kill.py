"""Kill commands at random moments, call them again, and compare with an unbroken run.

Run from the project's root: ``python benchmarks/kill.py``; ``--kills 3`` is a quick
look. Every command is started in a process group of its own, which is killed for good
(SIGKILL) several times on the way to its end. Half of the kills come at a random moment
of the unbroken duration, so they fall in all phases; the other half wait from such a
moment on until a file is being written. In the end all results must be those of the
unbroken run, and no file may be left that it has not.

Linux and macOS only, as Windows has no process groups to kill.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from made_up_cases import SMALLEST_RUN, write_balls

from foveal.engine.checkpoints import load_checkpoint
from foveal.inference.record import RECORD_FILE
from foveal.unfinished import is_unfinished

KILLS_PER_ROUND = 5
"""On the way to one end."""

TENSORBOARD = "tensorboard"
"""Folder whose files have the moment and the process in their names."""

TIMES = re.compile(r"seconds|time|date|started|finished")
"""Names of entries that may differ from one run to the next."""

SMALL = (
    *SMALLEST_RUN,
    "training.validate_every_steps=25",
    "training.checkpoint_every_seconds=0.2",
    "splits.folds=3",
)


@dataclass(frozen=True)
class Command:
    """A command to be killed; every word list begins behind ``foveal``."""

    name: str

    first: Callable[[Path], list[str]]
    """Words in a folder of its own."""

    again: Callable[[Path], list[str]]
    """Words after a kill."""

    phase: Callable[[Path], str]
    """How far it got, from what lies in the folder."""


@dataclass(frozen=True)
class Outcome:
    """One way from the first call to the end."""

    phases: tuple[str, ...]
    """Where the kills fell."""

    attempts: int
    differences: tuple[str, ...]
    strays: tuple[str, ...]


def main() -> None:
    """Run the campaign and print one row per command."""
    arguments = _arguments()
    out = arguments.out or Path(tempfile.mkdtemp(prefix="foveal-kill-"))
    commands = make_commands(out)
    chosen = arguments.only or list(commands)
    is_clean = True
    print(f"kills per command: {arguments.kills}; seed {arguments.seed}; in {out}\n")
    print("command | unbroken | kills | where they fell | attempts | identical | stray")
    print("---|---|---|---|---|---|---")
    for name in chosen:
        seconds, outcomes = campaign(
            commands[name], out / name, arguments.kills, arguments.seed
        )
        phases = Counter(phase for outcome in outcomes for phase in outcome.phases)
        differences = sorted({one for each in outcomes for one in each.differences})
        strays = sorted({one for each in outcomes for one in each.strays})
        is_clean = is_clean and not differences and not strays
        print(
            f"{name} | {seconds:.1f} s | {sum(phases.values())} | "
            + ", ".join(f"{phase} {count}" for phase, count in phases.most_common())
            + f" | {sum(outcome.attempts for outcome in outcomes)} | "
            + (f"no: {differences[:5]}" if differences else "yes")
            + f" | {strays[:5] or 'none'}",
            flush=True,
        )
    if arguments.out is None and is_clean:
        shutil.rmtree(out)
    sys.exit(0 if is_clean else 1)


def make_commands(
    out: Path, num_cases: int = 24, steps: int = 100, num_scans: int = 20
) -> dict[str, Command]:
    """The commands of the campaign, with the data that they need in ``out``.

    Args:
        out: Folder.
        num_cases: To preprocess.
        steps: To train.
        num_scans: To predict.
    """
    few = write_balls(out / "few", num_cases=6, length=24)
    many = write_balls(out / "many", num_cases=num_cases, length=64)
    scans = write_balls(out / "scans", num_cases=num_scans, length=32)
    model = out / "model"
    options = [word for option in SMALL for word in ("--set", option)]

    def train(place: Path, *more: str) -> list[str]:
        store = f"store={place / 'store'}"
        run = str(place / "run")
        return ["train", str(few), "--out", run, *options, "--set", store, *more]

    def train_folds(place: Path) -> list[str]:
        return train(place, "--steps", str(steps // 2), "--fold", "all")

    def preprocess(place: Path) -> list[str]:
        store = str(place / "store")
        return ["preprocess", str(many), "--store", store, "--threads", "2"]

    def resume(place: Path) -> list[str]:
        if not (place / "run" / "settings.toml").exists():
            return train(place, "--steps", str(steps))
        return ["train", str(few), "--out", str(place / "run"), "--resume"]

    def resume_folds(place: Path) -> list[str]:
        if not (place / "run" / "cross_validation.toml").exists():
            return train_folds(place)
        return ["train", str(few), "--out", str(place / "run"), "--resume"]

    def predict(place: Path, *more: str) -> list[str]:
        if not model.exists():
            run_whole(train(out / "of_model", "--steps", "5", "--out", str(model)), out)
        output = str(place / "predictions")
        inputs = str(scans / "imagesTr")
        return ["predict", str(model), inputs, output, "--threads", "1", *more]

    commands = (
        Command("preprocess", preprocess, preprocess, _preprocessing_phase),
        Command(
            "train",
            lambda place: train(place, "--steps", str(steps)),
            resume,
            _training_phase,
        ),
        Command("cross-validation", train_folds, resume_folds, _folds_phase),
        Command(
            "predict",
            predict,
            lambda place: predict(place, "--resume"),
            _prediction_phase,
        ),
    )
    return {command.name: command for command in commands}


def campaign(
    command: Command, folder: Path, kills: int, seed: int
) -> tuple[float, list[Outcome]]:
    """Seconds of the unbroken command, and what became of the killed ones."""
    unbroken = folder / "unbroken"
    shutil.rmtree(folder, ignore_errors=True)
    words = command.first(unbroken)
    start = time.perf_counter()
    run_whole(words, unbroken)
    seconds = time.perf_counter() - start
    expected = results(unbroken)
    draws = random.Random(f"{seed} {command.name}")  # noqa: S311 - no secret
    latest = seconds
    outcomes: list[Outcome] = []
    while kills > 0:
        place = folder / f"round_{len(outcomes)}"
        moments = [
            (draws.uniform(0, latest), draws.random() < 0.5)
            for _ in range(min(KILLS_PER_ROUND, kills))
        ]
        outcomes.append(_killed_on_the_way(command, place, moments, expected))
        kills -= len(outcomes[-1].phases)
        if not outcomes[-1].phases:
            latest *= 0.8  # The machine was slower when the unbroken run was timed.
    return seconds, outcomes


def _killed_on_the_way(
    command: Command,
    place: Path,
    moments: Sequence[tuple[float, bool]],
    expected: Mapping[str, str],
) -> Outcome:
    """Kill at these moments of each attempt, as long as it does not end before."""
    phases = []
    words = command.first(place)
    for seconds, is_at_writing in moments:
        if not kill_after(words, place, seconds, is_at_writing=is_at_writing):
            break
        writing = " (writing)" if _unfinished_files(place) else ""
        phases.append(command.phase(place) + writing)
        words = command.again(place)
    else:
        run_whole(words, place)
    found = results(place)
    common = expected.keys() & found.keys()
    return Outcome(
        phases=tuple(phases),
        attempts=len(phases) + 1,
        differences=tuple(
            sorted(
                [name for name in common if found[name] != expected[name]]
                + [f"{name} missing" for name in expected.keys() - common]
            )
        ),
        strays=tuple(sorted(found.keys() - common)),
    )


def kill_after(
    words: Sequence[str], place: Path, seconds: float, *, is_at_writing: bool
) -> bool:
    """Start a command and kill it; whether it was still running.

    One that ends before must end well.

    Args:
        words: Behind ``foveal``.
        place: Folder in which it works.
        seconds: From the start.
        is_at_writing: From then on, wait until a file is being written.
    """
    environment = _environment(place)
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "foveal", *words],
            stdout=said,
            stderr=said,
            start_new_session=True,
            env=environment,
        )
        start = time.perf_counter()
        while process.poll() is None:
            is_due = time.perf_counter() - start >= seconds
            if is_due and (not is_at_writing or _unfinished_files(place)):
                break
            time.sleep(0.001)
        is_running = process.poll() is None
        if is_running:
            os.killpg(process.pid, signal.SIGKILL)
        elif process.returncode:
            said.seek(0)
            sys.exit(f"foveal {' '.join(words)} failed:\n{said.read()}")
        process.wait()
    return is_running


def run_whole(words: Sequence[str], place: Path) -> None:
    """Run a command to its end, which must be a good one."""
    answer = subprocess.run(
        [sys.executable, "-m", "foveal", *words],
        check=False,
        capture_output=True,
        text=True,
        env=_environment(place),
    )
    if answer.returncode:
        sys.exit(f"foveal {' '.join(words)} failed:\n{answer.stdout}{answer.stderr}")


def _environment(place: Path) -> dict[str, str]:
    """Temporary files of the system are kept in the folder too, where they are seen."""
    temporary = place / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    return {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}


# ---------------------------------------------------------------------- results


def results(place: Path) -> dict[str, str]:
    """Digest of what every file says, by its path; times left out."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.is_dir() or TENSORBOARD in path.relative_to(place).parts:
            continue
        found[name] = hashlib.blake2b(_content(path, place)).hexdigest()
    return found


def _content(path: Path, place: Path) -> bytes:
    if path.suffix == ".safetensors":
        return _checkpoint_content(path)
    content = path.read_bytes()
    if path.suffix == ".jsonl":
        rows = [_without_times(json.loads(line)) for line in content.splitlines()]
        if path.name == RECORD_FILE:
            # Of several lines of a case, the last one counts.
            rows = sorted({row["case"]: row for row in rows}.items())
        return json.dumps(rows).encode()
    if path.suffix == ".json":
        return json.dumps(_without_times(json.loads(content))).encode()
    if path.suffix == ".toml":
        # The checksum covers the folder's own name, which differs.
        content = content[content.index(b"\n") :]
    return content.replace(os.fsencode(place), b"")


def _checkpoint_content(path: Path) -> bytes:
    tensors, state = load_checkpoint(path)
    if path.name == "previous.safetensors":
        # Which step it holds depends on when the last ones were saved.
        return b"sound"
    digest = hashlib.blake2b(json.dumps(state).encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.digest()


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        return {
            name: _without_times(one)
            for name, one in value.items()
            if not TIMES.search(name)
        }
    return [_without_times(one) for one in value] if isinstance(value, list) else value


# ----------------------------------------------------------------------- phases


def _unfinished_files(place: Path) -> list[Path]:
    found = []
    for folder, folders, files in os.walk(place):
        found += [Path(folder, name) for name in folders + files if name[0] == "."]
    return [path for path in found if is_unfinished(path)]


def _preprocessing_phase(place: Path) -> str:
    store = place / "store"
    return "preprocessing" if store.exists() else "start-up and planning"


def _folds_phase(place: Path) -> str:
    begun = sorted((place / "run").glob("fold_*"))
    if not begun:
        return "start-up and planning"
    return f"fold {begun[-1].name[-1]}, {_phase_of_run(begun[-1])}"


def _training_phase(place: Path) -> str:
    return _phase_of_run(place / "run")


def _phase_of_run(run: Path) -> str:
    if not run.exists():
        return "start-up"
    if not (run / "settings.toml").exists():
        return "planning"
    if (run / "validation").exists():
        return "final prediction"
    if (run / "log.jsonl").exists():
        return "steps"
    return "preprocessing"


def _prediction_phase(place: Path) -> str:
    written = list((place / "predictions").glob("[!.]*"))
    return "predicting" if written else "start-up"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30, help="of every command")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", nargs="+", help="commands; all if unset")
    parser.add_argument("--out", type=Path, help="folder that is kept")
    return parser.parse_args()


if __name__ == "__main__":
    main()
