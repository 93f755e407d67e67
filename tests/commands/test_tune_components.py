import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from made_up_validation import MadeUpCases, made_up_case
from typer.testing import CliRunner

from foveal.cli.main import app
from foveal.commands import tune_components as module
from foveal.commands.tune_components import tune_components, tuned_components
from foveal.config.postprocessing import (
    ComponentRuleConfig,
    PostprocessingConfig,
    TemperatureConfig,
)
from foveal.errors import EvaluationError
from foveal.settings_files import read_postprocessing, write_postprocessing

STRUCTURES = {"liver": (1,), "spleen": (2,)}


@pytest.fixture(autouse=True)
def few_sizes(monkeypatch):
    """Rules enough to choose among, tried in little time."""
    monkeypatch.setattr(module, "SIZES", (0.1,))


def case(number, *, specks=True, is_spleen_divided=False):
    """Two boxes found as they are, and specks of liver elsewhere."""
    reference = np.zeros((16, 14, 12), np.uint8)
    reference[2 : 7 + number % 2, 2:7, 2:7] = 1
    reference[10:14, 2:6, 2:6] = 2
    if is_spleen_divided:
        reference[10:14, 8:12, 2:6] = 2
    found = reference.copy()
    if specks:
        found[number % 3 : 9 : 6, 11, 9] = 1
    probabilities = np.stack([found == n for n in range(3)])
    return made_up_case(
        number,
        probabilities,
        reference,
        patient=f"patient_{number}",
        spacing_mm=(1.0, 1.0, 2.0),
        num_cases=6,
    )


def made_of(cases):
    return MadeUpCases(cases, STRUCTURES)


def cases(count=6, **options):
    return made_of(case(number, **options) for number in range(count))


def test_specks_that_are_never_right_are_removed():
    tuned = tuned_components(cases(), STRUCTURES)
    (rule,) = tuned.rules
    assert rule.structures in {("liver",), ("liver", "spleen")}
    assert rule.smallest_voxels or rule.smallest_ml or rule.keep == "largest"
    assert rule.evidence.p_value == pytest.approx(2 / 2**6)
    assert rule.evidence.score_before < rule.evidence.score_after == 1
    assert len(rule.evidence.cases) == 6
    assert tuned.together.score_after == 1


def test_a_rule_is_not_given_to_a_structure_that_has_two_true_parts():
    tuned = tuned_components(cases(is_spleen_divided=True), STRUCTURES)
    assert all(
        rule.keep == "all" for rule in tuned.rules if "spleen" in rule.structures
    )
    assert tuned.together.score_after == 1


def test_no_rule_is_kept_where_none_helps():
    tuned = tuned_components(cases(specks=False), STRUCTURES)
    assert tuned.rules == ()
    assert tuned.together is None
    assert [one.best for one in tuned.tried] == [None, None, None]


def test_a_gain_in_two_of_many_cases_is_not_shown():
    mixed = cases(specks=False)
    mixed[0], mixed[1] = case(0), case(1)
    tuned = tuned_components(mixed, STRUCTURES)
    assert tuned.rules == ()
    assert tuned.tried[0].best is not None
    assert tuned.tried[0].p_value == pytest.approx(0.5)


def test_an_only_structure_is_tried_once():
    alone = made_of(
        replace(
            one,
            probabilities=np.stack([1 - one.probabilities[1], one.probabilities[1]]),
            reference=np.where(one.reference == 2, 0, one.reference),
        )
        for one in cases()
    )
    tuned = tuned_components(alone, {"liver": (1,)})
    assert [one.structures for one in tuned.tried] == [("liver",)]
    assert len(tuned.rules) == 1


def test_cases_of_one_patient_are_refused():
    alike = made_of(
        replace(one, files=SimpleNamespace(name=one.files.name, patient="patient"))
        for one in cases(3)
    )
    with pytest.raises(EvaluationError, match="two or more validation patients"):
        tuned_components(alike, STRUCTURES)


def test_the_file_keeps_its_other_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ValidationCases", lambda *_, **__: cases())
    file = tmp_path / "postprocessing.toml"
    old = ComponentRuleConfig(structures=("spleen",), fill_holes=True)
    write_postprocessing(
        file,
        PostprocessingConfig(temperature=TemperatureConfig(value=2), components=(old,)),
    )
    tuned = tune_components(tmp_path, threads=1)
    follows = read_postprocessing(file)
    assert follows.components == tuned.rules
    assert follows.temperature.value == 2


def test_a_rule_that_no_longer_helps_goes(tmp_path, monkeypatch):
    found = cases(specks=False)
    monkeypatch.setattr(module, "ValidationCases", lambda *_, **__: found)
    file = tmp_path / "postprocessing.toml"
    old = ComponentRuleConfig(structures=("spleen",), fill_holes=True)
    write_postprocessing(file, PostprocessingConfig(components=(old,)))
    tune_components(tmp_path, threads=1)
    assert read_postprocessing(file).components == ()


def test_the_command_prints_what_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ValidationCases", lambda *_, **__: cases())
    arguments = ["tune-components", str(tmp_path), "--threads", "1"]
    answer = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert answer.exit_code == 0
    assert "foveal predict follows it" in answer.output
    found = cases(specks=False)
    monkeypatch.setattr(module, "ValidationCases", lambda *_, **__: found)
    answer = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "No rule helps" in answer.output


def test_the_command_prints_all_values_for_programs(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ValidationCases", lambda *_, **__: cases())
    arguments = ["tune-components", str(tmp_path), "--threads", "1", "--json"]
    answer = CliRunner().invoke(app, arguments, catch_exceptions=False)
    record = json.loads(answer.stdout)
    assert record["together"]["helps"]
    assert record["rules"][0]["evidence"]["p_value"] < 0.05
