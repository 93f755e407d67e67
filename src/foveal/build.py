"""From settings to objects: the one place that knows which name means which class."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from foveal.augmentation.intensity import IntensityAugmentation
from foveal.augmentation.spatial import SpatialAugmentation
from foveal.config.networks import NETWORK_SECTIONS
from foveal.config.plan import Plan
from foveal.config.settings import LossConfig, OptimiserConfig, Settings
from foveal.engine.loading import PatchSource, Sampler
from foveal.engine.schedules import learning_rate_factor
from foveal.engine.training import UpdateRules
from foveal.errors import PluginError, RunError, SettingsError
from foveal.inference.model import Model
from foveal.inference.numerics import Numerics
from foveal.losses.border_cross_entropy import border_cross_entropy
from foveal.losses.cross_entropy import cross_entropy
from foveal.losses.dice import dice_loss
from foveal.methods.classification import Classification
from foveal.methods.interface import Method
from foveal.methods.supervised import Loss, Supervised
from foveal.networks import foreign
from foveal.networks.fcn3d import FCN3d
from foveal.networks.interface import Network
from foveal.networks.slices import SliceBySlice
from foveal.networks.spleen_unet import SpleenUNet
from foveal.networks.unet import UNet
from foveal.plugins.files import read_plugins
from foveal.plugins.parts import Parts
from foveal.plugins.registration import Kind, Part, Plugin
from foveal.preprocessing.intensity import IntensityRecipe
from foveal.preprocessing.pipeline import PreprocessingRecipe
from foveal.sampling.samplers import ClassBalancedSampler, UniformSampler
from foveal.settings_files import options_of
from foveal.store.store import StoredCase

NETWORKS: dict[str, Callable[..., Network]] = {
    "unet3d": UNet,
    "unet2d": UNet,
    "unet3d-residual": UNet,
    "unet3d-concatenated": UNet,
    "unet3d-sum": UNet,
    "unet3d-spleen": SpleenUNet,
    "fcn3d": FCN3d,
    "fcn3d-residual": FCN3d,
    "fcn3d-shallow": FCN3d,
    "monai:unet": foreign.monai_unet,
    "monai:attentionunet": foreign.monai_attentionunet,
    "monai:dynunet": foreign.monai_dynunet,
    "monai:segresnet": foreign.monai_segresnet,
    "monai:swinunetr": foreign.monai_swinunetr,
}

LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "dice": dice_loss,
    "border_cross_entropy": border_cross_entropy,
}

SAMPLERS = {"uniform": UniformSampler, "class_balanced": ClassBalancedSampler}

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "classification": Classification,
}

BUILT_IN: dict[Kind, Collection[str]] = {
    "loss": LOSSES,
    "network": NETWORKS,
    "sampler": SAMPLERS,
    "method": METHODS,
}

VOLUME_AXES = 3

ANISOTROPY = 3.0
"""From this ratio of spacings on, patches are only rotated in the fine plane."""


WITHOUT_PLUGINS = Parts(BUILT_IN)


def parts_with(plugins: Sequence[Path | str | Plugin]) -> Parts:
    """Built-in parts and those of plugins.

    Args:
        plugins: Files, which are run now, or what `read_plugins` made of them.

    Raises:
        PluginError: A file cannot be used, or two parts share a name.
    """
    return Parts(BUILT_IN, read_plugins(plugins))


def require_used(settings: Settings, network_name: str, parts: Parts) -> None:
    """Refuse a plugin of which nothing is used: it was meant to change something.

    Raises:
        SettingsError: Says how its parts are used.
    """
    used = {
        settings.method.name,
        settings.sampling.sampler,
        network_name,
        *settings.loss.weights,
    }
    ways = {
        "loss": "loss.{}=1",
        "network": "network.name={}",
        "sampler": "sampling.sampler={}",
        "method": "method.name={}",
    }
    for plugin in parts.plugins:
        if not used & {part.name for part in plugin.parts}:
            switches = ", ".join(
                f"--set {ways[part.kind].format(part.name)}" for part in plugin.parts
            )
            raise SettingsError(
                f"plugin {plugin.path} is given, but nothing of it is used; add "
                f"{switches}, or leave out --plugin"
            )


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
        SettingsError: There is no such network, or it has no such option.
    """
    if name not in NETWORKS:
        raise SettingsError(f'"{name}" is no network; there are {", ".join(NETWORKS)}')
    options = options_of(NETWORK_SECTIONS[name], {"name": name, **options}, "network")
    del options["name"]
    return NETWORKS[name](in_channels, num_classes, **options)


def planned_network(plan: Plan, parts: Parts = WITHOUT_PLUGINS) -> Network:
    """The network that a plan describes, with fresh weights, for volumes.

    Raises:
        SettingsError: There is no such network, or it is 2D and the plan's patches are
            not one voxel thick.
        PluginError: It is a plugin's, which fails or makes something else.
    """
    made = bare_network(plan, parts)
    if len(made.alignment) == VOLUME_AXES:
        return made
    if 1 not in plan.patches.size:
        raise SettingsError(
            f"network {plan.network.name} is 2D and sees one slice at a time; "
            f"patches.size {plan.patches.size} must be 1 along the axis that counts "
            f"the slices, for example {(*plan.patches.size[:2], 1)}"
        )
    # Of several axes of one voxel the last: pictures are stored that way.
    slice_axis = max(axis for axis in range(3) if plan.patches.size[axis] == 1)
    return SliceBySlice(made, slice_axis)


