"""Predict new cases with one run, or with several whose probabilities are averaged."""

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from foveal import build
from foveal.case import Case, CaseFiles
from foveal.commands.plan import usable_threads
from foveal.engine.run_directory import open_run
from foveal.ensembles.members import mean_probabilities, require_agreement
from foveal.errors import CaseError, RunError
from foveal.geometry import reorientation
from foveal.inference.model import Model
from foveal.inference.restore import most_probable
from foveal.io.cases import read_case
from foveal.io.inputs import cases_to_predict
from foveal.io.volumes import volume_ending, write_volume
from foveal.plugins.files import read_plugins
from foveal.plugins.registration import Plugin


def load_model(
    run: Path | str,
    *,
    device: str = "auto",
    plugins: Sequence[Path | str | Plugin] = (),
) -> Model:
    """Load the predictor of a run once, to predict many cases.

    Args:
        run: Folder that `foveal train` wrote.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        plugins: File of the run's network, if a plugin added it; it is run.

    Raises:
        RunError: The folder is no run, or its checkpoint is damaged.
        PluginError: The network is a plugin's, which was not given.
    """
    return build.model(open_run(Path(run)), device, read_plugins(plugins))


def predict(
    runs: Sequence[Path | str],
    inputs: Path | str | Sequence[CaseFiles],
    output: Path | str,
    *,
    probabilities: bool = False,
    device: str = "auto",
    threads: int | None = None,
    plugins: Sequence[Path | str | Plugin] = (),
    on_progress: Callable[[int, int, str], None] | None = None,
) -> list[Path]:
    """Predict every case of an input into a folder of label maps.

    Label maps have the grid, the file format and, for NIfTI, the header codes of the
    case's first channel, and the label values of the training data.

    Args:
        runs: Folders of runs; the probabilities of several are averaged.
        inputs: A volume, a folder of volumes, a data set, or cases.
        output: Folder, made if absent; or a file's name for a single case.
        probabilities: Also write one volume per structure in ``probabilities``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        threads: CPU threads; unset: all.
        plugins: Files of the runs' networks, if plugins added them; they are run.
        on_progress: Told cases done, cases in all and the name of the last.

    Returns:
        The label maps written, in the order of the cases.

    Raises:
        RunError: A run cannot be used, or the runs do not agree.
        CaseError: A case cannot be read, or a prediction would replace something that
            is not one of this input's.
    """
    if not runs:
        raise RunError("no run is given; name at least one folder of a run")
    torch.set_num_threads(threads or usable_threads())
    given = read_plugins(plugins)
    models = [load_model(run, device=device, plugins=given) for run in runs]
    require_agreement(models)
    cases: Sequence[CaseFiles]
    if isinstance(inputs, Path | str):
        cases = cases_to_predict(Path(inputs), len(models[0].recipe.channels))
    else:
        cases = inputs
    targets = _targets(cases, Path(output))
    for done, (files, target) in enumerate(zip(cases, targets, strict=True)):
        if on_progress:
            on_progress(done, len(targets), files.name)
        _predict_case(models, read_case(files), target, probabilities=probabilities)
        if on_progress:
            on_progress(done + 1, len(targets), files.name)
    return targets


def _targets(cases: Sequence[CaseFiles], output: Path) -> list[Path]:
    """One file per case, none of them an input or named twice."""
    if not cases:
        raise CaseError("the input holds no case; give a volume or a folder of them")
    if len(cases) == 1 and output.suffix and not output.is_dir():
        volume_ending(output)
        targets = [output]
    else:
        targets = [
            output / f"{case.name}{volume_ending(case.channels[0].path)}"
            for case in cases
        ]
    repeated = [path for path, count in Counter(targets).items() if count > 1]
    if repeated:
        raise CaseError(
            f"several cases would be written to {repeated[0]}; rename the inputs"
        )
    inputs = {channel.path.resolve() for case in cases for channel in case.channels}
    inputs |= {case.label_map.resolve() for case in cases if case.label_map}
    for target in targets:
        if target.resolve() in inputs:
            raise CaseError(
                f"{target} is an input and would be overwritten; give another output"
            )
    return targets


def _predict_case(
    models: Sequence[Model], case: Case, target: Path, *, probabilities: bool
) -> None:
    """Write the label map and, if asked, one probability volume per structure.

    The probabilities gather in a temporary file, so that memory holds one structure.
    """
    first = models[0]
    rows = mean_probabilities(models, case)
    if not probabilities:
        label_map = most_probable(
            rows, case.grid, first.orientation, first.label_values
        )
        write_volume(target, label_map, case.grid, case.header)
        return
    turn = reorientation(case.grid, first.orientation)
    shape = turn.apply_to_grid(case.grid).shape
    ending = volume_ending(target)
    folder = target.parent / "probabilities"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        gathered = np.memmap(
            file, np.float32, "w+", shape=(len(first.structures), *shape)
        )

        def take_rows(start: int, block: torch.Tensor) -> None:
            gathered[:, start : start + block.shape[1]] = block[1:].numpy()

        label_map = most_probable(
            rows, case.grid, first.orientation, first.label_values, take_rows
        )
        write_volume(target, label_map, case.grid, case.header)
        for structure, values in zip(first.structures, gathered, strict=True):
            name = f"{target.name.removesuffix(ending)}_{structure}{ending}"
            write_volume(folder / name, turn.undo(values), case.grid, case.header)
