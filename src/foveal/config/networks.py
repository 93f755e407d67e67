"""Options of every network, by its name; see the classes in `foveal.networks`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from foveal.config.sections import Pair, Section, Triple

PerAxis = PositiveInt | tuple[PositiveInt, ...]
"""One number for all axes, or one for each."""

DropoutFraction = Annotated[float, Field(ge=0.0, lt=1.0)]

Layers = tuple[PositiveInt, ...] | tuple[tuple[PositiveInt, ...], ...]
"""Channels per layer, of all pathways or a list for each."""

ResidualLayers = tuple[Annotated[int, Field(ge=2)], ...]

DEFAULT_NETWORK = "unet3d"
"""The network of a plan that names none."""


class NetworkConfig(Section):
    """Shape of the network; ``name`` decides which options there are."""

    name: str
    """Of the network, as in `foveal.network`."""

    published_output: ClassVar[tuple[int, ...]] = ()
    """Voxels that its authors predict per training patch; empty: the data decide."""

    published_batch_size: ClassVar[int | None] = None
    """Patches per step of its authors; ``None``: the data decide."""

    @property
    def options(self) -> dict[str, Any]:
        """What its class is built with, apart from channels and classes."""
        return {key: value for key, value in self if key != "name"}


class UnknownNetworkConfig(NetworkConfig, extra="allow"):
    """Options of a network whose plugin was not given; for reading only."""


class UNetConfig(NetworkConfig):
    """U-Net whose kernels and strides may differ per axis.

    `unet2d` has the same options with two numbers per kernel and stride instead of
    three, and 32, 64, 128, 256, 512 features. `unet3d-residual` has a residual encoder.
    `unet3d-sum` and `unet3d-concatenated` are the two of EMMA: batch norm, ReLU and 32,
    64, 128, 256 features; the first pools by the maximum and sums at its skips.
    """

    name: str = "unet3d"
    """Of the network, as in `foveal.network`. A plugin's has options of its own."""

    features: tuple[PositiveInt, ...] = Field((16, 32, 64, 128), min_length=1)
    """Channels per stage, finest first."""

    kernels: tuple[tuple[PositiveInt, ...], ...] = ((3, 3, 3),) * 4
    """Convolution kernel per stage, in voxels; odd."""

    strides: tuple[tuple[PositiveInt, ...], ...] = ((2, 2, 2),) * 3
    """Downsampling into each stage after the first."""

    convolutions: PositiveInt = 2
    """Convolutions per stage, on the way down and on the way up."""

    norm: Literal["instance", "batch", "none"] = "instance"
    """Normalisation after every convolution."""

    activation: Literal["leaky_relu", "relu"] = "leaky_relu"
    """After every normalisation."""

    downsampling: Literal["strided", "max_pool"] = "strided"
    """By the first convolution of a stage, or by max pooling before it."""

    skips: Literal["concatenated", "summed"] = "concatenated"
    """How the way up takes what the way down gives: as further channels, or added."""

    residual: bool = False
    """Stages of the way down add what they take in to what they make of it."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Channels dropped after each stage, in training."""

    deep_supervision: bool = False
    """Also predict from the coarser stages of the way up while training."""

    @model_validator(mode="after")
    def stages_agree(self) -> Self:
        """Refuse lists of different depth and even kernels."""
        stages = len(self.features)
        if len(self.kernels) != stages or len(self.strides) != stages - 1:
            raise ValueError(
                f"network.features has {stages} stages; network.kernels has "
                f"{len(self.kernels)} entries (needs {stages}) and network.strides "
                f"{len(self.strides)} (needs {stages - 1})"
            )
        if any(size % 2 == 0 for kernel in self.kernels for size in kernel):
            raise ValueError(f"network.kernels {self.kernels} must be odd")
        return self


class UNet3dConfig(UNetConfig):
    """`UNetConfig` for volumes."""

    kernels: tuple[Triple, ...] = ((3, 3, 3),) * 4
    strides: tuple[Triple, ...] = ((2, 2, 2),) * 3