def bare_network(plan: Plan, parts: Parts = WITHOUT_PLUGINS) -> Network:
    """The network that a plan describes, 2D or 3D as it is."""
    name, options = plan.network.name, plan.network.model_dump()
    in_channels, num_classes = (
        len(plan.preprocessing.channels),
        plan.labels.num_classes,
    )
    own = parts.added("network", name)
    if own is None:
        del options["name"]
        return network(
            name, in_channels=in_channels, num_classes=num_classes, **options
        )
    made = parts.built(own, options, in_channels, num_classes)
    if not isinstance(made, Network):
        raise _of_another_kind(own, made, "foveal.networks.interface.Network")
    return made


def method(settings: Settings, plan: Plan, parts: Parts = WITHOUT_PLUGINS) -> Method:
    """The method that the settings name, around a fresh network."""
    name = settings.method.name
    made_network = planned_network(plan, parts)
    drawn = settings.sampling.sampler
    batch_size = plan.patches.batch_size
    own = parts.added("method", name)
    if name == "classification":
        if settings.loss.weights != LossConfig().weights:
            raise SettingsError(
                "method classification has a loss of its own, the cross entropy of "
                "what a patch shows; leave the table loss out"
            )
        return Classification(made_network, sampler=drawn, batch_size=batch_size)
    context = made_network, losses(settings, parts)
    if own is None:
        return Supervised(*context, sampler=drawn, batch_size=batch_size)
    made = parts.built(
        own,
        _own_options(settings, name),
        *context,
        sampler=drawn,
        batch_size=batch_size,
    )
    if not isinstance(made, Method):
        raise _of_another_kind(own, made, "foveal.methods.interface.Method")
    return made


def losses(
    settings: Settings, parts: Parts = WITHOUT_PLUGINS
) -> dict[str, tuple[Loss, float]]:
    """Losses that count and their weights."""
    options_of_built_in = {"border_cross_entropy": settings.border_weights.model_dump()}
    found: dict[str, tuple[Loss, float]] = {}
    for name, weight in settings.loss.weights.items():
        own = parts.added("loss", name)
        if own is None:
            loss, options = LOSSES[name], options_of_built_in.get(name, {})
        else:
            given = _own_options(settings, name)
            loss, options = (
                own.build,
                options_of(own.section, given, f"plugins.{name}"),
            )
        found[name] = partial(loss, **options), weight
    return found


def _own_options(settings: Settings, name: str) -> object:
    """The table of a plugin's part, as far as it is written."""
    return settings.plugins.model_dump().get(name, {})


def _of_another_kind(part: Part, made: object, base: str) -> PluginError:
    return PluginError(
        f'{part.kind} "{part.name}" is of type {type(made).__name__}; derive it from '
        f"{base}"
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


def sampler(
    name: str, settings: Settings, plan: Plan, parts: Parts = WITHOUT_PLUGINS
) -> Sampler:
    """A sampler by its name in the settings."""
    own = parts.added("sampler", name)
    if own is not None:
        options = _own_options(settings, name)
        made = parts.built(own, options, plan.labels.structures)
        if not callable(getattr(made, "draw", None)):
            raise PluginError(
                f'sampler "{name}" is of type {type(made).__name__}, without '
                "draw(cases, patch_size, generator); see foveal.sampling.samplers"
            )
        return made
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
    parts: Parts = WITHOUT_PLUGINS,
) -> dict[str, PatchSource]:
    """What makes the batches of every stream of a method.

    Args:
        settings: Of the run.
        plan: Of the run.
        trained: Whose streams are wanted.
        cases: By the names that streams use, such as ``"labelled"``.
        rank: Of this process among the data-parallel ones.
        parts: Those that the settings choose from.
    """
    return {
        name: PatchSource(
            name=name,
            cases=cases[stream.cases],
            sampler=sampler(stream.sampler, settings, plan, parts),
            patch_size=plan.patches.size,
            spacing_mm=plan.preprocessing.spacing_mm,
            batch_size=stream.batch_size,
            structures=membership(plan),
            spatial=spatial_augmentation(settings, plan),
            intensity=intensity_augmentation(settings),
            seed=settings.training.seed,
            rank=rank,
        )
        for name, stream in trained.streams.items()
    }


def model(
    plan: Plan,
    settings: Settings,
    weights: Mapping[str, Tensor],
    device: str = "auto",
    parts: Parts = WITHOUT_PLUGINS,
) -> Model:
    """A trained predictor, with the numerics it was trained with.

    Raises:
        RunError: The weights are not those of the plan's network, or no numerics were
            ever chosen.
    """
    trained = planned_network(plan, parts)
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
        separate_masks=plan.labels.separate_masks,
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
    """Name of the device that ``"auto"`` means on this machine, or the one asked for.

    Raises:
        SettingsError: PyTorch cannot use the one asked for.
    """
    is_there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device != "auto":
        if not is_there[device]:
            raise SettingsError(
                f"PyTorch finds no {device} device; choose the device cpu, or install "
                "the build of PyTorch for yours, as pytorch.org says"
            )
        return device
    return next(name for name in ("cuda", "mps", "cpu") if is_there[name])


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
