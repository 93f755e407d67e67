"""DeconvNet: VGG16 with its fully connected layers, mirrored by unpooling.

Noh, Hong and Han 2015, https://arxiv.org/abs/1505.04366, with the layers of the
authors' model files. Differs: the files fix 224 x 224, this takes any size. Where the
last pooling is smaller than the 7 x 7 of the first fully connected layer, zeros
complete it and are cut off again on the way up.
"""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from foveal.networks.geometry import TransposedWindow, Window, field
from foveal.networks.initialisation import initialise
from foveal.networks.interface import Network, Output, asked, whole
from foveal.networks.places import spread
from foveal.networks.vgg import (
    CONVOLUTIONS,
    FULLY_CONNECTED_KERNEL,
    UnpoolingDecoder,
    VggEncoder,
    at_least,
    batch_norm,
    convolution_names,
    decoder_layers,
    encoder_layers,
    fully_connected_names,
    strides_of_taps,
)


class DeconvNet(Network):
    """Convolutions to one vector of the whole image, and deconvolutions back.

    Three channels, 21 classes and the published features have 251,772,245 weights and
    biases of convolutions; batch norm has 33,408 more scales and shifts.

    Args:
        in_channels: Of the image.
        num_classes: Including background.
        features: Per stage, finest first.
        head_features: Of the two layers that were fully connected.
    """

    padding: Literal["same", "valid"] = "same"
    alignment = (1, 1)
    classifier_names = ("classifier",)
    embedding_layer = f"decoder.{len(CONVOLUTIONS) - 1}"

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        features: Sequence[int],
        head_features: int,
    ) -> None:
        super().__init__()
        self.encoder = VggEncoder(in_channels, features, norm=True)
        self.head = FullyConnectedBridge(features[-1], head_features, features[-1])
        self.decoder = UnpoolingDecoder(
            features, transposed=True, finest_convolutions=CONVOLUTIONS[0]
        )
        self.classifier = nn.Conv2d(features[0], num_classes, 1)
        initialise(self, "normal")
        # VGG16 brings weights for these; without them they need more than 0.01.
        initialise(self.encoder, "he")

    def forward(
        self, image: Float[Tensor, "patch channel i j"], taps: Sequence[str] = ()
    ) -> Output:
        """Logits on the image's grid.

        Args:
            image: Preprocessed, of any size.
            taps: Any of ``pool1`` to ``pool5``, ``head`` and ``decoder.0`` (the
                coarsest) to ``decoder.4``.
        """
        pooled = self.encoder(image)
        activations = {f"pool{n}": each.maps for n, each in enumerate(pooled, start=1)}
        activations["head"] = self.head(pooled[-1].maps)
        decoded = self.decoder(activations["head"], pooled)
        activations |= {f"decoder.{n}": maps for n, maps in enumerate(decoded)}
        return Output(self.classifier(decoded[-1]), (), asked(activations, taps))

    @property
    def adapted_layers(self) -> tuple[str, ...]:
        """The bridge and all of the decoder."""
        return "head", *(f"decoder.{n}" for n in range(len(CONVOLUTIONS)))

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
        stride = (strides_of_taps() | {"head": 2 ** len(CONVOLUTIONS)})[tap]
        return spread(activation, part, (stride, stride), (0, 0))

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Input voxels behind one output voxel, indices of maxima included."""
        layers = [
            *encoder_layers(len(CONVOLUTIONS)),
            Window(FULLY_CONNECTED_KERNEL),
            TransposedWindow(FULLY_CONNECTED_KERNEL, 1),
            *decoder_layers(),
        ]
        return (field([layers], 2 ** len(CONVOLUTIONS)),) * 2

    def pretrained_names(self) -> dict[str, str]:
        """Parameters to their names in torchvision's ``vgg16``, without batch norm."""
        return convolution_names("encoder") | fully_connected_names("head.")


class FullyConnectedBridge(nn.Module):
    """To one vector per window of 7 x 7, and by a deconvolution back to the plane.

    Args:
        in_channels: Of what comes in.
        head_features: Of the two layers that see a window as a whole.
        out_channels: Of what comes out, on the same grid.
    """

    def __init__(self, in_channels: int, head_features: int, out_channels: int) -> None:
        super().__init__()
        self.fc6 = nn.Conv2d(in_channels, head_features, FULLY_CONNECTED_KERNEL)
        self.norm6 = batch_norm(head_features)
        self.fc7 = nn.Conv2d(head_features, head_features, 1)
        self.norm7 = batch_norm(head_features)
        self.deconv = nn.ConvTranspose2d(
            head_features, out_channels, FULLY_CONNECTED_KERNEL
        )
        self.norm = batch_norm(out_channels)

    def forward(
        self, maps: Float[Tensor, "patch channel i j"]
    ) -> Float[Tensor, "patch feature i j"]:
        """Maps that every position of a window contributed to."""
        padded, (rows, columns) = at_least(maps, FULLY_CONNECTED_KERNEL)
        hidden = self.norm6(self.fc6(padded)).relu()
        hidden = self.norm7(self.fc7(hidden)).relu()
        spread = self.norm(self.deconv(hidden)).relu()
        return spread[:, :, rows, columns]
