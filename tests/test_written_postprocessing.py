import pytest

from foveal.config.postprocessing import (
    ComponentRuleConfig,
    CrfConfig,
    EvidenceConfig,
    PostprocessingConfig,
    TemperatureConfig,
)
from foveal.errors import SettingsError
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