class UNet2dConfig(UNetConfig):
    """`UNetConfig` for pictures and slices."""

    name: str = "unet2d"
    features: tuple[PositiveInt, ...] = Field((32, 64, 128, 256, 512), min_length=1)
    kernels: tuple[Pair, ...] = ((3, 3),) * 5
    strides: tuple[Pair, ...] = ((2, 2),) * 4


class ResidualUNet3dConfig(UNet3dConfig):
    """`UNet3dConfig` with a residual encoder."""

    name: str = "unet3d-residual"
    residual: bool = True


class EmmaUNetConfig(UNet3dConfig):
    """EMMA's second U-Net, and what its first shares with it."""

    published_output: ClassVar[tuple[int, ...]] = (64, 64, 64)

    name: str = "unet3d-concatenated"
    features: tuple[PositiveInt, ...] = Field((32, 64, 128, 256), min_length=1)
    norm: Literal["instance", "batch", "none"] = "batch"
    activation: Literal["leaky_relu", "relu"] = "relu"


class EmmaSumUNetConfig(EmmaUNetConfig):
    """EMMA's first U-Net."""

    name: str = "unet3d-sum"
    downsampling: Literal["strided", "max_pool"] = "max_pool"
    skips: Literal["concatenated", "summed"] = "summed"


class SpleenUNetConfig(NetworkConfig):
    """U-Net with double convolutions of a report on the spleen; see its class."""

    published_output: ClassVar[tuple[int, ...]] = (128, 128, 64)

    name: str = "unet3d-spleen"
    """Of the network."""

    width: PositiveInt = 8
    """Channels at full resolution; they double at each of four halvings."""

    upsampling_kernel: Literal[1, 3] = 1
    """Of the convolution after each upsampling, in voxels."""

    norm: Literal["batch", "none"] = "batch"
    """Normalisation after the double convolutions."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Numbers dropped after every stage but the first, in training."""


class FCN3dConfig(NetworkConfig):
    """Fully convolutional network of EMMA.

    Variants: ``fcn3d-residual``, whose every convolution is a residual block of two,
    and ``fcn3d-shallow``, which also has one stage less.
    """

    published_output: ClassVar[tuple[int, ...]] = (64, 64, 64)

    name: str = "fcn3d"
    """Of the network: ``fcn3d``, ``fcn3d-residual`` or ``fcn3d-shallow``."""

    features: tuple[PositiveInt, ...] = Field((16, 32, 64, 128), min_length=1)
    """Channels per stage, finest first."""

    strides: tuple[Triple, ...] = ((2, 2, 2),) * 3
    """Max pooling into each stage after the first."""

    convolutions: PositiveInt = 2
    """Convolutions, or residual blocks, per stage."""

    residual: bool = False
    """Each convolution is a residual block of two."""

    decoder: Literal["sum", "concatenate"] = "sum"
    """How upsampled scores meet the features of the next finer stage: ``sum`` adds
    scores made of these, ``concatenate`` makes scores of both together."""

    score_kernel: PositiveInt = 1
    """Of the convolution that makes scores, on every axis; odd. The coarsest scores are
    always of kernel 1."""

    @model_validator(mode="after")
    def stages_agree(self) -> Self:
        """Refuse lists of different depth and an even kernel."""
        require_step_between_stages(self.features, self.strides)
        if self.score_kernel % 2 == 0:
            raise ValueError(f"network.score_kernel {self.score_kernel} must be odd")
        return self


class ResidualFCN3dConfig(FCN3dConfig):
    """The second of EMMA's three."""

    published_output: ClassVar[tuple[int, ...]] = (80, 80, 80)

    name: str = "fcn3d-residual"
    residual: bool = True


class ShallowFCN3dConfig(ResidualFCN3dConfig):
    """The third of EMMA's three."""

    name: str = "fcn3d-shallow"
    features: tuple[PositiveInt, ...] = Field((16, 32, 64), min_length=1)
    strides: tuple[Triple, ...] = ((2, 2, 2),) * 2


