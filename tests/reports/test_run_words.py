from foveal.commands.run_words import training_facts
from foveal.config.settings import Settings


def method_of(table):
    return dict(training_facts(Settings.model_validate({"method": table}), 0.0))[
        "Method"
    ]


def test_a_method_without_options_is_its_name():
    told = method_of({"name": "supervised"})
    assert told.startswith("supervised; the loss is ")


def test_options_that_are_set_stand_behind_the_name():
    told = method_of({"name": "adversarial", "target": ["3T", "7T"]})
    assert told.startswith("adversarial (target 3T, 7T; alpha_max 0.05; ")
    assert "source" not in told
