"""Compare systems that predicted the same cases, by their measured values."""

from collections.abc import Sequence
from pathlib import Path

from foveal.commands.out_of_fold import read_measured
from foveal.commands.source_names import distinct_names
from foveal.errors import EvaluationError, SettingsError
from foveal.io.files import atomic_write_bytes, atomic_write_text, require_ending
from foveal.metrics.comparison import COMPARED, Comparison, System, compare_systems
from foveal.reports.differences import draw_differences

RESULT_ENDINGS = (".json", ".png", ".svg")

OWN_FOLDERS = {"metrics.json", "validation"}
"""Parts of a path that say nothing about what was measured."""

Source = Path | str


def compare(
    *systems: Source | Sequence[Source],
    metrics: Sequence[str] = COMPARED,
    names: Sequence[str] | None = None,
    output: Path | None = None,
) -> Comparison:
    """Compare every system with the first, paired by case.

    Args:
        systems: Two or more. Each is a ``metrics.json`` of `foveal.evaluate`, a run, or
            a folder of runs (whose validation cases are put together); or several of
            these, one per seed.
        metrics: Names as in ``metrics.json``.
        names: Of the systems; unset: from their paths.
        output: File for the result: JSON, or a picture (PNG, SVG), by its ending.

    Raises:
        EvaluationError: A source cannot be read, or they differ in cases, structures,
            references or definitions.
        SettingsError: ``names`` are not as many as the systems, or ``output`` ends in
            something else.
    """
    if output is not None:
        require_ending(output, *RESULT_ENDINGS)
    groups = [
        [Path(system)]
        if isinstance(system, Path | str)
        else [Path(source) for source in system]
        for system in systems
    ]
    if not all(groups):
        raise EvaluationError("a system has no evaluation; give at least one file each")
    if names is None:
        names = distinct_names([group[0] for group in groups], OWN_FOLDERS)
    if len(names) != len(groups):
        raise SettingsError(
            f"{len(names)} names are given for {len(groups)} systems; give one each, "
            "in the same order"
        )
    comparison = compare_systems(
        [
            System(name, tuple(read_measured(source) for source in group))
            for name, group in zip(names, groups, strict=True)
        ],
        metrics,
    )
    if output is not None and output.suffix.lower() == ".json":
        atomic_write_text(output, comparison.to_json())
    elif output is not None:
        kind = output.suffix.lower().removeprefix(".")
        atomic_write_bytes(output, draw_differences(comparison, kind))
    return comparison
