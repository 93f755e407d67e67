import pytest

from foveal.crf.mean_field import DenseCrf
from foveal.errors import SettingsError
from foveal.postprocessing.components import ComponentRule
from foveal.postprocessing.steps import NO_STEPS, Steps


def test_steps_for_these_cases_pass():
    NO_STEPS.require_fit(["liver"], 1, 2)
    rule = ComponentRule(("liver",), "largest")
    matrix = ((-1.0, 0.0), (0.0, -1.0))
    for crf in (DenseCrf(), DenseCrf(appearance_deviations=(1.0, 2.0))):
        Steps(crf=crf, components=(rule,)).require_fit(["liver"], 2, 2)
    Steps(crf=DenseCrf(compatibility=matrix)).require_fit(["liver"], 1, 2)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            Steps(components=(ComponentRule(("liver", "spleen"), "largest"),)),
            "structure spleen, which is not predicted",
        ),
        (
            Steps(crf=DenseCrf(appearance_deviations=(1.0, 2.0))),
            "2 values, but images have 3 channels",
        ),
        (
            Steps(crf=DenseCrf(compatibility=((-1.0, 0.0), (0.0, -1.0)))),
            "2 rows, but there are 4 classes",
        ),
    ],
)
def test_steps_for_other_cases_are_refused(steps, message):
    with pytest.raises(SettingsError, match=message):
        steps.require_fit(["liver", "kidney"], 3, 4)
