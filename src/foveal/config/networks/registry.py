"""Every network by its name."""

from collections.abc import Mapping

from foveal.config.networks.deeplab import DeepLabV2Config, DeepLabV3Config
from foveal.config.networks.deepmedic import (
    DeepMedic2dConfig,
    DeepMedic2dDeeperConfig,
    DeepMedic2dLargeConfig,
    DeepMedic2dWiderConfig,
    DeepMedicBigDeepConfig,
    DeepMedicConfig,
    DeepMedicDeepConfig,
    DeepMedicResidualConfig,
    DeepMedicShallowConfig,
    DeepMedicThesisConfig,
    DeepMedicWideConfig,
)
from foveal.config.networks.dual_path import DualPathConfig
from foveal.config.networks.fcn3d import (
    FCN3dConfig,
    ResidualFCN3dConfig,
    ShallowFCN3dConfig,
)
from foveal.config.networks.foreign import (
    MonaiAttentionUNetConfig,
    MonaiDynUNetConfig,
    MonaiSegResNetConfig,
    MonaiSwinUNETRConfig,
    MonaiUNetConfig,
)
from foveal.config.networks.section import NetworkConfig
from foveal.config.networks.unet import (
    EmmaSumUNetConfig,
    EmmaUNetConfig,
    ResidualUNet3dConfig,
    SpleenUNetConfig,
    UNet2dConfig,
    UNet3dConfig,
)
from foveal.config.networks.vgg import (
    DeconvNetConfig,
    DecoupledNetConfig,
    Fcn8sConfig,
    Fcn16sConfig,
    Fcn32sConfig,
    SegNetConfig,
)

NETWORK_SECTIONS: Mapping[str, type[NetworkConfig]] = {
    "unet3d": UNet3dConfig,
    "unet2d": UNet2dConfig,
    "unet3d-residual": ResidualUNet3dConfig,
    "unet3d-concatenated": EmmaUNetConfig,
    "unet3d-sum": EmmaSumUNetConfig,
    "unet3d-spleen": SpleenUNetConfig,
    "fcn3d": FCN3dConfig,
    "fcn3d-residual": ResidualFCN3dConfig,
    "fcn3d-shallow": ShallowFCN3dConfig,
    "monai:unet": MonaiUNetConfig,
    "monai:attentionunet": MonaiAttentionUNetConfig,
    "monai:dynunet": MonaiDynUNetConfig,
    "monai:segresnet": MonaiSegResNetConfig,
    "monai:swinunetr": MonaiSwinUNETRConfig,
    "fcn32s": Fcn32sConfig,
    "fcn16s": Fcn16sConfig,
    "fcn8s": Fcn8sConfig,
    "segnet": SegNetConfig,
    "deconvnet": DeconvNetConfig,
    "decouplednet": DecoupledNetConfig,
    "deeplabv2": DeepLabV2Config,
    "deeplabv3": DeepLabV3Config,
    "deepmedic": DeepMedicConfig,
    "deepmedic-thesis": DeepMedicThesisConfig,
    "deepmedic-residual": DeepMedicResidualConfig,
    "deepmedic-wide": DeepMedicWideConfig,
    "deepmedic-shallow": DeepMedicShallowConfig,
    "deepmedic-deep": DeepMedicDeepConfig,
    "deepmedic-bigdeep": DeepMedicBigDeepConfig,
    "deepmedic2d": DeepMedic2dConfig,
    "deepmedic2d-wider": DeepMedic2dWiderConfig,
    "deepmedic2d-deeper": DeepMedic2dDeeperConfig,
    "deepmedic2d-large": DeepMedic2dLargeConfig,
    "dual-path": DualPathConfig,
}
"""Name to the section that the plan's table ``network`` is read with."""
