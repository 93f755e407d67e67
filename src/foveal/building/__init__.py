"""From settings to objects: the one place that knows which name means which class."""

from foveal.building.methods import method
from foveal.building.names import (
    BUILT_IN,
    LOSSES,
    METHODS,
    NETWORKS,
    SAMPLERS,
    WITHOUT_PLUGINS,
    parts_with,
    require_used,
)
from foveal.building.networks import (
    bare_network,
    initialised_network,
    network,
    planned_network,
)
from foveal.building.postprocessing import component_rule, dense_crf, steps
from foveal.building.prediction import (
    membership,
    model,
    numerics,
    preprocessing_recipe,
    recipe_before_landmarks,
    resolved_device,
    tiles,
    windows,
)
from foveal.building.training import (
    fabric,
    intensity_augmentation,
    losses,
    patch_sources,
    sampler,
    spatial_augmentation,
    weighs_voxels,
)
from foveal.building.updates import frozen_layers, optimisers, update_rules

__all__ = [
    "BUILT_IN",
    "LOSSES",
    "METHODS",
    "NETWORKS",
    "SAMPLERS",
    "WITHOUT_PLUGINS",
    "bare_network",
    "component_rule",
    "dense_crf",
    "fabric",
    "frozen_layers",
    "initialised_network",
    "intensity_augmentation",
    "losses",
    "membership",
    "method",
    "model",
    "network",
    "numerics",
    "optimisers",
    "parts_with",
    "patch_sources",
    "planned_network",
    "preprocessing_recipe",
    "recipe_before_landmarks",
    "require_used",
    "resolved_device",
    "sampler",
    "spatial_augmentation",
    "steps",
    "tiles",
    "update_rules",
    "weighs_voxels",
    "windows",
]
