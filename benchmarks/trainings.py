"""What the benchmarks that train have in common: data, runs that go on, scores.

Not a benchmark by itself.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import tomli_w

import foveal
from foveal.engine.log import read_log
from foveal.io.files import atomic_write_text
from foveal.metrics.evaluation import Evaluation


def data_folder(name: str) -> Path:
    """A data set, from ``FOVEAL_DATA`` or beside the project."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FOVEAL_DATA", beside)) / name
    if not folder.is_dir():
        raise SystemExit(f"no folder {folder}; set FOVEAL_DATA")
    return folder


def training_parser(doc: str, budget: float) -> argparse.ArgumentParser:
    """Arguments of a benchmark that trains several things alike.

    Args:
        doc: The script's; its first line is shown.
        budget: Seconds of each training, if none is given.
    """
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=budget, help="seconds each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser


def in_hashed_order(names: Iterable[str]) -> list[str]:
    """An order that has nothing to do with what names say."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def held_out_table(
    data: str,
    num_test: int,
    out: Path,
    *,
    num_validation: int = 0,
) -> Path:
    """A table of a data set in which some cases, fixed by their names, are the test.

    Args:
        data: Folder of the data.
        num_test: Cases.
        out: Folder of the table.
        num_validation: Further cases that the table names for validation.
    """
    folder = data_folder(data)
    names = in_hashed_order(case.name for case in foveal.read_dataset(folder).labelled)
    apart = num_test + num_validation
    return write_table(
        out / f"{data}.toml",
        folder,
        names[:num_test],
        validation=names[num_test:apart],
    )


def write_table(
    path: Path,
    source: Path,
    test: Iterable[str],
    *,
    validation: Iterable[str] = (),
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """A table of a data set in which some cases are the test, the others train.

    Args:
        path: Of the table.
        source: Data set.
        test: Names of cases.
        validation: Names of cases.
        changes: Case to entries that replace or join its own; ``None`` removes one.
    """
    dataset = foveal.read_dataset(source)
    splits = dict.fromkeys(test, "test") | dict.fromkeys(validation, "validation")
    cases = []
    for case in dataset.cases:
        row: dict[str, Any] = {
            "case": case.name,
            "patient": case.patient,
            "channels": [str(channel.path.resolve()) for channel in case.channels],
            "split": splits.get(case.name, "train"),
        }
        if case.label_map is not None:
            row["label_map"] = str(case.label_map.resolve())
        if case.mask is not None:
            row["mask"] = str(case.mask.resolve())
        if case.annotated is not None:
            row["annotated_labels"] = list(case.annotated)
        row |= (changes or {}).get(case.name, {})
        cases.append({key: value for key, value in row.items() if value is not None})
    table: dict[str, Any] = {
        "name": dataset.name,
        "channel_names": list(dataset.channel_names),
        "labels": dataset.label_values,
        "cases": cases,
    }
    if dataset.regions:
        table["regions"] = {name: list(v) for name, v in dataset.regions.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several of a benchmark's processes may share the folder.
    atomic_write_text(path, tomli_w.dumps(table))
    return path


def measured(words: Sequence[object]) -> tuple[float, float]:
    """Run a command of Foveal in a process of its own; seconds and peak gigabytes."""
    command = [sys.executable, "-m", "foveal", *map(str, words)]
    start = time.perf_counter()
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        try:
            memory = process.memory_info()
        except psutil.Error:
            break
        peak = max(peak, getattr(memory, "peak_wset", memory.rss))
        time.sleep(0.02)
    if process.wait() != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - start, peak / 1e9


def trained(
    source: Path,
    run: Path,
    budget_seconds: float | None,
    options: Mapping[str, Any] | Sequence[str],
) -> dict[str, float]:
    """Train, or go on with a training that was cut off, or read what was measured.

    Args:
        source: Data set or settings file.
        run: Folder; the record is the file beside it.
        budget_seconds: Of training; ``None`` where the options say how many steps.
        options: Table and name to value, or as they follow ``--set``.

    Returns:
        Steps, seconds per step, seconds of all steps, and peak gigabytes.
    """
    record = run.with_name(run.name + ".json")
    if record.exists():
        return json.loads(record.read_text())
    words: list[object] = ["train", source, "--out", run]
    if (run / "settings.toml").exists():
        words.append("--resume")
    else:
        if budget_seconds is not None:
            words += ["--budget", f"{budget_seconds:.0f}s"]
        given = (
            [f"{name}={toml_value(value)}" for name, value in options.items()]
            if isinstance(options, Mapping)
            else options
        )
        for option in given:
            words += ["--set", option]
    _, peak = measured(words)
    rows = [row for row in read_log(run / "log.jsonl") if row["kind"] == "step"]
    seconds = sum(row["seconds"] + row["waited_seconds"] for row in rows)
    found = {
        "steps": len(rows),
        "seconds": seconds,
        "seconds_per_step": seconds / len(rows),
        "peak_gb": peak,
    }
    record.write_text(json.dumps(found))
    return found


def trained_alike(
    arguments: argparse.Namespace, table: Path, name: str, options: Mapping[str, Any]
) -> tuple[Path, dict[str, float]]:
    """Train on all cases but the test as the arguments say; the run and its record."""
    run = arguments.out / f"{name}_{arguments.seed}"
    record = trained(
        table,
        run,
        arguments.budget,
        {
            "store": (arguments.out / "store").as_posix(),
            "training.seed": arguments.seed,
            "training.threads": arguments.threads,
            "splits.folds": 1,
            **options,
        },
    )
    return run, record


def num_parameters(run: Path) -> int:
    """Weights of a run's network."""
    network = foveal.load_model(run).models[0].network
    return sum(weights.numel() for weights in network.parameters())


def toml_value(value: object) -> str:
    """A value as it is written after ``--set name=``."""
    return tomli_w.dumps({"v": value}).removeprefix("v = ").strip().replace("\n", "")


def tested(run: Path, table: Path) -> Evaluation:
    """Predict the test cases of a table, unless that is done, and measure them."""
    cases = [case for case in foveal.read_dataset(table).cases if case.split == "test"]
    foveal.predict([run], cases, run / "test", resume=(run / "test").exists())
    return foveal.evaluate(run / "test", table)