class MonaiUNetConfig(NetworkConfig):
    """MONAI's residual U-Net; needs ``foveal[monai]``."""

    name: str = "monai:unet"

    dimensions: Literal[2, 3] = 3
    """2: slice by slice."""

    features: tuple[PositiveInt, ...] = Field((16, 32, 64, 128, 256), min_length=2)
    """Channels per stage, finest first."""

    strides: tuple[PositiveInt, ...] = (2, 2, 2, 2)
    """Downsampling into each stage after the first."""

    residual_units: NonNegativeInt = 2
    """Convolutions per stage around which a shortcut leads; 0: one without."""

    norm: Literal["instance", "batch"] = "instance"
    """Normalisation after every convolution."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Channels dropped after each convolution, in training."""

    @model_validator(mode="after")
    def stages_agree(self) -> Self:
        """Refuse lists of different depth."""
        require_step_between_stages(self.features, self.strides)
        return self


class MonaiAttentionUNetConfig(NetworkConfig):
    """MONAI's U-Net with attention gates at its skips; needs ``foveal[monai]``."""

    name: str = "monai:attentionunet"

    dimensions: Literal[2, 3] = 3
    """2: slice by slice."""

    features: tuple[PositiveInt, ...] = Field((16, 32, 64, 128), min_length=2)
    """Channels per stage, finest first; the first even."""

    strides: tuple[PositiveInt, ...] = (2, 2, 2)
    """Downsampling into each stage after the first."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Channels dropped after each convolution, in training."""

    @model_validator(mode="after")
    def stages_agree(self) -> Self:
        """Refuse lists of different depth."""
        require_step_between_stages(self.features, self.strides)
        return self


class MonaiDynUNetConfig(NetworkConfig):
    """MONAI's U-Net after nnU-Net, alike on every axis; needs ``foveal[monai]``."""

    name: str = "monai:dynunet"

    dimensions: Literal[2, 3] = 3
    """2: slice by slice."""

    features: tuple[PositiveInt, ...] = Field((32, 64, 128, 256), min_length=3)
    """Channels per stage, finest first."""

    strides: tuple[PositiveInt, ...] = (2, 2, 2)
    """Downsampling into each stage after the first."""

    residual: bool = False
    """Residual blocks in place of two plain convolutions."""

    norm: Literal["instance", "batch"] = "instance"
    """Normalisation after every convolution."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Channels dropped after each convolution, in training."""

    @model_validator(mode="after")
    def stages_agree(self) -> Self:
        """Refuse lists of different depth."""
        require_step_between_stages(self.features, self.strides)
        return self


class MonaiSegResNetConfig(NetworkConfig):
    """MONAI's residual encoder with a small decoder; needs ``foveal[monai]``."""

    name: str = "monai:segresnet"

    dimensions: Literal[2, 3] = 3
    """2: slice by slice."""

    first_features: Annotated[PositiveInt, Field(multiple_of=8)] = 16
    """Channels of the finest stage, doubled with each; normalised in 8 groups."""

    blocks_down: tuple[PositiveInt, ...] = Field((1, 2, 2, 4), min_length=2)
    """Residual blocks per stage of the encoder, finest first."""

    blocks_up: tuple[PositiveInt, ...] = (1, 1, 1)
    """Residual blocks per stage of the decoder, coarsest first."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Channels dropped after the first convolution, in training."""

    @model_validator(mode="after")
    def stages_agree(self) -> Self:
        """Refuse a decoder of another depth than the encoder."""
        if len(self.blocks_up) != len(self.blocks_down) - 1:
            raise ValueError(
                f"network.blocks_down has {len(self.blocks_down)} stages; "
                f"network.blocks_up has {len(self.blocks_up)} entries (needs "
                f"{len(self.blocks_down) - 1})"
            )
        return self


