"""How well a finished classifier tells what the validation cases show."""

import json
from collections.abc import Sequence

import torch

from foveal import build
from foveal.commands.models import stored_model_of
from foveal.engine.run_directory import RunDirectory
from foveal.inference.numerics import apply_layout
from foveal.inference.presence import presence_function, presence_in_cases
from foveal.io.files import atomic_write_text
from foveal.metrics.presence import PresenceScores
from foveal.plugins.parts import Parts
from foveal.store.store import StoredCase


def measure_presence(
    run: RunDirectory, cases: Sequence[StoredCase], device: str, parts: Parts
) -> dict[str, PresenceScores]:
    """Score the best classifier of a run, and write its ``validation/presence.json``.

    Args:
        run: Trained.
        cases: To validate on.
        device: As in the settings.
        parts: Those that the run's plan chooses from.

    Returns:
        Scores per structure.
    """
    stored = stored_model_of(run, parts.plugins)
    plan = stored.plan
    numerics = build.numerics(stored.settings)
    network = build.planned_network(plan, parts)
    network.load_state_dict(stored.weights)
    target = torch.device(build.resolved_device(device))
    apply_layout(network.to(target).eval(), numerics.memory_layout)
    scores = presence_in_cases(
        presence_function(network, build.membership(plan), numerics, target),
        cases,
        build.windows(stored.settings, plan, network),
        plan.labels.structures,
    )
    run.validation.mkdir(exist_ok=True)
    content = {
        "format_version": 1,
        "structures": {name: one.to_json() for name, one in scores.items()},
    }
    atomic_write_text(run.presence, json.dumps(content, indent=2))
    return scores
