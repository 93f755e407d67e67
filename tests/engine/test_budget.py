"""Steps and validations that fit a time."""

from hypothesis import given
from hypothesis import strategies as st

from foveal.engine.budget import (
    SAFETY_FRACTION,
    VALIDATIONS,
    fit_to_budget,
    seconds_per_step,
)


def test_without_validation_all_time_is_for_steps():
    fitted = fit_to_budget(100, 0.5, 0)
    assert fitted.steps == int(100 * (1 - SAFETY_FRACTION) / 0.5)


def test_costly_validation_happens_once():
    fitted = fit_to_budget(100, 1.0, 20)
    assert fitted.steps == 78
    assert fitted.validate_every_steps == 78


def test_cheap_validation_happens_ten_times():
    fitted = fit_to_budget(1000, 1.0, 0.1)
    assert fitted.steps == 979
    assert -(-fitted.steps // fitted.validate_every_steps) == VALIDATIONS


@given(
    remaining=st.floats(1, 1e5), step=st.floats(1e-3, 10), validation=st.floats(0, 1e3)
)
def test_time_is_kept_unless_one_step_and_validation_exceed_it(
    remaining, step, validation
):
    fitted = fit_to_budget(remaining, step, validation)
    validations = -(-fitted.steps // fitted.validate_every_steps)
    needed = fitted.steps * step + validations * validation
    assert needed <= max(remaining, step + validation) + 1e-6


def test_probe_leaves_training_as_it_was():
    from lightning_fabric import Fabric
    from made_up import sources, training

    made = training(Fabric(accelerator="cpu", devices=1))
    before, state = made.snapshot()
    patches = sources(made.method)
    batches = (
        {
            name: source.batch(step, source.read(step), made.fabric.device)
            for name, source in patches.items()
        }
        for step in range(20)
    )
    assert seconds_per_step(made, batches, 0.0) > 0
    after, state_after = made.snapshot()
    assert state_after == state
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)