class DeepMedicConfig(NetworkConfig):
    """Parallel pathways at several resolutions, valid convolutions.

    These defaults are those of the authors' program since June 2018. The same options
    with other defaults: ``deepmedic-thesis`` (and MedIA 2017: two pathways, no residual
    layers), ``deepmedic-residual`` (BRATS 2016: two pathways), ``deepmedic-wide``; of
    the thesis, table 3.1, ``deepmedic-shallow`` (neither batch norm nor He's
    initialisation; with ``norm = "batch"`` and ``initialisation = "he"`` it is
    Shallow+), ``deepmedic-deep`` (Deep+; with ``"none"`` and ``"normal"`` it is Deep,
    which the thesis could not train), ``deepmedic-bigdeep`` (BigDeep+), and in 2D
    ``deepmedic2d`` (Dm2dSeg), ``deepmedic2d-wider``, ``deepmedic2d-deeper`` and
    ``deepmedic2d-large``.
    """

    name: str = "deepmedic"
    """Of the network, as in `foveal.network`."""

    published_output: ClassVar[tuple[int, ...]] = (15, 15, 15)
    # 21 in the authors' program; 15 is the nearest multiple of the alignment.
    published_batch_size: ClassVar[int | None] = 10

    dimensions: Literal[2, 3] = 3
    """Of the images it sees; 2: every slice by itself."""

    factors: tuple[PerAxis, ...] = Field((1, 3, 5), min_length=1)
    """Downsampling of each pathway, one number or one per axis; the first is 1."""

    features: Layers = Field((30, 30, 40, 40, 40, 40, 50, 50), min_length=1)
    """Channels per layer, of all pathways or a list for each."""

    kernels: tuple[PerAxis, ...] = Field((3,), min_length=1)
    """Per layer, one number or one per axis; or one entry for all layers."""

    residual_layers: ResidualLayers = (4, 6, 8)
    """Layers, from 1, to whose output the input of the layer before is added."""

    hidden_features: tuple[PositiveInt, ...] = (250, 250)
    """Channels of the layers between the concatenated pathways and the classifier."""

    hidden_kernel: PerAxis = 3
    """Of the first of these layers, one number or one per axis; the others have 1."""

    hidden_residual_layers: ResidualLayers = (2,)
    """As ``residual_layers``, of these layers."""

    norm: Literal["batch", "none"] = "batch"
    """Before every activation; without, a learned bias."""

    dropout_fractions: tuple[DropoutFraction, ...] = Field((0.0,), min_length=1)
    """Of what goes into each layer of the pathways, in training; or one for all. The
    thesis has 0.02 for brain injuries."""

    hidden_dropout_fractions: tuple[DropoutFraction, ...] = Field(
        (0.0, 0.5, 0.5), min_length=1
    )
    """Of what goes into each hidden layer and the classifier; or one for all."""

    upsampling: Literal["repetition", "linear", "deconvolution"] = "repetition"
    """How the wide pathways come back to full resolution."""

    initialisation: Literal["he", "normal"] = "he"
    """Normal, with variance 2 / inputs or with ``initial_deviation``."""

    initial_deviation: PositiveFloat = 0.01
    """Of ``normal``."""

    @model_validator(mode="after")
    def axes_agree(self) -> Self:
        """Refuse sizes for another number of axes, and a first pathway that is wide."""
        sizes = {"factors": self.factors, "kernels": self.kernels}
        for option, values in {**sizes, "hidden_kernel": (self.hidden_kernel,)}.items():
            for size in values:
                if not isinstance(size, int) and len(size) != self.dimensions:
                    raise ValueError(
                        f"network.{option}: {size} has {len(size)} axes, but "
                        f"network.dimensions is {self.dimensions}"
                    )
        sharp = self.factors[0]
        if any(
            factor != 1 for factor in ([sharp] if isinstance(sharp, int) else sharp)
        ):
            raise ValueError(
                f"network.factors {self.factors} must begin with the sharp pathway, 1"
            )
        return self

    @model_validator(mode="after")
    def layers_agree(self) -> Self:
        """Refuse lists that do not fit the number of pathways or layers."""
        listed = [each for each in self.features if isinstance(each, tuple)]
        depths = [len(channels) for channels in listed] or [len(self.features)]
        if listed and len(listed) != len(self.factors):
            raise ValueError(
                f"network.features has lists for {len(listed)} pathways; "
                f"network.factors has {len(self.factors)}"
            )
        hidden = len(self.hidden_features)
        per_layer = [
            ("kernels", len(self.kernels)),
            ("dropout_fractions", len(self.dropout_fractions)),
        ]
        lengths = [(*option, depth) for option in per_layer for depth in depths]
        fractions = len(self.hidden_dropout_fractions)
        lengths.append(("hidden_dropout_fractions", fractions, hidden + 1))
        for option, length, layers in lengths:
            if length not in (1, layers):
                raise ValueError(
                    f"network.{option} has {length} entries; it needs 1 or {layers}, "
                    "one per layer"
                )
        for option, residual, layers in (
            ("residual_layers", self.residual_layers, min(depths)),
            ("hidden_residual_layers", self.hidden_residual_layers, hidden),
        ):
            if max(residual, default=0) > layers:
                raise ValueError(
                    f"network.{option} names layer {max(residual)}; there are {layers}"
                )
        return self


