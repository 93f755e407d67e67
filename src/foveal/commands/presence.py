"""How well a finished classifier tells what the validation cases show."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from foveal import building
from foveal.commands.models import stored_model_of
from foveal.engine.run_directory import RunDirectory
from foveal.errors import EvaluationError
from foveal.inference.numerics import apply_layout
from foveal.inference.presence import presence_function, presence_in_cases
from foveal.io.files import atomic_write_text
from foveal.metrics.presence import PresenceScores
from foveal.plugins.parts import Parts
from foveal.settings_files import read_settings
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
    numerics = building.numerics(stored.settings)
    network = building.planned_network(plan, parts)
    network.load_state_dict(stored.weights)
    target = torch.device(building.resolved_device(device))
    apply_layout(network.to(target).eval(), numerics.memory_layout)
    scores = presence_in_cases(
        presence_function(network, building.membership(plan), numerics, target),
        cases,
        building.windows(stored.settings, plan, network),
        plan.labels.structures,
    )
    run.validation.mkdir(exist_ok=True)
    write_presence(run.presence, scores)
    return scores


def is_classifier(run: RunDirectory) -> bool:
    """Whether a run tells what images show and outlines nothing.

    Of a plugin's method it is known once it was validated.
    """
    settings, _ = read_settings(run.settings)
    known = building.METHODS.get(settings.method.name)
    return run.presence.exists() or (
        known is not None and known.task == "classification"
    )


def write_presence(path: Path, scores: Mapping[str, PresenceScores]) -> None:
    """Keep scores per structure for people and for `read_presence`."""
    content = {
        "format_version": 1,
        "structures": {name: one.to_json() for name, one in scores.items()},
    }
    atomic_write_text(path, json.dumps(content, indent=2))


def read_presence(path: Path) -> dict[str, PresenceScores]:
    """Scores per structure.

    Raises:
        EvaluationError: The file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: PresenceScores.from_json(entries)
            for name, entries in content["structures"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(
            f"{path} is damaged ({error!r}); delete it and go on with foveal train "
            "--resume, which measures again"
        ) from error
