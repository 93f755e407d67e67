"""From settings to objects: the one place that knows which name means which class."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from foveal.augmentation.intensity import IntensityAugmentation
from foveal.augmentation.spatial import SpatialAugmentation
from foveal.config import (
    OptimiserConfig,
    Plan,
    Settings,
)
from foveal.engine.loading import PatchSource, Sampler
from foveal.engine.schedules import learning_rate_factor
from foveal.engine.training import UpdateRules
from foveal.errors import RunError, SettingsError
from foveal.inference.model import Model
from foveal.inference.numerics import Numerics
from foveal.losses.cross_entropy import cross_entropy
from foveal.losses.dice import dice_loss
from foveal.methods.interface import Method
from foveal.methods.supervised import Supervised
from foveal.networks.interface import Network
from foveal.networks.unet3d import UNet3d
from foveal.preprocessing.intensity import IntensityRecipe
from foveal.preprocessing.pipeline import PreprocessingRecipe
from foveal.sampling.samplers import ClassBalancedSampler, UniformSampler
from foveal.store.store import StoredCase

NETWORKS = {"unet3d": UNet3d}

LOSSES = {"cross_entropy": cross_entropy, "dice": dice_loss}

ANISOTROPY = 3.0
"""From this ratio of spacings on, patches are only rotated in the fine plane."""


def preprocessing_recipe(plan: Plan) -> PreprocessingRecipe:
    """What a plan makes of a case."""
    section = plan.preprocessing
    return PreprocessingRecipe(
        orientation=section.orientation,
        spacing_mm=section.spacing_mm,
        crop=section.crop,
        channels=tuple(
            IntensityRecipe(**channel.model_dump()) for channel in section.channels
        ),
        label_values=plan.labels.values,
        combinations=tuple(
            tuple(sorted(names)) for names in plan.labels.combinations[1:]
        ),
        ignore_value=plan.labels.ignore_value,
        resample_channels=section.resample_channels,
    )


def network(
    name: str,
    *,
    in_channels: int,
    num_classes: int,
    **options: Any,  # noqa: ANN401 - each network states its own
) -> Network:
    """Build a network by its name.

    Args:
        name: One of `NETWORKS`.
        in_channels: Of the image.
        num_classes: Including background.
        **options: Of that network; see its class.

    Raises:
        SettingsError: There is no such network.
    """
    if name not in NETWORKS:
        raise SettingsError(f'no network "{name}"; there are {", ".join(NETWORKS)}')
    return NETWORKS[name](in_channels, num_classes, **options)


def planned_network(plan: Plan) -> Network:
    """The network that a plan describes, with fresh weights."""
    options = plan.network.model_dump(exclude={"name"})
    return network(
        plan.network.name,
        in_channels=len(plan.preprocessing.channels),
        num_classes=plan.labels.num_classes,
        **options,
    )


def method(settings: Settings, plan: Plan) -> Method:
    """The method that the settings name, around a fresh network."""
    losses = {
        name: (loss, getattr(settings.loss, name))
        for name, loss in LOSSES.items()
        if getattr(settings.loss, name) > 0
    }
    return Supervised(
        planned_network(plan),
        losses,
        membership(plan),
        sampler=settings.sampling.sampler,
        batch_size=plan.patches.batch_size,
    )


def membership(plan: Plan) -> Tensor:
    """Whether each structure includes each inside class, ``(structure, class)``."""
    structures = plan.labels.structures.values()
    table = torch.zeros(len(structures), plan.labels.num_classes, dtype=torch.bool)
    for row, classes in zip(table, structures, strict=True):
        row[list(classes)] = True
    return table


def optimisers(settings: Settings, trained: Method) -> dict[str, Optimizer]:
    """One optimiser per parameter group of a method."""
    options = settings.optimiser
    return {
        name: _optimiser(options, parameters)
        for name, parameters in trained.parameter_groups().items()
    }


def _optimiser(options: OptimiserConfig, parameters: list[Parameter]) -> Optimizer:
    if options.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=options.learning_rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            nesterov=options.momentum > 0,
        )
    return torch.optim.AdamW(
        parameters,
        lr=options.learning_rate,
        betas=(options.momentum, 0.999),
        weight_decay=options.weight_decay,
    )


def update_rules(settings: Settings) -> UpdateRules:
    """Schedule, clipping and averaging."""
    schedule = settings.schedule.model_dump()
    return UpdateRules(
        learning_rate_factor=partial(learning_rate_factor, **schedule),
        gradient_clip_norm=settings.optimiser.gradient_clip_norm,
        ema_decay=settings.training.ema_decay,
    )


def sampler(name: str, settings: Settings, plan: Plan) -> Sampler:
    """A sampler by its name in the settings."""
    if name == "uniform":
        return UniformSampler()
    weights = settings.sampling.structure_weights
    structures = plan.labels.structures
    unknown = sorted(weights.keys() - structures.keys())
    if unknown:
        raise SettingsError(
            f"sampling.structure_weights names {unknown}; "
            f"the structures are {list(structures)}"
        )
    return ClassBalancedSampler(
        foreground_fraction=settings.sampling.foreground_fraction,
        structures=tuple(structures.values()),
        # Once weights are given, a structure without one is not drawn for.
        weights=tuple(
            weights.get(structure, 0.0) if weights else 1.0 for structure in structures
        ),
    )


def patch_sources(
    settings: Settings,
    plan: Plan,
    trained: Method,
    cases: Mapping[str, Sequence[StoredCase]],
    rank: int,
) -> dict[str, PatchSource]:
    """What makes the batches of every stream of a method.

    Args:
        settings: Of the run.
        plan: Of the run.
        trained: Whose streams are wanted.
        cases: By the names that streams use, such as ``"labelled"``.
        rank: Of this process among the data-parallel ones.
    """
    return {
        name: PatchSource(
            name=name,
            cases=cases[stream.cases],
            sampler=sampler(stream.sampler, settings, plan),
            patch_size=plan.patches.size,
            spacing_mm=plan.preprocessing.spacing_mm,
            batch_size=stream.batch_size,
            num_structures=len(plan.labels.structures),
            spatial=spatial_augmentation(settings, plan),
            intensity=intensity_augmentation(settings),
            seed=settings.training.seed,
            rank=rank,
        )
        for name, stream in trained.streams.items()
    }


def model(
    plan: Plan, settings: Settings, weights: Mapping[str, Tensor], device: str = "auto"
) -> Model:
    """A trained predictor, with the numerics it was trained with.

    Raises:
        RunError: The weights are not those of the plan's network, or no numerics were
            ever chosen.
    """
    trained = planned_network(plan)
    try:
        trained.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(
            f"the weights are not those of the plan's network ({error}); was plan.toml "
            "changed after training?"
        ) from error
    return Model(
        network=trained,
        recipe=preprocessing_recipe(plan),
        structures=plan.labels.structures,
        label_values=plan.labels.values,
        patch_size=plan.patches.size,
        overlap_fraction=settings.prediction.overlap_fraction,
        batch_size=settings.prediction.batch_size,
        numerics=numerics(settings),
        device=torch.device(resolved_device(device)),
    )


def numerics(settings: Settings) -> Numerics:
    """Precision and layout of a run.

    Raises:
        RunError: They were never found, as training has not started.
    """
    precision, layout = settings.training.precision, settings.training.memory_layout
    if precision == "auto" or layout == "auto":
        raise RunError(
            "the run has no precision yet: its training never began; resume it with "
            "--resume, or start it again"
        )
    return Numerics(precision, layout)


def resolved_device(device: str) -> str:
    """Name of the device that ``"auto"`` means on this machine."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def fabric(settings: Settings) -> Fabric:
    """Device and processes of a run, not launched yet.

    Precision is not Fabric's: the same autocast serves training and prediction.
    """
    devices = settings.training.devices
    return Fabric(
        accelerator=resolved_device(settings.training.device),
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
    )