class DeepMedicResidualConfig(DeepMedicConfig):
    """BRATS 2016: two pathways, residual connections."""

    name: str = "deepmedic-residual"
    published_output: ClassVar[tuple[int, ...]] = (9, 9, 9)
    factors: tuple[PerAxis, ...] = Field((1, 3), min_length=1)
    hidden_features: tuple[PositiveInt, ...] = (150, 150)


class DeepMedicThesisConfig(DeepMedicResidualConfig):
    """Thesis chapter 3 and MedIA 2017: two pathways, no residual connections."""

    name: str = "deepmedic-thesis"
    residual_layers: ResidualLayers = ()
    hidden_kernel: PerAxis = 1
    hidden_residual_layers: ResidualLayers = ()


class DeepMedicWideConfig(DeepMedicConfig):
    """The authors' wide model."""

    name: str = "deepmedic-wide"
    features: Layers = Field((30, 40, 50, 60, 70, 80, 90, 100), min_length=1)
    hidden_features: tuple[PositiveInt, ...] = (300, 300)


class DeepMedicDeepConfig(DeepMedicThesisConfig):
    """Deep+ of table 3.1: one pathway and no hidden layers."""

    name: str = "deepmedic-deep"
    factors: tuple[PerAxis, ...] = Field((1,), min_length=1)
    hidden_features: tuple[PositiveInt, ...] = ()
    hidden_dropout_fractions: tuple[DropoutFraction, ...] = Field((0.0,), min_length=1)


class DeepMedicShallowConfig(DeepMedicDeepConfig):
    """Shallow of table 3.1."""

    name: str = "deepmedic-shallow"
    features: Layers = Field((30, 40, 40, 50), min_length=1)
    kernels: tuple[PerAxis, ...] = Field((5,), min_length=1)
    norm: Literal["batch", "none"] = "none"
    initialisation: Literal["he", "normal"] = "normal"


class DeepMedicBigDeepConfig(DeepMedicThesisConfig):
    """BigDeep+ of table 3.1: one pathway, twice the channels."""

    name: str = "deepmedic-bigdeep"
    factors: tuple[PerAxis, ...] = Field((1,), min_length=1)
    features: Layers = Field((60, 60, 80, 80, 80, 80, 100, 100), min_length=1)


class DeepMedic2dConfig(DeepMedicThesisConfig):
    """Dm2dSeg of table 3.1."""

    name: str = "deepmedic2d"
    published_output: ClassVar[tuple[int, ...]] = (9, 9)
    published_batch_size: ClassVar[int | None] = 250
    dimensions: Literal[2] = 2


class DeepMedic2dWiderConfig(DeepMedic2dConfig):
    """Wider2dSeg of table 3.1."""

    name: str = "deepmedic2d-wider"
    published_batch_size: ClassVar[int | None] = 100
    features: Layers = Field((60, 60, 80, 80, 80, 80, 100, 100), min_length=1)
    hidden_features: tuple[PositiveInt, ...] = (200, 200)


class DeepMedic2dDeeperConfig(DeepMedic2dConfig):
    """Deeper2dSeg of table 3.1: 16 layers, linearly 30 to 50 channels."""

    name: str = "deepmedic2d-deeper"
    published_batch_size: ClassVar[int | None] = 100
    features: Layers = Field(
        (30, 31, 33, 34, 35, 37, 38, 39, 41, 42, 43, 45, 46, 47, 49, 50), min_length=1
    )


class DeepMedic2dLargeConfig(DeepMedic2dConfig):
    """Large2dSeg of table 3.1: 12 layers, linearly 45 to 80 channels."""

    name: str = "deepmedic2d-large"
    published_batch_size: ClassVar[int | None] = 100
    features: Layers = Field(
        (45, 48, 51, 55, 58, 61, 64, 67, 70, 74, 77, 80), min_length=1
    )
    hidden_features: tuple[PositiveInt, ...] = (200, 200)


