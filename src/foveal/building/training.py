"""What makes and trains on batches."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

from lightning_fabric import Fabric

from foveal.augmentation.intensity import IntensityAugmentation
from foveal.augmentation.spatial import SpatialAugmentation
from foveal.building.names import (
    LOSSES,
    SAMPLERS,
    WITHOUT_PLUGINS,
    own_options,
)
from foveal.building.prediction import membership, resolved_device
from foveal.config.plan import Plan
from foveal.config.sampling import SamplingConfig
from foveal.config.settings import Settings
from foveal.engine.loading import PatchSource, Sampler
from foveal.engine.made_labels import MadeLabels
from foveal.errors import PluginError, SettingsError
from foveal.methods.interface import Method
from foveal.methods.labelled_loss import Loss
from foveal.plugins.parts import Parts
from foveal.sampling.adaptive import WITHOUT_ERROR_MAPS, AdaptiveSampler, ErrorMaps
from foveal.sampling.curriculum import Curriculum
from foveal.sampling.samplers import BaseSampler
from foveal.settings_files import options_of
from foveal.store.store import StoredCase

ANISOTROPY = 3.0
"""From this ratio of spacings on, patches are only rotated in the fine plane."""


def weighs_voxels(settings: Settings) -> bool:
    """Whether voxels count by the users' weight maps in a loss."""
    return settings.loss_options.cross_entropy.voxel_weights


def losses(
    settings: Settings, plan: Plan, parts: Parts = WITHOUT_PLUGINS
) -> dict[str, tuple[Loss, float]]:
    """Losses that count and their weights.

    Raises:
        SettingsError: Weights of classes do not suit the plan.
    """
    options_of_built_in: dict[str, dict[str, Any]] = settings.loss_options.model_dump()
    options_of_built_in["cross_entropy"] = {
        "class_weights": class_weights(settings, plan)
    }
    found: dict[str, tuple[Loss, float]] = {}
    for name, weight in settings.loss.weights.items():
        own = parts.added("loss", name)
        if own is None:
            loss, options = LOSSES[name], options_of_built_in.get(name, {})
        else:
            given = own_options(settings, name)
            loss, options = (
                own.build,
                options_of(own.section, given, f"plugins.{name}"),
            )
        found[name] = partial(loss, **options), weight
    return found


def class_weights(settings: Settings, plan: Plan) -> tuple[float, ...] | None:
    """Weight of every inside class in cross entropy; ``None``: all alike.

    Raises:
        SettingsError: A name is no structure, or no class is left that counts.
    """
    named = settings.loss_options.cross_entropy.class_weights
    if not named:
        return None
    structures = plan.labels.structures
    if unknown := sorted(named.keys() - structures.keys() - {"background"}):
        raise SettingsError(
            f"loss_options.cross_entropy.class_weights names {unknown}; there are "
            f"{list(structures)} and background"
        )
    weights = [1.0] * plan.labels.num_classes
    for name, classes in {**structures, "background": (0,)}.items():
        for number in classes:
            weights[number] *= named.get(name, 1.0)
    if not any(weights):
        raise SettingsError(
            "loss_options.cross_entropy.class_weights leaves nothing: every class "
            "weighs 0"
        )
    return tuple(weights)


def sampler(
    name: str,
    settings: Settings,
    plan: Plan,
    parts: Parts = WITHOUT_PLUGINS,
    maps: ErrorMaps = WITHOUT_ERROR_MAPS,
) -> Sampler:
    """A sampler by its name in the settings, adaptive if they say so.

    Args:
        name: Of the base sampler.
        settings: Of the run.
        plan: Of the run.
        parts: Those that the settings choose from.
        maps: Of the run, for an adaptive sampler.
    """
    base = _base_sampler(name, settings, plan, parts)
    if not settings.sampling.adaptive:
        return base
    if not isinstance(base, BaseSampler):
        raise SettingsError(
            f'sampling.adaptive needs to know the law of sampler "{name}"; let the '
            "plugin give a foveal.sampling.samplers.BaseSampler, or choose one of "
            f"{', '.join(SAMPLERS)}"
        )
    chosen = settings.error_map_rules
    return AdaptiveSampler(base, maps, epsilon=chosen.epsilon, mode=chosen.draw)


def _base_sampler(name: str, settings: Settings, plan: Plan, parts: Parts) -> Sampler:
    own = parts.added("sampler", name)
    if own is not None:
        options = own_options(settings, name)
        made = parts.built(own, options, plan.labels.structures)
        if not callable(getattr(made, "draw", None)):
            raise PluginError(
                f'sampler "{name}" is of type {type(made).__name__}, without '
                "draw(cases, patch_size, generator); see foveal.sampling.samplers"
            )
        return made
    weights = settings.sampling.structure_weights
    structures = plan.labels.structures
    unknown = sorted(weights.keys() - structures.keys())
    if unknown:
        raise SettingsError(
            f"sampling.structure_weights names {unknown}; "
            f"the structures are {list(structures)}"
        )
    options = {
        "foreground_fraction": settings.sampling.foreground_fraction,
        "structures": tuple(structures.values()),
        # Once weights are given, a structure without one is not drawn for.
        "weights": tuple(
            weights.get(structure, 0.0) if weights else 1.0 for structure in structures
        ),
    }
    law = SAMPLERS[name]
    taken = inspect.signature(law).parameters
    if weights and "weights" not in taken:
        raise SettingsError(
            f"sampling.structure_weights changes nothing with sampler {name}; leave it "
            "out, or choose class_balanced"
        )
    usual = SamplingConfig().foreground_fraction
    if options["foreground_fraction"] != usual and "foreground_fraction" not in taken:
        raise SettingsError(
            f"sampling.foreground_fraction changes nothing with sampler {name}; leave "
            "it out, or choose class_balanced or foreground_background"
        )
    return BaseSampler(
        partial(law, **{key: options[key] for key in options.keys() & taken.keys()})
    )


