"""What may be said of a channel in the plan, and what is refused."""

import pytest
from pydantic import ValidationError

from foveal.building.prediction import preprocessing_recipe
from foveal.config.plan import ChannelConfig, Plan
from foveal.settings_files import read_plan, to_toml

PLAN = {
    "dataset_name": "made up",
    "labels": {"names": ("organ",), "values": (1,)},
    "preprocessing": {"spacing_mm": (1.0, 1.0, 1.0)},
    "patches": {"size": (16, 16, 16), "batch_size": 2},
    "network": {"name": "unet3d"},
}

LANDMARKS = {
    "percentiles": (1, *range(10, 100, 10), 99),
    "values": tuple(float(n * n) for n in range(11)),
    "num_cases": 4,
}

CT = {"clip": (-1000, 1000), "mean": 0, "deviation": 218}


def plan_of(**channel):
    channels = [{"name": "MR", **channel}]
    section = PLAN["preprocessing"] | {"channels": channels}
    return Plan.model_validate(PLAN | {"preprocessing": section})


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        ({"normalisation": "zscore", "clip": (0, 1)}, 'clip is for .* "ct" and not'),
        ({"normalisation": "unit", "mean": 3}, 'mean is for normalisation "ct"'),
        ({"normalisation": "none", "deviation": 3}, "deviation is for"),
        ({"normalisation": "unit", "percentiles": (1, 99)}, 'is for .* "percentiles"'),
        (
            {"normalisation": "robust_zscore", "cutoffs": {"below_mean": True}},
            'cutoffs is for normalisation "zscore"',
        ),
        ({"normalisation": "ct", **CT, "clip": (9, 8)}, "clip .* must not fall"),
        ({"normalisation": "zscore", "cutoffs": {}}, "set percentiles, deviations or"),
        (
            {"normalisation": "zscore", "cutoffs": {"percentiles": (95, 5)}},
            "must increase .* 95 is followed by 5",
        ),
        (
            {"normalisation": "zscore", "cutoffs": {"deviations": (3, 0)}},
            "greater than 0",
        ),
        ({"normalisation": "percentiles", "percentiles": (50, 50)}, "must increase"),
        ({"normalisation": "percentiles", "percentiles": (2, 101)}, "less than or eq"),
        ({"normalisation": "unit", "bias_field": {"shrink_factor": 0}}, "greater than"),
        ({"normalisation": "unit", "bias_field": {"iterations": ()}}, "at least 1"),
        ({"normalisation": "unit", "bias_field": True}, "valid dictionary"),
        (
            {"normalisation": "unit", "landmark_percentiles": (1, 99)},
            "landmark_percentiles is for landmarks, which is not set",
        ),
        (
            {
                "normalisation": "unit",
                "landmarks": "learn",
                "landmark_percentiles": (1, 50, 50),
            },
            "landmark_percentiles must increase",
        ),
        (
            {
                "normalisation": "unit",
                "landmarks": LANDMARKS,
                "landmark_percentiles": (1, 50, 99),
            },
            r"landmarks are of percentiles .* but \[1.0, 50.0, 99.0\] are asked for",
        ),
        ({"normalisation": "minmax"}, "'ct', 'zscore', 'robust_zscore', 'percentiles'"),
    ],
)
def test_what_would_change_nothing_or_cannot_be_is_refused(channel, message):
    with pytest.raises(ValidationError, match=message):
        ChannelConfig.model_validate({"name": "MR", **channel})


OPTIONS = [
    {"normalisation": "zscore"},
    {"normalisation": "zscore", "cutoffs": {"percentiles": (5, 95)}},
    {"normalisation": "zscore", "cutoffs": {"deviations": (3, 3)}},
    {"normalisation": "zscore", "cutoffs": {"below_mean": True}},
    {"normalisation": "percentiles"},
    {"normalisation": "percentiles", "percentiles": (1, 99)},
    {"normalisation": "unit"},
    {"normalisation": "none"},
    {"normalisation": "zscore", "bias_field": {}},
    {"normalisation": "zscore", "bias_field": {"shrink_factor": 2}},
    {"normalisation": "zscore", "bias_field": {"iterations": (50,)}},
    {"normalisation": "zscore", "landmarks": LANDMARKS},
    {"normalisation": "zscore", "landmarks": LANDMARKS, "bias_field": {}},
    {
        "normalisation": "zscore",
        "landmarks": LANDMARKS | {"values": tuple(range(11))},
    },
]


def test_every_option_names_the_stored_case():
    digests = [preprocessing_recipe(plan_of(**one)).digest for one in OPTIONS]
    assert len(set(digests)) == len(OPTIONS)


def test_what_does_not_change_a_case_does_not_change_its_name():
    more = LANDMARKS | {"num_cases": 9}
    for first, second in (
        ({"landmarks": LANDMARKS}, {"landmarks": more}),
        ({"name": "MR"}, {"name": "T1"}),
        ({"bias_field": {}}, {"bias_field": {"shrink_factor": 4}}),
    ):
        digests = {
            preprocessing_recipe(plan_of(normalisation="zscore", **one)).digest
            for one in (first, second)
        }
        assert len(digests) == 1
    default = plan_of(normalisation="percentiles")
    named = plan_of(normalisation="percentiles", percentiles=(2, 98))
    assert preprocessing_recipe(default).digest == preprocessing_recipe(named).digest


@pytest.mark.parametrize("channel", OPTIONS, ids=str)
def test_a_plan_file_holds_all_options(channel, tmp_path):
    plan = plan_of(**channel)
    path = tmp_path / "plan.toml"
    path.write_text(to_toml(plan))

    assert read_plan(path) == plan