class DualPathConfig(NetworkConfig):
    """Residual network with a sharp and a quarter-resolution pathway.

    A reconstruction: 19 layers, receptive field 124^3 and, with one channel and two
    classes, 649,251 parameters are the paper's; the channels per layer are not known.
    """

    name: str = "dual-path"
    """Of the network, as in `foveal.network`."""

    published_output: ClassVar[tuple[int, ...]] = (16, 16, 16)
    # The paper's figure has the size, its text does not: a choice.
    published_batch_size: ClassVar[int | None] = 12

    factor: PositiveInt = 4
    """Downsampling of the coarse pathway."""

    downsampling: Literal["probing", "averaging"] = "probing"
    """Every fourth voxel, or the mean of every block of four."""

    convolution_features: tuple[PositiveInt, ...] = (20, 20)
    """Channels of the plain convolutions at the start of a pathway."""

    block_features: tuple[PositiveInt, ...] = (20, 24, 24, 24, 24, 64)
    """Channels of the residual blocks that follow."""

    bottleneck_features: tuple[tuple[PositiveInt, PositiveInt], ...] = ((16, 64),)
    """Inner and outer channels of the bottleneck blocks at the end."""

    hidden_features: tuple[PositiveInt, ...] = (85,)
    """Channels of the fully connected layers before the classifier."""

    dropout_fraction: DropoutFraction = 0.5
    """Before each fully connected layer, in training."""

    zero_gamma: bool = True
    """Residual blocks start as their shortcut."""

    @model_validator(mode="after")
    def pathway_has_layers(self) -> Self:
        """Refuse a pathway that does nothing."""
        if not (
            self.convolution_features or self.block_features or self.bottleneck_features
        ):
            raise ValueError(
                "network: convolution_features, block_features and bottleneck_features "
                "are all empty; a pathway needs a layer"
            )
        return self


class MonaiSwinUNETRConfig(NetworkConfig):
    """MONAI's U-Net with a shifted-window transformer; needs ``foveal[monai]``.

    Patches must be longer than 32 voxels on at least one axis.
    """

    name: str = "monai:swinunetr"

    dimensions: Literal[2, 3] = 3
    """2: slice by slice."""

    first_features: Annotated[PositiveInt, Field(multiple_of=12)] = 24
    """Channels of the finest stage, doubled with each."""

    depths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (2, 2, 2, 2)
    """Transformer blocks per stage."""

    heads: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (3, 6, 12, 24)
    """Attention heads per stage."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Of the transformer's activations, in training."""


def require_step_between_stages(
    features: tuple[int, ...], strides: tuple[object, ...]
) -> None:
    """Refuse strides that are not one less than the stages."""
    if len(strides) != len(features) - 1:
        raise ValueError(
            f"network.features has {len(features)} stages; network.strides has "
            f"{len(strides)} entries (needs {len(features) - 1})"
        )


VggFeatures = tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt, PositiveInt]
"""Channels of VGG16's five stages."""


class Fcn32sConfig(NetworkConfig):
    """Fully convolutional VGG16, 2D.

    ``fcn16s`` has the same settings and ``pool4_scale`` (1.0), a factor of the fourth
    pooling before it is scored; ``fcn8s`` also ``pool3_scale``. Where all strides are
    trained at once, the authors set 0.01 and 0.0001.
    """

    name: str = "fcn32s"
    """``fcn16s`` adds scores of the fourth pooling, ``fcn8s`` also of the third."""

    features: VggFeatures = (64, 128, 256, 512, 512)
    """Channels per stage, finest first."""

    head_features: PositiveInt = 4096
    """Channels of the two layers that were fully connected."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """After each of those two, in training."""

    input_padding: PositiveInt = 100
    """Zeros around the image. 1 is far cheaper for small images, and puts zeros around
    the last pooling instead."""

    upsampling: Literal["fixed", "learned"] = "fixed"
    """``fixed``: bilinear. ``learned``: weights that start there."""

    published_output: ClassVar[tuple[int, ...]] = (500, 500)
    published_batch_size: ClassVar[int | None] = 1


class Fcn16sConfig(Fcn32sConfig):
    """With scores of the fourth pooling."""

    name: str = "fcn16s"

    pool4_scale: PositiveFloat = 1.0
    """Factor of the fourth pooling before it is scored; 0.01 where all strides are
    trained at once."""


class Fcn8sConfig(Fcn16sConfig):
    """And with those of the third."""

    name: str = "fcn8s"

    pool3_scale: PositiveFloat = 1.0
    """Factor of the third pooling before it is scored; 0.0001 where all strides are
    trained at once."""


class SegNetConfig(NetworkConfig):
    """VGG16's convolutions and their mirror image with pooling indices, 2D."""

    name: str = "segnet"

    features: VggFeatures = (64, 128, 256, 512, 512)
    """Channels per stage, finest first."""

    published_output: ClassVar[tuple[int, ...]] = (360, 480)
    published_batch_size: ClassVar[int | None] = 4


