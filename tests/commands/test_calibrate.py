import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_validation import MadeUpCases, made_up_case

from foveal.case import Case
from foveal.commands import calibrate as module
from foveal.commands.calibrate import calibrate, calibrated
from foveal.commands.calibration_record import correlation, read_calibration
from foveal.config.postprocessing import (
    ComponentRuleConfig,
    PostprocessingConfig,
    TemperatureConfig,
)
from foveal.ensembles.fused import Fused
from foveal.ensembles.prediction import predicted
from foveal.errors import EvaluationError
from foveal.geometry import Grid
from foveal.inference.model import Task
from foveal.metrics.calibration import ALL_CLASSES
from foveal.settings_files import read_postprocessing, write_postprocessing

STRUCTURES = {"organ": (1,), "lesion": (2,)}
SHAPE = (10, 9, 8)


def case(number, temperature, patient=None):
    """Truth drawn from probabilities that are then given as at a temperature."""
    generator = np.random.default_rng(number)
    logits = generator.normal(0, 1.5, (3, *SHAPE))
    logits[0] += 1
    true = np.exp(logits) / np.exp(logits).sum(0)
    drawn = generator.random(SHAPE)
    reference = (drawn > true[0]).astype(np.uint8) + (drawn > true[0] + true[1])
    given = np.exp(logits / temperature)
    return made_up_case(
        number,
        given / given.sum(0),
        reference.astype(np.uint8),
        patient=patient or f"p{number}",
        spacing_mm=(1.0, 1.0, 2.0),
        num_cases=8,
    )


def cases(temperature, count=8):
    return MadeUpCases(
        (case(number, temperature) for number in range(count)), STRUCTURES
    )


def test_the_temperature_undoes_what_made_the_network_too_sure():
    record = calibrated(cases(0.5), STRUCTURES)
    assert record.temperature == pytest.approx(2.0, rel=0.1)
    assert record.is_used
    assert record.p_value < 0.01
    for name in ("organ", "lesion", ALL_CLASSES):
        assert record.near.before[name].ece > 0.08
        assert record.near.after[name].ece < 0.05
        assert record.near.after[name].brier < record.near.before[name].brier
        assert record.near.after[name].nll < record.near.before[name].nll
    # Too sure of itself, it expects too much of its masks.
    assert record.correlation("before").mean_error > 0.1
    assert abs(record.correlation("after").mean_error) < 0.03


def test_no_temperature_is_kept_where_probabilities_are_right_already():
    record = calibrated(cases(1.0), STRUCTURES)
    assert record.temperature == pytest.approx(1.0, abs=0.1)
    assert not record.is_used


def test_every_case_is_measured_at_a_temperature_that_other_patients_chose():
    plain = cases(0.5, count=4)
    changed = MadeUpCases([*plain[:3], case(3, 3.0)], STRUCTURES)
    one, other = (calibrated(each, STRUCTURES) for each in (plain, changed))
    assert [fit.case for fit in one.cases] == [f"case_{n}" for n in range(4)]
    # The last case has no part in its own temperature, and has one in the others'.
    assert one.cases[3].temperature == other.cases[3].temperature
    assert one.cases[0].temperature != other.cases[0].temperature


def test_cases_of_one_patient_never_choose_for_one_another():
    first, second = case(0, 0.5, "same"), case(1, 0.5, "same")
    with pytest.raises(EvaluationError, match="are of patient same"):
        calibrated(MadeUpCases([first, second], STRUCTURES), STRUCTURES)


def test_without_foreground_there_is_nothing_to_choose_on():
    empty = case(0, 1.0)
    empty.reference[:] = 0
    empty.probabilities[:] = 0
    empty.probabilities[0] = 1
    with pytest.raises(EvaluationError, match="no validation case has foreground"):
        calibrated(MadeUpCases([empty], STRUCTURES), STRUCTURES)


def test_structures_that_were_not_annotated_do_not_count():
    partly = MadeUpCases(
        (replace(one, annotated=(True, False)) for one in cases(0.5, count=3)),
        STRUCTURES,
    )
    for one in partly:
        one.reference[one.reference == 2] = 0
    record = calibrated(partly, STRUCTURES)
    assert set(record.near.before) == {"organ", ALL_CLASSES}
    assert {pair.structure for pair in record.dice} == {"organ"}
    assert record.temperature == pytest.approx(2.0, rel=0.15)


def test_the_run_keeps_the_temperature_beside_its_other_steps(tmp_path, monkeypatch):
    rule = ComponentRuleConfig(structures=("organ",), keep="largest")
    path = tmp_path / "postprocessing.toml"
    write_postprocessing(path, PostprocessingConfig(components=(rule,)))
    monkeypatch.setattr(module, "ValidationCases", lambda *_, **__: cases(0.5))
    record = calibrate(tmp_path, threads=1)
    kept = read_postprocessing(path)
    assert kept.components == (rule,)
    assert kept.made_of == ("weights",)
    assert kept.temperature.value == pytest.approx(record.temperature, abs=1e-4)
    assert kept.temperature.evidence.score == "nll"
    assert kept.temperature.evidence.cases == tuple(f"case_{n}" for n in range(8))
    assert (
        kept.temperature.evidence.score_after < kept.temperature.evidence.score_before
    )
    assert read_calibration(tmp_path / "validation" / "calibration.json") == record


def test_a_temperature_that_does_not_help_any_more_is_removed(tmp_path, monkeypatch):
    path = tmp_path / "postprocessing.toml"
    old = TemperatureConfig(value=3.0)
    write_postprocessing(path, PostprocessingConfig(temperature=old))
    monkeypatch.setattr(module, "ValidationCases", lambda *_, **__: cases(1.0))
    calibrate(tmp_path, threads=1)
    assert read_postprocessing(path).temperature is None


def test_a_damaged_record_is_refused(tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({"format_version": 1}))
    with pytest.raises(EvaluationError, match="foveal calibrate"):
        read_calibration(path)


def test_correlation_by_hand():
    found = correlation([0.5, 0.6, 0.9], [0.4, 0.8, 0.9])
    assert found.spearman == pytest.approx(1.0)
    assert found.pearson == pytest.approx(np.corrcoef([5, 6, 9], [4, 8, 9])[0, 1])
    assert found.mean_error == pytest.approx(-0.1 / 3)
    assert correlation([0.5, 0.6], [0.1, 0.2]).pearson is None
    assert correlation([0.5, 0.5, 0.5], [0.1, 0.2, 0.3]).spearman is None
    assert correlation([], []).mean_error is None


def test_the_expected_dice_that_is_reported_is_that_of_a_prediction():
    one = case(0, 0.5)
    task = Task(("x",), STRUCTURES, (1, 2), 0, False, "RAS")
    rows = torch.from_numpy(one.probabilities.astype(np.float32))
    rows /= rows.sum(dim=0)
    for temperature in (1.0, 3.0):
        grid = Grid(SHAPE, np.diag([*one.spacing_mm, 1.0]))
        passes = iter([(1.0, iter([(0, rows)]))])
        fused = Fused(passes, 1, task, SHAPE, temperature=temperature)
        told = predicted(fused, Case("a", np.zeros((1, *SHAPE), "f4"), grid), task)
        reported = module._look(one, STRUCTURES, temperature).expected_dice
        for name, facts in told.structures.items():
            assert facts.expected_dice == pytest.approx(reported[name], rel=1e-6)
