"""Options of DeepMedic, in 3D and 2D."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from foveal.config.networks.section import DropoutFraction, NetworkConfig

PerAxis = PositiveInt | tuple[PositiveInt, ...]
"""One number for all axes, or one for each."""


Layers = tuple[PositiveInt, ...] | tuple[tuple[PositiveInt, ...], ...]
"""Channels per layer, of all pathways or a list for each."""


ResidualLayers = tuple[Annotated[int, Field(ge=2)], ...]


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
    """Normal, with variance 2 / inputs or with ``initial_deviation``; unless
    ``training.initialisation`` draws the weights of every network anew."""

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
    def deviation_is_used(self) -> Self:
        """Refuse a deviation that the initialisation does not look at."""
        unused = type(self).model_fields["initial_deviation"].default
        if self.initialisation != "normal" and self.initial_deviation != unused:
            raise ValueError(
                "network.initial_deviation is for network.initialisation normal; it "
                f"is {self.initialisation}"
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