class DeconvNetConfig(NetworkConfig):
    """VGG16 with fully connected layers and its mirror image by unpooling, 2D."""

    name: str = "deconvnet"

    features: VggFeatures = (64, 128, 256, 512, 512)
    """Channels per stage, finest first."""

    head_features: PositiveInt = 4096
    """Channels of the two layers that were fully connected."""

    published_output: ClassVar[tuple[int, ...]] = (224, 224)
    # Of the 64 per update: the authors add the gradients of eight such batches.
    published_batch_size: ClassVar[int | None] = 8


class DecoupledNetConfig(NetworkConfig):
    """A VGG16 trained with image labels guides a decoder trained with masks, 2D."""

    name: str = "decouplednet"

    features: VggFeatures = (64, 128, 256, 512, 512)
    """Channels per stage, finest first."""

    head_features: PositiveInt = 4096
    """Channels of the classifier's two layers that were fully connected."""

    bridge_features: PositiveInt = 2048
    """Channels of the two such layers between classifier and decoder."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """After each of the classifier's two, in training it."""

    presence_threshold: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Classes whose probability for the image is lower are left out of predictions;
    the authors' 0.5 asks for a classifier trained with image labels."""

    published_output: ClassVar[tuple[int, ...]] = (320, 320)


class DeepLabV2Config(NetworkConfig):
    """DeepLabv2: atrous convolutions, and a sum of classifiers of several reaches."""

    published_output: ClassVar[tuple[int, ...]] = (321, 321)
    published_batch_size: ClassVar[int | None] = 10

    name: str = "deeplabv2"
    """Of the network, as in `foveal.network`."""

    backbone: Literal["resnet101", "resnet50", "resnet34", "resnet18", "vgg16"] = (
        "resnet101"
    )
    """The paper's are ``resnet101`` and ``vgg16``."""

    first_features: PositiveInt = 64
    """Channels after the first convolution; all other layers in proportion."""

    rates: tuple[PositiveInt, ...] = Field((6, 12, 18, 24), min_length=1)
    """Dilation of the parallel 3x3 convolutions; one of 12 is the paper's large
    field of view."""

    dropout_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """For ``vgg16``: values dropped before the last two layers, in training."""


class DeepLabV3Config(NetworkConfig):
    """DeepLabv3: atrous convolutions of several reaches beside the image's mean."""

    published_output: ClassVar[tuple[int, ...]] = (513, 513)
    published_batch_size: ClassVar[int | None] = 16

    name: str = "deeplabv3"
    """Of the network, as in `foveal.network`."""

    backbone: Literal["resnet101", "resnet50", "resnet34", "resnet18"] = "resnet101"
    """The paper's are ``resnet101`` and ``resnet50``."""

    first_features: PositiveInt = 64
    """Channels after the first convolution; all other layers of the backbone in
    proportion."""

    output_stride: Literal[8, 16] = 16
    """Voxels between features; 8 is finer and slower, on the same weights."""

    multi_grid: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 2, 4)
    """Dilation of the last three blocks, in units of 2 at output stride 16 and 4 at
    8."""

    rates: tuple[PositiveInt, ...] = (6, 12, 18)
    """Dilation of the parallel 3x3 convolutions at output stride 16; twice that at
    8."""

    head_features: PositiveInt = 256
    """Channels of each parallel way and before the classifier."""


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
