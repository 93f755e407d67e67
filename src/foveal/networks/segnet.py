"""SegNet: VGG16's convolutions, and the same again upwards with pooling indices.

Badrinarayanan, Kendall and Cipolla 2015, https://arxiv.org/abs/1511.00561. Differs:
where the authors' files name the two odd sizes of 360 x 480, every size is found from
the poolings, so that images of any size are taken. Dropout belongs to Bayesian SegNet,
another paper.
"""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from foveal.networks.geometry import field
from foveal.networks.initialisation import initialise
from foveal.networks.interface import Network, Output, asked, whole
from foveal.networks.places import spread
from foveal.networks.vgg import (
    CONVOLUTIONS,
    UnpoolingDecoder,
    VggEncoder,
    convolution_names,
    decoder_layers,
    encoder_layers,
    strides_of_taps,
)


class SegNet(Network):
    """Thirteen convolutions with batch norm down and thirteen up.

    Three channels, 11 classes and the published features (64, 128, 256, 512, 512) have
    29,449,355 trainable parameters.

    Args:
        in_channels: Of the image.
        num_classes: Including background.
        features: Per stage, finest first.
    """

    padding: Literal["same", "valid"] = "same"
    alignment = (1, 1)
    classifier_names = ("classifier",)
    embedding_layer = f"decoder.{len(CONVOLUTIONS) - 1}"

    def __init__(
        self, in_channels: int, num_classes: int, *, features: Sequence[int]
    ) -> None:
        super().__init__()
        self.encoder = VggEncoder(in_channels, features, norm=True)
        self.decoder = UnpoolingDecoder(
            features, transposed=False, finest_convolutions=1
        )
        self.classifier = nn.Conv2d(features[0], num_classes, 3, padding=1)
        initialise(self, "he")

    def forward(
        self, image: Float[Tensor, "patch channel i j"], taps: Sequence[str] = ()
    ) -> Output:
        """Logits on the image's grid.

        Args:
            image: Preprocessed, of any size.
            taps: Any of ``pool1`` to ``pool5`` and ``decoder.0`` (the coarsest) to
                ``decoder.4``.
        """
        pooled = self.encoder(image)
        decoded = self.decoder(pooled[-1].maps, pooled)
        activations = {f"pool{n}": each.maps for n, each in enumerate(pooled, start=1)}
        activations |= {f"decoder.{n}": maps for n, maps in enumerate(decoded)}
        return Output(self.classifier(decoded[-1]), (), asked(activations, taps))

    @property
    def adapted_layers(self) -> tuple[str, ...]:
        """The last pooling and all of the decoder."""
        return "pool5", *(f"decoder.{n}" for n in range(len(CONVOLUTIONS)))

    def at_output(
        self,
        tap: str,
        activation: Float[Tensor, "patch feature m n"],
        output_shape: Sequence[int],
        window: Sequence[slice] | None = None,
    ) -> Float[Tensor, "patch feature i j"]:
        """See `Network`."""
        part = whole(output_shape) if window is None else window
        # The last row and column of a coarse map may reach beyond the image.
        stride = strides_of_taps()[tap]
        return spread(activation, part, (stride, stride), (0, 0))

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Input voxels behind one output voxel, indices of maxima included."""
        layers = [*encoder_layers(len(CONVOLUTIONS)), *decoder_layers()]
        return (field([layers], 2 ** len(CONVOLUTIONS)),) * 2

    def pretrained_names(self) -> dict[str, str]:
        """Parameters to their names in torchvision's ``vgg16``, without batch norm."""
        return convolution_names("encoder")
