"""What brings a case to a network and back."""

from collections.abc import Mapping

import torch
from torch import Tensor

from foveal.building.names import WITHOUT_PLUGINS
from foveal.building.networks import planned_network
from foveal.config.plan import ChannelConfig, Plan
from foveal.config.settings import Settings
from foveal.errors import GeometryError, RunError, SettingsError
from foveal.inference.model import Model
from foveal.inference.numerics import Numerics
from foveal.inference.tiling import AdjoiningTiles, OverlappingTiles, Tiles
from foveal.networks.interface import Network
from foveal.plugins.parts import Parts
from foveal.preprocessing.bias_field import BiasField
from foveal.preprocessing.histogram_standardisation import Landmarks
from foveal.preprocessing.intensity import (
    WINDOW_PERCENTILES,
    Cutoffs,
    IntensityRecipe,
)
from foveal.preprocessing.pipeline import PreprocessingRecipe


def preprocessing_recipe(plan: Plan) -> PreprocessingRecipe:
    """What a plan makes of a case.

    Raises:
        SettingsError: Landmarks of a channel are not known yet.
    """
    section = plan.preprocessing
    return PreprocessingRecipe(
        orientation=section.orientation,
        spacing_mm=section.spacing_mm,
        crop=section.crop,
        channels=tuple(
            _intensity_recipe(channel, _known_landmarks(channel))
            for channel in section.channels
        ),
        label_values=plan.labels.values,
        combinations=tuple(
            tuple(sorted(names)) for names in plan.labels.combinations[1:]
        ),
        ignore_value=plan.labels.ignore_value,
        resample_channels=section.resample_channels,
        missing_channel_value=section.missing_channel_value,
    )


def recipe_before_landmarks(plan: Plan) -> PreprocessingRecipe:
    """What a plan makes of a case until landmarks are learned from it."""
    channels = tuple(
        channel.model_copy(update={"landmarks": None, "landmark_percentiles": None})
        for channel in plan.preprocessing.channels
    )
    section = plan.preprocessing.model_copy(update={"channels": channels})
    return preprocessing_recipe(plan.model_copy(update={"preprocessing": section}))


def _intensity_recipe(
    channel: ChannelConfig, landmarks: Landmarks | None
) -> IntensityRecipe:
    bias_field, cutoffs = channel.bias_field, channel.cutoffs
    return IntensityRecipe(
        name=channel.name,
        normalisation=channel.normalisation,
        clip=channel.clip,
        mean=channel.mean,
        deviation=channel.deviation,
        percentiles=channel.percentiles or WINDOW_PERCENTILES,
        cutoffs=None if cutoffs is None else Cutoffs(**cutoffs.model_dump()),
        bias_field=None if bias_field is None else BiasField(**bias_field.model_dump()),
        landmarks=landmarks,
    )


def _known_landmarks(channel: ChannelConfig) -> Landmarks | None:
    if isinstance(channel.landmarks, str):
        raise SettingsError(
            f'channel "{channel.name}": landmarks = "{channel.landmarks}", but '
            "landmarks are learned from the training cases of a fold, so foveal train "
            "learns them when a run begins; give the plan.toml of that run, or the "
            "path of its landmarks.json in place of it"
        )
    if channel.landmarks is None:
        return None
    return Landmarks(channel.landmarks.percentiles, channel.landmarks.values)


def membership(plan: Plan) -> Tensor:
    """Whether each structure includes each inside class, ``(structure, class)``."""
    structures = plan.labels.structures.values()
    table = torch.zeros(len(structures), plan.labels.num_classes, dtype=torch.bool)
    for row, classes in zip(table, structures, strict=True):
        row[list(classes)] = True
    return table


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
        mirrored_axes=plan.mirroring.axes,
        sagittal_axis=plan.mirroring.sagittal_axis,
        swapped_classes=plan.swapped_classes,
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
