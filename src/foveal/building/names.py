"""Which name in the settings means what, and where plugins come in."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from foveal.config.settings import Settings
from foveal.errors import PluginError, SettingsError
from foveal.losses.border_cross_entropy import border_cross_entropy
from foveal.losses.cross_entropy import cross_entropy
from foveal.losses.dice import dice_loss
from foveal.losses.focal import focal_loss
from foveal.losses.generalised_dice import generalised_dice_loss
from foveal.losses.iou import iou_loss
from foveal.losses.region_cross_entropy import region_cross_entropy
from foveal.losses.top_k import top_k_loss
from foveal.losses.tversky import tversky_loss
from foveal.methods.adversarial import Adversarial
from foveal.methods.cclp import Cclp
from foveal.methods.cclp_classification import CclpClassification
from foveal.methods.classification import Classification
from foveal.methods.consistency import Consistency
from foveal.methods.interface import Method
from foveal.methods.mean_teacher import MeanTeacher
from foveal.methods.pseudo_label import PseudoLabel
from foveal.methods.supervised import Supervised
from foveal.networks import foreign
from foveal.networks.deconvnet import DeconvNet
from foveal.networks.decouplednet import DecoupledNet
from foveal.networks.deeplab import DeepLabV2, DeepLabV3
from foveal.networks.deepmedic import DeepMedic
from foveal.networks.dual_path import DualPath
from foveal.networks.fcn import Fcn
from foveal.networks.fcn3d import FCN3d
from foveal.networks.interface import Network
from foveal.networks.segnet import SegNet
from foveal.networks.spleen_unet import SpleenUNet
from foveal.networks.unet import UNet
from foveal.plugins.files import read_plugins
from foveal.plugins.parts import Parts
from foveal.plugins.registration import Kind, Part, Plugin
from foveal.sampling.laws import (
    Category,
    anywhere,
    by_weight_map,
    class_balanced,
    class_equal,
    foreground_background,
    in_mask,
)

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
    "top_k": top_k_loss,
    "focal": focal_loss,
    "dice": dice_loss,
    "generalised_dice": generalised_dice_loss,
    "iou": iou_loss,
    "tversky": tversky_loss,
    "region_cross_entropy": region_cross_entropy,
    "border_cross_entropy": border_cross_entropy,
}


SAMPLERS: dict[str, Callable[..., Sequence[Category]]] = {
    "uniform": anywhere,
    "class_balanced": class_balanced,
    "foreground_background": foreground_background,
    "class_equal": class_equal,
    "mask": in_mask,
    "weight_map": by_weight_map,
}
"""Laws of the base samplers; their options are of the same names in the settings."""


METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "classification": Classification,
    "consistency": Consistency,
    "mean_teacher": MeanTeacher,
    "adversarial": Adversarial,
    "cclp": Cclp,
    "cclp_classification": CclpClassification,
    "pseudo_label": PseudoLabel,
}


BUILT_IN: dict[Kind, Collection[str]] = {
    "loss": LOSSES,
    "network": NETWORKS,
    "sampler": SAMPLERS,
    "method": METHODS,
}


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


def own_options(settings: Settings, name: str) -> object:
    """The table of a plugin's part, as far as it is written."""
    return settings.plugins.model_dump().get(name, {})


def of_another_kind(part: Part, made: object, base: str) -> PluginError:
    """What to tell of a part that builds something that its kind is not."""
    return PluginError(
        f'{part.kind} "{part.name}" is of type {type(made).__name__}; derive it from '
        f"{base}"
    )
