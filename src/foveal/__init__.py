"""Foveal trains and runs segmentation networks for medical volumes.

Importing this module is light; torch and the rest load when a name is first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> (module, attribute).
_PUBLIC = {
    "read_case": ("foveal.io.cases", "read_case"),
    "read_dataset": ("foveal.io.datasets", "read_dataset"),
    "check": ("foveal.commands.check", "check"),
    "plan": ("foveal.commands.plan", "plan"),
    "preprocess": ("foveal.commands.preprocess", "preprocess"),
    "preview": ("foveal.commands.preview", "preview"),
    "distribution": ("foveal.commands.distribution", "distribution"),
    "train": ("foveal.commands.train", "train"),
    "ensemble_train": ("foveal.commands.ensemble_train", "ensemble_train"),
    "load_model": ("foveal.commands.models", "load_model"),
    "predict": ("foveal.commands.predict", "predict"),
    "tune_components": ("foveal.commands.tune_components", "tune_components"),
    "tune_crf": ("foveal.commands.tune_crf", "tune_crf"),
    "export": ("foveal.commands.export", "export"),
    "model_card": ("foveal.commands.export", "model_card"),
    "evaluate": ("foveal.commands.evaluate", "evaluate"),
    "compare": ("foveal.commands.compare", "compare"),
    "fuse": ("foveal.commands.ensemble_fuse", "fuse"),
    "report": ("foveal.commands.report", "report"),
    "network": ("foveal.building", "network"),
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in _PUBLIC:
        raise AttributeError(f"module 'foveal' has no attribute '{name}'")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