def spatial_augmentation(settings: Settings, plan: Plan) -> SpatialAugmentation:
    """Changes of geometry, with what the plan says of axes and sides."""
    chosen = settings.augmentation
    mirroring = plan.mirroring
    spacing_mm = plan.preprocessing.spacing_mm
    coarsest = max(range(3), key=lambda axis: spacing_mm[axis])
    is_flat = spacing_mm[coarsest] >= ANISOTROPY * min(spacing_mm)
    return SpatialAugmentation(
        rotation_probability=chosen.rotation_probability,
        rotation_degrees=chosen.rotation_degrees,
        rotation_axes=(coarsest,) if is_flat else (0, 1, 2),
        scaling_probability=chosen.scaling_probability,
        scaling=chosen.scaling,
        shear_probability=chosen.shear_probability,
        shear=chosen.shear,
        translation_probability=chosen.translation_probability,
        translation_voxels=chosen.translation_voxels,
        elastic_probability=chosen.elastic_probability,
        elastic_spacing_voxels=chosen.elastic_spacing_voxels,
        elastic_voxels=chosen.elastic_voxels,
        mirror_probability=chosen.mirror_probability,
        mirror_axes=mirroring.axes,
        sagittal_axis=mirroring.sagittal_axis,
        swapped_classes=plan.swapped_classes,
        swapped_structures=plan.swapped_structures,
    )


def intensity_augmentation(settings: Settings) -> IntensityAugmentation:
    """Changes of intensities."""
    names = {field.name for field in fields(IntensityAugmentation)}
    return IntensityAugmentation(**settings.augmentation.model_dump(include=names))
