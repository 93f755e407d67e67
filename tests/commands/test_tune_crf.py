import json
from dataclasses import replace

import numpy as np
import pytest
from made_up_validation import MadeUpCases, made_up_case
from typer.testing import CliRunner

from foveal.cli.main import app
from foveal.commands import tune_crf as module
from foveal.commands.tune_crf import KeptTrials, crf_trials, tune_crf, tuned_crf
from foveal.config.postprocessing import (
    CrfConfig,
    PostprocessingConfig,
    TemperatureConfig,
)
from foveal.errors import CaseError, RunError, SettingsError
from foveal.settings_files import read_postprocessing, write_postprocessing

STRUCTURES = {"box": (1,)}
SHAPE = (8, 8, 6)

HELPFUL = CrfConfig(
    smoothness_weight=0.0,
    appearance_mm=(4.0, 4.0, 4.0),
    appearance_deviations=(0.5,),
    appearance_weight=4.0,
)
OVERDONE = CrfConfig(
    smoothness_mm=(8.0, 8.0, 8.0), smoothness_weight=50.0, appearance_weight=0.0
)


def case(number, *, wrong=0.12):
    """A box that the image shows, and a network that errs here and there."""
    generator = np.random.default_rng(number)
    reference = np.zeros(SHAPE, np.uint8)
    reference[2:6, 2:6, 1:5] = 1
    found = np.where(generator.random(SHAPE) < wrong, 1 - reference, reference)
    box = np.where(found, 0.7, 0.3)
    image = reference[None] + generator.normal(0, 0.1, (1, *SHAPE))
    return made_up_case(
        number,
        np.stack([1 - box, box]),
        reference,
        patient=f"patient_{number}",
        spacing_mm=(1.0, 1.0, 1.0),
        num_cases=6,
        image=image.astype(np.float32),
    )


def cases(count=6, **options):
    return MadeUpCases((case(number, **options) for number in range(count)), STRUCTURES)


def tuned(found, tmp_path, *configs, **options):
    kept = KeptTrials(tmp_path / "tuning" / "trials.jsonl")
    return tuned_crf(found, STRUCTURES, lambda *_: configs, kept, **options)


def test_a_crf_that_removes_noise_is_chosen_and_helps(tmp_path):
    found = tuned(cases(), tmp_path, OVERDONE, HELPFUL)
    assert found.best == HELPFUL
    assert found.verdict.score_after > found.verdict.score_before + 0.1
    assert found.kept.evidence.p_value == pytest.approx(2 / 2**6)
    assert found.kept.evidence.score_after > found.kept.evidence.score_before


def test_no_crf_is_kept_where_none_helps(tmp_path):
    found = tuned(cases(wrong=0), tmp_path, OVERDONE)
    assert found.verdict.score_before == 1
    assert found.best is None
    assert found.kept is None


def test_a_search_goes_on_with_the_trials_it_has(tmp_path, monkeypatch):
    first = tuned(cases(), tmp_path, HELPFUL)

    def refuse(*_, **__):
        raise AssertionError("tried again")

    with monkeypatch.context() as patched:
        patched.setattr(module, "refined_probabilities", refuse)
        again = tuned(cases(), tmp_path, HELPFUL)
        assert again.verdict == first.verdict
        # Another temperature makes other probabilities.
        with pytest.raises(AssertionError, match="tried again"):
            tuned(cases(), tmp_path, HELPFUL, temperature=2.0)


def test_a_line_that_a_kill_has_cut_is_tried_again(tmp_path):
    first = tuned(cases(), tmp_path, HELPFUL)
    file = tmp_path / "tuning" / "trials.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    assert tuned(cases(), tmp_path, HELPFUL).verdict == first.verdict
    assert file.read_bytes() == whole


def test_a_damaged_line_is_named(tmp_path):
    file = tmp_path / "tuning" / "trials.jsonl"
    tuned(cases(), tmp_path, HELPFUL)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[1][:30], *lines[2:]]) + "\n")
    with pytest.raises(RunError, match="damaged in line 2; delete the file"):
        KeptTrials(file)


def test_only_the_first_cases_are_tried(tmp_path):
    found = tuned(cases(), tmp_path, HELPFUL, max_cases=3)
    assert found.verdict.cases == ("case_0", "case_1", "case_2")
    assert found.verdict.p_value is None


def test_an_empty_mask_is_named(tmp_path):
    found = cases()
    found[1] = replace(found[1], mask=np.zeros(SHAPE, bool))
    with pytest.raises(CaseError, match=r"case case_1: .*mask"):
        tuned(found, tmp_path, HELPFUL)


def test_trials_begin_with_the_usual_and_are_drawn_with_a_seed():
    trials = crf_trials(2, 4, trials=5, seed=1)
    assert trials[0] == CrfConfig()
    assert len(trials) == 6
    assert trials == crf_trials(2, 4, trials=5, seed=1)
    assert trials[1:] != crf_trials(2, 4, trials=5, seed=2)[1:]
    assert all(len(one.appearance_deviations) == 2 for one in trials[1:])
    assert len({one.appearance_deviations for one in trials}) == 6


def test_a_grid_and_the_whole_foreground():
    assert len(crf_trials(2, 4, per_span=2)) == 1 + 2**5
    both = crf_trials(2, 4, trials=40, whole_foreground="both")
    assert [one.whole_foreground for one in both[:2]] == [False, True]
    assert {one.whole_foreground for one in both[2:]} == {False, True}
    yes = crf_trials(2, 4, trials=3, whole_foreground="yes")
    assert all(one.whole_foreground for one in yes)


def test_searches_without_meaning_are_refused():
    with pytest.raises(SettingsError, match="the only class here"):
        crf_trials(1, 2, whole_foreground="both")
    with pytest.raises(SettingsError, match="--trials must be 1 or more"):
        crf_trials(1, 2, trials=0)
    with pytest.raises(SettingsError, match="--grid must be 1 or more"):
        crf_trials(1, 2, per_span=0)


def test_the_file_keeps_its_other_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ValidationCases", lambda *_, **__: cases())
    monkeypatch.setattr(module, "crf_trials", lambda *_, **__: (HELPFUL,))
    file = tmp_path / "postprocessing.toml"
    write_postprocessing(
        file, PostprocessingConfig(temperature=TemperatureConfig(value=1.5))
    )
    found = tune_crf(tmp_path, threads=1, device="cpu")
    follows = read_postprocessing(file)
    assert follows.crf == found.kept
    assert follows.crf.appearance_mm == (4.0, 4.0, 4.0)
    assert follows.temperature.value == 1.5


def test_the_command_prints_what_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ValidationCases", lambda *_, **__: cases())
    monkeypatch.setattr(module, "crf_trials", lambda *_, **__: (HELPFUL,))
    arguments = ["tune-crf", str(tmp_path), "--threads", "1", "--device", "cpu"]
    answer = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "foveal predict --crf uses it" in answer.output
    answer = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert json.loads(answer.stdout)["best"]["appearance_weight"] == 4
    answer = CliRunner().invoke(app, [*arguments, "--grid", "2", "--seed", "1"])
    assert answer.exit_code == 2
    assert "leave --trials and --seed out" in answer.output
