"""The learning rate drops when validation gets no better, also in a resumed run."""

import pytest
from lightning_fabric import Fabric
from made_up import sources, training

from foveal.engine.checkpoints import load_newest
from foveal.engine.log import read_log
from foveal.engine.loop import LoopRules, run_loop
from foveal.engine.plateau import Plateau, PlateauRule

SCORES = [0.5, 0.4, 0.5, 0.6, 0.6, 0.1, 0.2, 0.3]


def test_drops_by_hand():
    plateau = Plateau(PlateauRule(patience=2, drop_factor=0.5))
    factors = []
    for score in SCORES:
        plateau.add(score)
        factors.append(plateau.factor)
    # An equal score is no better one, and after a drop the waiting begins anew.
    assert factors == [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]


class KilledError(Exception):
    pass


def made(seed=5):
    rule = PlateauRule(patience=2, drop_factor=0.5)
    return training(
        Fabric(accelerator="cpu", devices=1), seed, rules_of=lambda _: {"plateau": rule}
    )


def run(run_dir, trained, kill_at=None):
    def on_progress(now):
        if now.step == kill_at:
            raise KilledError

    run_dir.mkdir(exist_ok=True)
    run_loop(
        trained,
        sources(trained.method),
        run_dir,
        LoopRules(
            total_steps=9,
            validate_every_steps=1,
            checkpoint_every_seconds=0.0,
            loader_threads=1,
        ),
        # As a score depends on nothing but the step, so it does in the resumed run.
        validate=lambda _: {"a": ([*SCORES, 0.3])[trained.step - 1]},
        on_progress=on_progress,
    )


@pytest.mark.parametrize("stop", [2, 3])
def test_resumed_run_drops_where_the_unbroken_one_does(tmp_path, stop):
    run(tmp_path / "unbroken", made())
    with pytest.raises(KilledError):
        run(tmp_path / "broken", made(), kill_at=stop)
    resumed = made(seed=6)
    resumed.seed = 5
    tensors, state, _ = load_newest(tmp_path / "broken" / "checkpoints")
    resumed.restore(tensors, state)
    run(tmp_path / "broken", resumed)
    factors = [
        [
            row["learning_rate_factor"]
            for row in read_log(tmp_path / name / "log.jsonl")
            if row["kind"] == "step"
        ]
        for name in ("unbroken", "broken")
    ]
    assert factors[0] == factors[1]
    drops = [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]
    assert factors[0] == pytest.approx([(1 - n / 9) * drops[n] for n in range(9)])


def test_a_validation_without_any_structure_does_not_count():
    trained = made()
    for score in (0.5, None, None, 0.4):
        trained.add_score(score)
    assert trained.snapshot()[1]["plateau"] == {"best": 0.5, "waited": 1, "drops": 0}