def patch_sources(
    settings: Settings,
    plan: Plan,
    trained: Method,
    cases: Mapping[str, Sequence[StoredCase]],
    rank: int,
    parts: Parts = WITHOUT_PLUGINS,
    maps: ErrorMaps = WITHOUT_ERROR_MAPS,
    made_labels: MadeLabels | None = None,
) -> dict[str, PatchSource]:
    """What makes the batches of every stream of a method.

    Args:
        settings: Of the run.
        plan: Of the run.
        trained: Whose streams are wanted.
        cases: By the names that streams use, such as ``"labelled"``.
        rank: Of this process among the data-parallel ones.
        parts: Those that the settings choose from.
        maps: Error maps of the run, for an adaptive sampler.
        made_labels: Of the stream that the method's ``refresh`` is of; ``None``: it is
            not read with them.
    """
    made_for = trained.refresh.stream if trained.refresh else None
    curriculum_steps = (
        settings.error_maps.curriculum_steps if settings.error_maps else 0
    )
    return {
        name: PatchSource(
            name=name,
            cases=cases[stream.cases],
            sampler=sampler(stream.sampler, settings, plan, parts, maps)
            if stream.cases == "labelled"
            # There are no errors to see where nothing is outlined.
            else _base_sampler(stream.sampler, settings, plan, parts),
            patch_size=plan.patches.size,
            margins=trained.predictor.all_margins,
            spacing_mm=plan.preprocessing.spacing_mm,
            batch_size=stream.batch_size,
            structures=membership(plan),
            spatial=spatial_augmentation(settings, plan),
            intensity=intensity_augmentation(settings, plan),
            seed=settings.training.seed,
            rank=rank,
            tells_presence=stream.cases == "image_labelled",
            reads_weight_maps=weighs_voxels(settings),
            made_labels=made_labels if name == made_for else None,
            one_case_per_batch=settings.sampling.one_case_per_batch,
            balances_domains=settings.sampling.balance_domains
            and stream.cases in ("labelled", "image_labelled"),
            # Others are drawn uniformly: no domain is to be known by its easy cases.
            curriculum=Curriculum(maps, curriculum_steps)
            if curriculum_steps and stream.cases == "labelled"
            else None,
        )
        for name, stream in trained.streams.items()
    }


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
    """Changes of geometry, with what the plan says of axes and sides.

    Raises:
        SettingsError: Jitter would leave no spacing.
    """
    chosen = settings.augmentation
    mirroring = plan.mirroring
    spacing_mm = plan.preprocessing.spacing_mm
    coarsest = max(range(3), key=lambda axis: spacing_mm[axis])
    is_flat = spacing_mm[coarsest] >= ANISOTROPY * min(spacing_mm)
    axes = (coarsest,) if is_flat else (0, 1, 2)
    if chosen.spacing_jitter_probability and (
        chosen.spacing_jitter_mm >= min(spacing_mm)
    ):
        raise SettingsError(
            f"augmentation.spacing_jitter_mm {chosen.spacing_jitter_mm:g} must be "
            f"below the smallest of preprocessing.spacing_mm, {min(spacing_mm):g}"
        )
    return SpatialAugmentation(
        rotation_probability=chosen.rotation_probability,
        rotation_degrees=_angle_per_axis(chosen.rotation_degrees, axes),
        scaling_probability=chosen.scaling_probability,
        scaling=chosen.scaling,
        shear_probability=chosen.shear_probability,
        shear_degrees=chosen.shear_degrees,
        shear_axes=axes,
        spacing_jitter_probability=chosen.spacing_jitter_probability,
        spacing_jitter_mm=chosen.spacing_jitter_mm,
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


def _angle_per_axis(
    degrees: float | tuple[float, float, float], axes: Sequence[int]
) -> tuple[float, float, float]:
    """Angles for i, j and k; a single one holds for ``axes`` only."""
    if isinstance(degrees, tuple):
        return degrees
    i, j, k = (degrees if axis in axes else 0.0 for axis in range(3))
    return i, j, k


def intensity_augmentation(settings: Settings, plan: Plan) -> IntensityAugmentation:
    """Changes of intensities, which leave missing channels alone."""
    names = {field.name for field in fields(IntensityAugmentation)}
    return IntensityAugmentation(
        **settings.augmentation.model_dump(include=names),
        missing_channel_value=plan.preprocessing.missing_channel_value,
    )
