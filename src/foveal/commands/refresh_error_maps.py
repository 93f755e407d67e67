"""The process beside a training that refreshes its error maps.

A command line that needs the folder of the run and nothing else: the settings and the
plan there, and the list of the cases that the training wrote, preprocessed already.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import torch

from foveal import building
from foveal.commands.refreshing import error_map_folder, finder
from foveal.config.settings import Settings
from foveal.engine.concurrent_refreshing import FINISHED_FILE, WEIGHTS_FILE
from foveal.engine.error_map_worker import NewestWeights, Turns, predict_without_end
from foveal.engine.finished_cases import FinishedCases, Kind
from foveal.engine.run_directory import RunDirectory, open_run
from foveal.errors import RunError
from foveal.io.files import atomic_write_text
from foveal.plugins.files import read_plugins
from foveal.plugins.kept import plugins_for_network
from foveal.plugins.parts import Parts
from foveal.settings_files import read_plan, read_settings
from foveal.store.store import Store, StoredCase

CASES_FILE = "cases.json"
"""In the folder of the maps: which cases there are, and where in the store."""

FORMAT_VERSION = 1
"""Of that file."""

NICENESS = 5
"""How much the training comes first where both use the processor: of a core that both
want it gets three quarters."""


def worker_command(
    run: RunDirectory, device: str, threads: int, plugins: Sequence[Path]
) -> list[str]:
    """The command line of the process.

    Args:
        run: Its settings are written.
        device: PyTorch's name.
        threads: Of the processor.
        plugins: Those that the network needs.
    """
    return [
        # -P: a user's file random.py in the current folder is not Python's.
        *(sys.executable, "-P", "-m", "foveal", "refresh-error-maps"),
        *(str(run.path.absolute()), "--device", device, "--threads", str(threads)),
        *(word for path in plugins for word in ("--plugin", str(path))),
    ]


def write_cases(
    run: RunDirectory, training: Sequence[StoredCase], held_out: Sequence[StoredCase]
) -> None:
    """Tell the process which cases to predict."""
    groups = {"training": training, "validation": held_out}
    table = {
        "format_version": FORMAT_VERSION,
        **{
            kind: [
                {
                    "name": case.name,
                    "patient": case.patient,
                    "entry": str(case.image.path.parent.absolute()),
                }
                for case in group
                if case.class_counts
            ]
            for kind, group in groups.items()
        },
    }
    atomic_write_text(run.error_maps / CASES_FILE, json.dumps(table, indent=1))


def refresh_error_maps(
    run_dir: Path | str,
    *,
    device: str,
    threads: int,
    plugins: Sequence[Path | str] = (),
) -> None:
    """Predict the cases of a training until its end, which ends this process too.

    Args:
        run_dir: Of the training, which holds the other end of the standard input.
        device: PyTorch's name of the device to compute on.
        threads: Of the processor.
        plugins: Those that the network needs.

    Raises:
        FovealError: The run, the device or a plugin is not what the training said.
    """
    writing = threading.Lock()
    _end_with_the_training(writing)
    run = open_run(Path(run_dir))
    settings, _ = read_settings(run.settings)
    plan = read_plan(run.plan)
    torch.set_num_threads(threads)
    building.resolved_device(torch.device(device).type)
    if device == "cpu" and sys.platform != "win32":
        os.nice(NICENESS)
    needed = plugins_for_network(run, plan.network.name, read_plugins(plugins))
    network = building.planned_network(plan, Parts(building.BUILT_IN, needed))
    maps = error_map_folder(run, settings, {"labelled": stored_cases(run, "training")})
    validation = {case.name: case for case in stored_cases(run, "validation")}
    finished = FinishedCases(run.error_maps / FINISHED_FILE)
    finished.end_broken_line()
    turns = _turns(settings, [case.name for case in maps.cases], list(validation))
    for one in finished.new():
        turns.add(one.kind, one.case, one.step)
    predict_without_end(
        maps,
        validation,
        finished,
        turns,
        NewestWeights(
            run.error_maps / WEIGHTS_FILE, network.eval().to(torch.device(device))
        ),
        finder(settings, plan, torch.device(device)),
        writing,
    )


def stored_cases(run: RunDirectory, kind: Kind) -> list[StoredCase]:
    """The cases that `write_cases` told of.

    Raises:
        RunError: The list is missing, damaged or of another format.
        CaseError: A case has left the store.
    """
    path = run.error_maps / CASES_FILE
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["format_version"] != FORMAT_VERSION:
            raise RunError(
                f"{path} has format version {table['format_version']}; this Foveal "
                f"reads {FORMAT_VERSION}"
            )
        listed = [
            (Path(row["entry"]), row["name"], row["patient"]) for row in table[kind]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is missing or damaged; only a training that refreshes its error "
            "maps in another process has it, and writes it when it starts"
        ) from error
    return [
        Store(entry.parent).open(entry.name, name=name, patient=patient)
        for entry, name, patient in listed
    ]


def _turns(
    settings: Settings, training: Sequence[str], validation: Sequence[str]
) -> Turns:
    order = settings.error_map_rules.order
    return Turns(
        {"training": training, "validation": validation}, order, settings.training.seed
    )


def _end_with_the_training(writing: threading.Lock) -> None:
    """End this process when its input ends, but for a file that it is writing.

    The training holds the other end, and the system closes it however it ends.
    """
    # The training decides what an interrupt from the keyboard means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait_for_the_end() -> None:
        # Not through Python's buffer, whose lock would be held at exit.
        while os.read(0, 1):
            pass
        with writing:
            os._exit(0)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
