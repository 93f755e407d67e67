import pytest

from foveal.config.postprocessing import (
    ComponentRuleConfig,
    CrfConfig,
    EvidenceConfig,
    PostprocessingConfig,
    TemperatureConfig,
)
from foveal.errors import SettingsError
from foveal.postprocessing.components import ComponentRule
from foveal.postprocessing.steps import Steps
from foveal.settings_files import read_postprocessing, write_postprocessing


def test_a_table_is_replaced_and_the_others_are_kept(tmp_path):
    path = tmp_path / "postprocessing.toml"
    crf = CrfConfig(iterations=3, evidence=EvidenceConfig(cases=("a", "b")))
    rule = ComponentRuleConfig(structures=("liver",), smallest_voxels=250)
    write_postprocessing(path, PostprocessingConfig(crf=crf, components=(rule,)))
    warm = TemperatureConfig(value=1.5, evidence=EvidenceConfig(score="nll"))
    write_postprocessing(path, PostprocessingConfig(temperature=warm))
    assert read_postprocessing(path) == PostprocessingConfig(
        temperature=warm, crf=crf, components=(rule,)
    )
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_table_named_as_nothing_is_removed(tmp_path):
    path = tmp_path / "postprocessing.toml"
    write_postprocessing(
        path,
        PostprocessingConfig(temperature=TemperatureConfig(value=2), crf=CrfConfig()),
    )
    write_postprocessing(path, PostprocessingConfig(temperature=None))
    assert read_postprocessing(path) == PostprocessingConfig(crf=CrfConfig())


def test_a_wrong_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "postprocessing.toml"
    path.write_text("[temperature]\nvalue = -1\n")
    with pytest.raises(SettingsError, match=r"temperature\.value"):
        write_postprocessing(path, PostprocessingConfig(crf=CrfConfig()))
    assert path.read_text() == "[temperature]\nvalue = -1\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[crff]\n", r"crff: no such table; there are components, crf, .*temperature$"),
        ("[temperature]\nvalue = 0\n", r"greater than 0, not 0$"),
        ("[crf]\nsmoothness_mm = [0, 1, 1]\n", r"mm\.0: .* greater than 0, not 0$"),
        ("format_version = 7\n", r"Input should be 1, not 7$"),
        ("[[components]]\nstructures = []\n", r"at least 1 item .*, not 0$"),
    ],
)
def test_messages_name_what_there_is_and_what_was_given(text, words, tmp_path):
    path = tmp_path / "postprocessing.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=words):
        read_postprocessing(path)


def test_a_rule_of_an_unknown_structure_names_those_there_are():
    steps = Steps(components=(ComponentRule(("lung",), keep="largest"),))
    with pytest.raises(SettingsError, match=r"lung, .*\(there are liver, spleen\)"):
        steps.require_fit(("liver", "spleen"), 1, 3)


def test_what_was_chosen_with_other_models_goes_when_something_is_chosen(tmp_path):
    path = tmp_path / "postprocessing.toml"
    warm = TemperatureConfig(value=2)
    write_postprocessing(path, PostprocessingConfig(temperature=warm))
    one = PostprocessingConfig(made_of=("a", "b"), crf=CrfConfig())
    write_postprocessing(path, one)
    # By hand it was for any models.
    both = PostprocessingConfig(made_of=("a", "b"), temperature=warm, crf=CrfConfig())
    assert read_postprocessing(path) == both
    assert both.effects.made_of == ()
    rule = ComponentRuleConfig(structures=("liver",), smallest_voxels=250)
    other = PostprocessingConfig(made_of=("b", "a"), components=(rule,))
    write_postprocessing(path, other)
    assert read_postprocessing(path) == other
