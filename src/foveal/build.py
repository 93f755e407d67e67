"""From settings to objects: the one place that knows which name means which class."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import Module, Parameter
from torch.optim import Optimizer

from foveal.augmentation.intensity import IntensityAugmentation
from foveal.augmentation.spatial import SpatialAugmentation
from foveal.config.networks import NETWORK_SECTIONS
from foveal.config.plan import Plan
from foveal.config.settings import LossConfig, OptimiserConfig, Settings
from foveal.engine.batch_statistics import batch_norms
from foveal.engine.loading import PatchSource, Sampler
from foveal.engine.penalties import WeightPenalty
from foveal.engine.plateau import PlateauRule
from foveal.engine.rmsprop import NesterovRMSprop
from foveal.engine.schedules import learning_rate_factor
from foveal.engine.training import UpdateRules
from foveal.errors import GeometryError, PluginError, RunError, SettingsError
from foveal.inference.model import Model
from foveal.inference.numerics import Numerics
from foveal.inference.tiling import AdjoiningTiles, OverlappingTiles, Tiles
from foveal.losses.border_cross_entropy import border_cross_entropy
from foveal.losses.cross_entropy import cross_entropy
from foveal.losses.dice import dice_loss
from foveal.methods.classification import Classification
from foveal.methods.interface import Method
from foveal.methods.supervised import Loss, Supervised
from foveal.networks import foreign
from foveal.networks.deconvnet import DeconvNet
from foveal.networks.decouplednet import DecoupledNet
from foveal.networks.deeplab import DeepLabV2, DeepLabV3
from foveal.networks.deepmedic import DeepMedic
from foveal.networks.dual_path import DualPath
from foveal.networks.fcn import Fcn
from foveal.networks.fcn3d import FCN3d
from foveal.networks.initialisation import initialise, zero_last_scales
from foveal.networks.interface import Network
from foveal.networks.layer_names import (
    layers_named,
    rate_factors,
    regularised_weights,
)
from foveal.networks.segnet import SegNet
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
    "fcn32s": partial(Fcn, stride=32),
    "fcn16s": partial(Fcn, stride=16),
    "fcn8s": partial(Fcn, stride=8),
    "segnet": SegNet,
    "deconvnet": DeconvNet,
    "decouplednet": DecoupledNet,
    "deeplabv2": DeepLabV2,
    "deeplabv3": DeepLabV3,
    "deepmedic": DeepMedic,
    "deepmedic-thesis": DeepMedic,
    "deepmedic-residual": DeepMedic,
    "deepmedic-wide": DeepMedic,
    "deepmedic-shallow": DeepMedic,
    "deepmedic-deep": DeepMedic,
    "deepmedic-bigdeep": DeepMedic,
    "deepmedic2d": DeepMedic,
    "deepmedic2d-wider": DeepMedic,
    "deepmedic2d-deeper": DeepMedic,
    "deepmedic2d-large": DeepMedic,
    "dual-path": DualPath,
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
    trained = initialised_network(settings, plan, parts)
    made = _around(trained, settings, plan, parts)
    for layer in frozen_layers(settings, made):
        layer.requires_grad_(False)
    return made


def _around(trained: Network, settings: Settings, plan: Plan, parts: Parts) -> Method:
    name = settings.method.name
    drawn = settings.sampling.sampler
    batch_size = plan.patches.batch_size
    if name == "classification":
        if settings.loss.weights != LossConfig().weights:
            raise SettingsError(
                "method classification has a loss of its own, the cross entropy of "
                "what a patch shows; leave the table loss out"
            )
        return Classification(trained, sampler=drawn, batch_size=batch_size)
    context = trained, losses(settings, parts)
    own = parts.added("method", name)
    if own is None:
        return Supervised(*context, sampler=drawn, batch_size=batch_size)
    options = _own_options(settings, name)
    made = parts.built(own, options, *context, sampler=drawn, batch_size=batch_size)
    if not isinstance(made, Method):
        raise _of_another_kind(own, made, "foveal.methods.interface.Method")
    return made


def initialised_network(settings: Settings, plan: Plan, parts: Parts) -> Network:
    """The network of a plan with the weights that a run begins with.

    Raises:
        SettingsError: Its residual blocks shall begin as the identity, but it has none
            that can.
    """
    made = planned_network(plan, parts)
    if settings.training.initialisation != "network":
        initialise(made, settings.training.initialisation)
    if settings.training.zero_gamma and zero_last_scales(made) == 0:
        raise SettingsError(
            f"training.zero_gamma: network {plan.network.name} has no residual block "
            "that ends with a norm; leave it out"
        )
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
    """One optimiser per parameter group of a method.

    Each has a group of its own for every factor of the learning rate.

    Raises:
        SettingsError: A layer's name is wrong, or nothing is left to learn.
    """
    factors = rate_factors(
        trained,
        settings.transfer.learning_rate_factors,
        "transfer.learning_rate_factors",
    )
    made = {}
    for name, parameters in trained.parameter_groups().items():
        of_factor: dict[float, list[Parameter]] = {}
        for parameter in parameters:
            if parameter.requires_grad:
                of_factor.setdefault(factors.get(parameter, 1.0), []).append(parameter)
        if not of_factor:
            raise SettingsError(
                f"transfer.freeze leaves nothing to learn in {name}; name fewer layers"
            )
        rate = settings.optimiser.learning_rate
        made[name] = _optimiser(
            settings.optimiser,
            [
                {"params": group, "lr": rate * factor}
                for factor, group in of_factor.items()
            ],
        )
    return made


def _optimiser(config: OptimiserConfig, groups: list[dict[str, Any]]) -> Optimizer:
    options = config.options
    rate = options["learning_rate"]
    match config.name:
        case "sgd":
            return torch.optim.SGD(
                groups,
                lr=rate,
                momentum=options["momentum"],
                weight_decay=options["weight_decay"],
                nesterov=options["momentum"] > 0,
            )
        case "rmsprop":
            return NesterovRMSprop(
                groups,
                rate,
                squares_decay=options["squares_decay"],
                momentum=options["momentum"],
                epsilon=options["epsilon"],
            )
        case "adadelta":
            return torch.optim.Adadelta(
                groups, lr=rate, rho=options["squares_decay"], eps=options["epsilon"]
            )
        case "adam":
            return torch.optim.Adam(
                groups,
                lr=rate,
                betas=(options["momentum"], options["squares_decay"]),
                eps=options["epsilon"],
            )
        case "adamw":
            return torch.optim.AdamW(
                groups,
                lr=rate,
                betas=(options["momentum"], options["squares_decay"]),
                eps=options["epsilon"],
                weight_decay=options["weight_decay"],
            )


def frozen_layers(settings: Settings, trained: Method) -> list[Module]:
    """Modules that do not learn, all that is inside them included.

    Raises:
        SettingsError: There is no such layer.
    """
    return [
        layer
        for name in settings.transfer.freeze
        for layer in layers_named(trained, name, "transfer.freeze")
    ]


def update_rules(settings: Settings, trained: Method) -> UpdateRules:
    """Schedule, clipping, averaging, regularisation, and what stays as it is.

    Raises:
        SettingsError: A setting would change nothing of this method.
    """
    frozen = frozen_layers(settings, trained)
    batches = settings.training.batch_norm_batches
    norms = batch_norms(trained.predictor).values()
    fixed = {module for layer in frozen for module in layer.modules()}
    if batches is not None and fixed.issuperset(norms):
        raise SettingsError(
            "training.batch_norm_batches: the network has no batch norm that learns; "
            "leave it out"
        )
    schedule = settings.schedule
    drops = schedule.options if schedule.name == "plateau" else None
    return UpdateRules(
        learning_rate_factor=partial(
            learning_rate_factor,
            name=schedule.name,
            warmup_steps=schedule.warmup_steps,
            warmup_start_fraction=schedule.warmup_start_fraction,
            **({} if drops else schedule.options),
        ),
        gradient_clip_norm=settings.optimiser.gradient_clip_norm,
        ema_decay=settings.training.ema_decay,
        plateau=PlateauRule(drops["patience_validations"], drops["drop_factor"])
        if drops
        else None,
        penalty=_penalty(settings, trained),
        frozen=frozen,
        batch_norm_batches=batches or 0,
    )


def _penalty(settings: Settings, trained: Method) -> WeightPenalty | None:
    l1, l2 = settings.optimiser.l1, settings.optimiser.l2
    if l1 == l2 == 0:
        return None
    learned = [
        parameter
        for parameters in trained.parameter_groups().values()
        for parameter in parameters
        if parameter.requires_grad
    ]
    weights = regularised_weights(
        trained, learned, with_classifier=settings.optimiser.regularise_classifier
    )
    if not weights:
        raise SettingsError(
            "optimiser.l1 and l2 change nothing: no convolution learns; leave them out"
        )
    return WeightPenalty(weights, l1, l2)


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
            margins=trained.predictor.all_margins,
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
        tiles=tiles(settings, plan, trained),
        numerics=numerics(settings),
        background_value=plan.labels.background_value,
        device=torch.device(resolved_device(device)),
    )


def tiles(settings: Settings, plan: Plan, predictor: Network) -> Tiles:
    """How volumes are cut for a network, in validation and prediction.

    Raises:
        SettingsError: The network cannot take ``prediction.patch_size``.
    """
    chosen = settings.prediction
    size = chosen.patch_size
    if size is not None:
        try:
            predictor.output_shape(size)
        except GeometryError as error:
            raise SettingsError(
                f"prediction.patch_size does not suit network {plan.network.name}: "
                f"{error}"
            ) from error
    if predictor.padding == "same":
        return OverlappingTiles(
            size or plan.patches.size, chosen.overlap_fraction, chosen.batch_size
        )
    if predictor.receptive_field is None:
        # The answer depends on all that is seen, so it is seen as in training.
        size = size or plan.patches.size
    return AdjoiningTiles(
        predictor.all_margins, predictor.alignment, chosen.batch_size, size
    )


def windows(settings: Settings, plan: Plan, classifier: Network) -> Tiles:
    """Windows of which a classifier tells what they show: patches as in training."""
    batch_size, size = settings.prediction.batch_size, plan.patches.size
    if classifier.padding == "same":
        return OverlappingTiles(size, 0.0, batch_size)
    return AdjoiningTiles(
        classifier.all_margins, classifier.alignment, batch_size, size
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
