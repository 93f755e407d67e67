"""Labels that a run makes of its own for a stream of cases: where, by what, how far."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from foveal import building
from foveal.config.plan import Plan
from foveal.config.settings import Settings
from foveal.engine.label_refreshing import (
    LabellingRules,
    LabellingWatcher,
    LabelRefreshing,
    MakeLabels,
)
from foveal.engine.made_labels import MadeLabels
from foveal.engine.run_directory import RunDirectory
from foveal.inference.made_labels import labels_of_case
from foveal.inference.numerics import apply_layout
from foveal.inference.predict import patch_function
from foveal.methods.interface import Method, Refresh
from foveal.networks.interface import Network
from foveal.store.store import StoredCase


def made_labels(
    run: RunDirectory,
    plan: Plan,
    method: Method,
    cases: Mapping[str, Sequence[StoredCase]],
) -> MadeLabels | None:
    """Where the labels are that a method has made; ``None`` if it has none made.

    Args:
        run: Whose folder ``made_labels`` it is.
        plan: Of the run.
        method: Whose ``refresh`` says what is made.
        cases: To train on, by the names that streams use.
    """
    if method.refresh is None:
        return None
    stream = method.streams[method.refresh.stream]
    return MadeLabels(
        run.made_labels,
        cases[stream.cases],
        plan.labels.num_classes,
        are_soft=method.refresh.are_soft,
    )


def label_maker(
    settings: Settings, plan: Plan, device: torch.device, refresh: Refresh
) -> MakeLabels:
    """Predicts cases as validation does, and makes labels of the probabilities."""

    def make(network: Network, case: StoredCase) -> NDArray[np.uint8]:
        numerics = building.numerics(settings)
        apply_layout(network, numerics.memory_layout)
        return labels_of_case(
            patch_function(network, numerics, device),
            case,
            building.tiles(settings, plan, network),
            plan.labels.num_classes,
            refresh.labels,
        )

    return make


def label_refreshing(
    labels: MadeLabels,
    plan: Plan,
    refresh: Refresh,
    labelled: Sequence[StoredCase],
    make_labels: MakeLabels,
    watcher: LabellingWatcher,
) -> LabelRefreshing:
    """What makes the labels of a run before its first step, and anew.

    Args:
        labels: Of the run.
        plan: Of the run.
        refresh: Of its method.
        labelled: Outlined cases to train on, whose structures must be found.
        make_labels: See `label_maker`.
        watcher: Told of every labelling.
    """
    structures = plan.labels.structures
    rules = LabellingRules(
        every_steps=refresh.every_steps,
        structures=structures,
        expected=[
            name
            for name, classes in structures.items()
            if any(case.class_counts[c] for case in labelled for c in classes)
        ],
        least_share=refresh.least_share,
    )
    return LabelRefreshing(labels, refresh.stream, rules, make_labels, watcher)


def labelling_seconds(
    refresh: Refresh, num_cases: int, case_seconds: float
) -> tuple[float, float]:
    """What labelling costs: before the first step, and per step on average.

    Args:
        refresh: When cases are labelled.
        num_cases: That are, every time.
        case_seconds: Of predicting one.
    """
    seconds = num_cases * case_seconds
    return seconds, seconds / refresh.every_steps if refresh.every_steps else 0.0
