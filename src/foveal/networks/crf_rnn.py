"""A network whose last layer is mean-field inference in a fully connected CRF.

Zheng et al., "Conditional random fields as recurrent neural networks", ICCV 2015,
https://arxiv.org/abs/1502.03240.

As in the paper, each class has its own weight for each kernel, the compatibility is
learned from Potts on without being held symmetric, and there are more iterations in
prediction than in training. Differs from it: volumes and any number of channels;
deviations in millimetres and standard deviations; the smoothness kernel is exact; the
planned weights begin at 1, not at 3 and 5.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.crf.mean_field import DenseCrf, Normalisation, kernels_of, mean_field
from foveal.networks.interface import Network, Output

VOLUME_AXES = 3


class CrfRnn(Network):
    """Refines the logits of a network by the image that they speak of.

    Every voxel of a patch sees all others, so a patch has another answer than the whole
    image; what it is trained on should be whole images or slices.

    Args:
        network: 2D or 3D.
        crf: Of the same classes.
    """

    def __init__(self, network: Network, crf: "MeanFieldLayer") -> None:
        super().__init__()
        self.network = network
        self.crf = crf
        self.alignment, self.margins = network.alignment, network.margins
        self.padding = network.padding
        # The CRF speaks of classes, too, and another data set has others.
        of_network = (f"network.{name}" for name in network.classifier_names)
        self.classifier_names = (*of_network, "crf")
        self.embedding_layer = network.embedding_layer

    @property
    def adapted_layers(self) -> tuple[str, ...]:
        """Those of the network."""
        return self.network.adapted_layers

    def at_output(
        self,
        tap: str,
        activation: Tensor,
        output_shape: Sequence[int],
        window: Sequence[slice] | None = None,
    ) -> Tensor:
        """As the network does it."""
        return self.network.at_output(tap, activation, output_shape, window)

    @property
    def receptive_field(self) -> None:
        """``None``: the CRF sees the whole patch."""
        return

    def pretrained_names(self) -> Mapping[str, str]:
        """Those of the network."""
        return {
            f"network.{name}": there
            for name, there in self.network.pretrained_names().items()
        }

    def forward(
        self, image: Float[Tensor, "patch channel ..."], taps: Sequence[str] = ()
    ) -> Output:
        """Logits after mean-field inference; the coarse ones are the network's."""
        output = self.network(image, taps)
        seen = image[:, :, *self.output_window(image.shape[2:])]
        # Sums over thousands of voxels want more than half precision.
        with torch.autocast(image.device.type, enabled=False):
            refined = [
                self.crf(*each) for each in zip(output.logits, seen, strict=True)
            ]
        return Output(torch.stack(refined), output.coarse_logits, output.activations)


class MeanFieldLayer(nn.Module):
    """Mean-field inference with weights and compatibility that are learned.

    Args:
        num_classes: Including background.
        spacing_mm: Of the two or three axes.
        iterations: In training.
        prediction_iterations: Otherwise.
        smoothness_mm: Deviation of the smoothness kernel.
        appearance_mm: Deviation in space of the appearance kernel.
        appearance_deviations: Per channel or one for all, in standard deviations of the
            channel in the image.
        smoothness_weight: At the beginning, of every class.
        appearance_weight: At the beginning, of every class.
        normalisation: Of both kernels.
    """

    def __init__(
        self,
        num_classes: int,
        spacing_mm: Sequence[float],
        *,
        iterations: int,
        prediction_iterations: int,
        smoothness_mm: float,
        appearance_mm: float,
        appearance_deviations: Sequence[float],
        smoothness_weight: float,
        appearance_weight: float,
        normalisation: Normalisation,
    ) -> None:
        super().__init__()
        # A slice is a volume of one voxel along an axis of whatever spacing.
        self.spacing_mm = (*spacing_mm, 1.0)[:VOLUME_AXES]
        self.kernels = DenseCrf(
            smoothness_mm=(smoothness_mm,) * VOLUME_AXES,
            smoothness_weight=smoothness_weight,
            appearance_mm=(appearance_mm,) * VOLUME_AXES,
            appearance_deviations=tuple(appearance_deviations),
            appearance_weight=appearance_weight,
            iterations=iterations,
            normalisation=normalisation,
        )
        self.prediction_iterations = prediction_iterations
        initial = torch.tensor([smoothness_weight, appearance_weight])
        self.kernel_weights = nn.Parameter(initial[:, None].repeat(1, num_classes))
        self.compatibility = nn.Parameter(-torch.eye(num_classes))

    def forward(
        self, logits: Float[Tensor, "class ..."], image: Float[Tensor, "channel ..."]
    ) -> Float[Tensor, "class ..."]:
        """Refined logits of one image, in the precision of the layer's weights."""
        dtype = self.compatibility.dtype
        volume = (*image.shape[1:], 1)[:VOLUME_AXES]
        with torch.no_grad():
            kernels, _ = kernels_of(
                image.to(dtype).reshape(-1, *volume),
                torch.ones(volume, dtype=torch.bool, device=image.device),
                self.spacing_mm,
                self.kernels,
                filters="fast",
            )
        refined = mean_field(
            logits.to(dtype).flatten(1).log_softmax(dim=0),
            kernels,
            self.kernel_weights,
            compatibility=self.compatibility,
            iterations=(
                self.kernels.iterations if self.training else self.prediction_iterations
            ),
        )
        return refined.reshape(logits.shape)
