"""The method that the settings name, around the planned network."""

from foveal.building.names import METHODS, WITHOUT_PLUGINS, of_another_kind, own_options
from foveal.building.networks import initialised_network
from foveal.building.prediction import membership
from foveal.building.training import (
    intensity_augmentation,
    losses,
    spatial_augmentation,
    weighs_voxels,
)
from foveal.building.updates import frozen_layers
from foveal.config.losses import LossConfig
from foveal.config.plan import Plan
from foveal.config.settings import PredictionConfig, Settings
from foveal.errors import SettingsError
from foveal.methods.classification import Classification
from foveal.methods.interface import Method, Setting
from foveal.methods.labelled_loss import LabelledLoss
from foveal.methods.supervised import Supervised
from foveal.networks.interface import Network
from foveal.plugins.parts import Parts


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
    if name in METHODS and METHODS[name].task == "classification":
        _refuse_settings_of_outlines(settings)
    if name == "classification":
        return Classification(trained, sampler=drawn, batch_size=batch_size)
    counted = losses(settings, plan, parts)
    own = parts.added("method", name)
    weighted = ("cross_entropy",) if weighs_voxels(settings) else ()
    if name == "supervised":
        return Supervised(
            trained,
            counted,
            sampler=drawn,
            batch_size=batch_size,
            voxel_weighted=weighted,
        )
    if own is None:
        setting = Setting(
            network=trained,
            labelled_loss=LabelledLoss(counted, weighted),
            sampler=drawn,
            batch_size=batch_size,
            in_channels=len(plan.preprocessing.channels),
            patch_size=plan.patches.size,
            spacing_mm=plan.preprocessing.spacing_mm,
            structures=membership(plan),
            spatial=spatial_augmentation(settings, plan),
            intensity=intensity_augmentation(settings, plan),
        )
        return METHODS[name](setting, **settings.method.options)
    if weighted:
        raise SettingsError(
            "loss_options.cross_entropy.voxel_weights is for method supervised; leave "
            f"it out with method {name}, which gives its losses no weights"
        )
    options = own_options(settings, name)
    made = parts.built(
        own, options, trained, counted, sampler=drawn, batch_size=batch_size
    )
    if not isinstance(made, Method):
        raise of_another_kind(own, made, "foveal.methods.interface.Method")
    return made


def _refuse_settings_of_outlines(settings: Settings) -> None:
    """Refuse what counts for outlines only.

    Raises:
        SettingsError: Says what to leave out.
    """
    name = settings.method.name
    if settings.sampling.adaptive:
        raise SettingsError(
            f"sampling.adaptive looks at errors of outlines, which method {name} does "
            "not make; leave it out"
        )
    if settings.loss.weights != LossConfig().weights:
        raise SettingsError(
            f"method {name} has a loss of its own, the cross entropy of what a patch "
            "shows; leave the table loss out"
        )
    if settings.loss_options.changed:
        raise SettingsError(
            f"method {name} has a loss of its own; leave out "
            f"loss_options.{', loss_options.'.join(settings.loss_options.changed)}"
        )
    if unused := [
        f"prediction.{option}"
        for option in ("overlap_fraction", "patch_size")
        if getattr(settings.prediction, option) != getattr(PredictionConfig(), option)
    ]:
        raise SettingsError(
            f"method {name} is validated on adjoining windows of the size of its "
            f"patches; leave out {', '.join(unused)}, which it does not use"
        )
