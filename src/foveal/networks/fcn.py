"""Fully convolutional networks on VGG16: FCN-32s, FCN-16s and FCN-8s.

Long, Shelhamer and Darrell 2015, https://arxiv.org/abs/1411.4038, with the paddings and
crops of the authors' model files. Differs: without pretrained weights the convolutions
are drawn as He et al.; ``input_padding`` may be small, which is cheaper for small
images; upsampling can be learned, as the paper's text says, while the authors' files
keep it at bilinear interpolation.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from foveal.networks.blocks import linear_profile
from foveal.networks.geometry import (
    Layer,
    Shift,
    TransposedWindow,
    Window,
    field,
)
from foveal.networks.initialisation import initialise
from foveal.networks.interface import Network, Output, asked, whole
from foveal.networks.places import spread
from foveal.networks.vgg import (
    CONVOLUTIONS,
    FULLY_CONNECTED_KERNEL,
    VggEncoder,
    convolution_names,
    encoder_layers,
    fully_connected_names,
)

COARSEST_STRIDE = 2 ** len(CONVOLUTIONS)


class Fcn(Network):
    """VGG16 whose scores are upsampled, and summed with those of finer poolings.

    With three channels, 21 classes and the published features there are 134,346,581
    (stride 32), 134,357,354 (16) and 134,362,751 (8) trainable parameters; learned
    upsampling adds 1,806,336, 458,640 and 127,008.

    Parameters have the same names at every stride, so that training goes on from
    FCN-32s to 16s to 8s. Scores of poolings start at zero: the new network begins with
    the old one's scores, upsampled in one more step.

    Args:
        in_channels: Of the image.
        num_classes: Including background.
        stride: 32: of the last layer only; 16: with scores of the fourth pooling;
            8: and of the third.
        features: Per stage of the encoder, finest first.
        head_features: Of the two layers that were fully connected.
        dropout_fraction: After each of those two, in training.
        input_padding: Zeros around the image. If they do not suffice for the scores to
            cover it, zeros are also put around the last pooling.
        upsampling: ``"fixed"``: bilinear; ``"learned"``: weights that start there.
        pool4_scale: Of the fourth pooling before it is scored.
        pool3_scale: Of the third.
    """

    padding: Literal["same", "valid"] = "same"
    alignment = (1, 1)
    embedding_layer = "fc7"

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        stride: Literal[32, 16, 8],
        features: Sequence[int],
        head_features: int,
        dropout_fraction: float,
        input_padding: int,
        upsampling: Literal["fixed", "learned"],
        pool4_scale: float = 1.0,
        pool3_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.input_padding = input_padding
        self.head_padding = head_padding(input_padding)
        self.encoder = VggEncoder(
            in_channels, features, norm=False, input_padding=input_padding
        )
        self.fc6 = nn.Conv2d(
            features[-1],
            head_features,
            FULLY_CONNECTED_KERNEL,
            padding=self.head_padding,
        )
        self.fc7 = nn.Conv2d(head_features, head_features, 1)
        self.dropout = nn.Dropout(dropout_fraction)
        self.score_fr = nn.Conv2d(head_features, num_classes, 1)

        # Stage, scale and names of what each skip adds.
        skips = [(4, pool4_scale, "upscore2"), (3, pool3_scale, "upscore_pool4")]
        self.skips = [skip for skip in skips if 2 ** skip[0] >= stride]
        for stage, _, upscore in self.skips:
            score = nn.Conv2d(features[stage - 1], num_classes, 1)
            self.add_module(f"score_pool{stage}", score)
            self.add_module(upscore, bilinear_upsampling(num_classes, 2, upsampling))
        self.upscore_name = (
            "upscore" if stride == COARSEST_STRIDE else f"upscore{stride}"
        )
        self.add_module(
            self.upscore_name, bilinear_upsampling(num_classes, stride, upsampling)
        )
        self.stride = stride
        self.skip_crops, self.image_crop = crops(
            [stage for stage, *_ in self.skips], input_padding, self.head_padding
        )

        scores = ["score_fr", *(f"score_pool{stage}" for stage, *_ in self.skips)]
        upscores = [*(name for *_, name in self.skips), self.upscore_name]
        self.classifier_names = tuple(
            scores + upscores if upsampling == "learned" else scores
        )
        for layer in (self.encoder, self.fc6, self.fc7):
            initialise(layer, "he")
        for name in scores:
            nn.init.zeros_(self.get_parameter(f"{name}.weight"))
            nn.init.zeros_(self.get_parameter(f"{name}.bias"))

    def forward(
        self, image: Float[Tensor, "patch channel i j"], taps: Sequence[str] = ()
    ) -> Output:
        """Logits on the image's grid.

        Args:
            image: Preprocessed, of any size.
            taps: Any of ``pool1`` to ``pool5``, ``fc6`` and ``fc7``.
        """
        pooled = self.encoder(image)
        activations = {f"pool{n}": each.maps for n, each in enumerate(pooled, start=1)}
        activations["fc6"] = F.relu(self.fc6(activations["pool5"]))
        activations["fc7"] = F.relu(self.fc7(self.dropout(activations["fc6"])))
        scores = self.score_fr(self.dropout(activations["fc7"]))
        for (stage, scale, upscore), (scores_crop, skip_crop) in zip(
            self.skips, self.skip_crops, strict=True
        ):
            score = self.get_submodule(f"score_pool{stage}")
            skipped = score(activations[f"pool{stage}"] * scale)
            upsampled = self.get_submodule(upscore)(scores)
            scores = sum_of_overlap(
                upsampled[:, :, scores_crop:, scores_crop:],
                skipped[:, :, skip_crop:, skip_crop:],
            )
        logits = self.get_submodule(self.upscore_name)(scores)
        rows, columns = (
            slice(self.image_crop, self.image_crop + length)
            for length in image.shape[2:]
        )
        tapped = asked(activations, taps)
        return Output(logits[:, :, rows, columns], (), tapped)

    @property
    def adapted_layers(self) -> tuple[str, ...]:
        """The poolings of which FCN-8s makes scores, and the last hidden layer."""
        return "pool3", "pool4", "fc7"

    def at_output(
        self,
        tap: str,
        activation: Float[Tensor, "patch feature m n"],
        output_shape: Sequence[int],
        window: Sequence[slice] | None = None,
    ) -> Float[Tensor, "patch feature i j"]:
        """See `Network`; the zeros around the image are left out."""
        part = whole(output_shape) if window is None else window
        stage = int(tap[-1]) if tap.startswith("pool") else len(CONVOLUTIONS)
        stride = 2**stage
        first = (
            _first_of_pool(stage, self.input_padding)
            if tap.startswith("pool")
            else _first_of_head(self.input_padding, self.head_padding)
        )
        offset = round(first - (stride - 1) / 2)
        return spread(activation, part, (stride, stride), (offset, offset))

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Input voxels behind one output voxel; that of the coarsest scores."""
        pathway = [
            *encoder_layers(len(CONVOLUTIONS), self.input_padding),
            Window(FULLY_CONNECTED_KERNEL, padding=self.head_padding),
        ]
        pathways: list[list[Layer]] = []
        for (stage, *_), (scores_crop, skip_crop) in zip(
            self.skips, self.skip_crops, strict=True
        ):
            skip = [*encoder_layers(stage, self.input_padding), Shift(skip_crop)]
            for each in [*pathways, pathway]:
                each += [TransposedWindow(4, 2), Shift(scores_crop)]
            pathways.append(skip)
        pathways.append(pathway)
        for each in pathways:
            each += [
                TransposedWindow(2 * self.stride, self.stride),
                Shift(self.image_crop),
            ]
        return (field(pathways, COARSEST_STRIDE),) * 2

    def pretrained_names(self) -> dict[str, str]:
        """Parameters to their names in torchvision's ``vgg16``."""
        return convolution_names("encoder") | fully_connected_names()


def bilinear_upsampling(
    channels: int, factor: int, kind: Literal["fixed", "learned"]
) -> nn.Module:
    """Transposed convolution over an area of two strides, bilinear at the start.

    Args:
        channels: Each is upsampled by itself, as long as nothing is learned.
        factor: Of the size.
        kind: ``"fixed"`` or ``"learned"``, with weights between all channels then.
    """
    along = linear_profile(2 * factor, factor)
    kernel = torch.outer(along, along)
    if kind == "fixed":
        return FixedUpsampling(channels, factor, kernel)
    learned = nn.ConvTranspose2d(
        channels, channels, 2 * factor, stride=factor, bias=False
    )
    nn.init.zeros_(learned.weight)
    learned.weight.data[range(channels), range(channels)] = kernel
    return learned


class FixedUpsampling(nn.Module):
    """Each channel by itself with one kernel, which is not saved with the weights."""

    weight: Tensor

    def __init__(
        self, channels: int, factor: int, kernel: Float[Tensor, "i j"]
    ) -> None:
        super().__init__()
        self.factor = factor
        self.register_buffer(
            "weight", kernel.repeat(channels, 1, 1, 1), persistent=False
        )

    def forward(
        self, scores: Float[Tensor, "patch class i j"]
    ) -> Float[Tensor, "patch class fine_i fine_j"]:
        """Nothing is cropped: ``factor * (length + 1)`` per axis."""
        return F.conv_transpose2d(
            scores, self.weight, stride=self.factor, groups=len(self.weight)
        )


def sum_of_overlap(
    first: Float[Tensor, "patch class i j"], second: Float[Tensor, "patch class m n"]
) -> Float[Tensor, "patch class p q"]:
    """Sum as far as both reach; both begin at the same place."""
    rows = min(first.shape[2], second.shape[2])
    columns = min(first.shape[3], second.shape[3])
    return first[:, :, :rows, :columns] + second[:, :, :rows, :columns]


def head_padding(input_padding: int) -> int:
    """Least zeros around the last pooling with which scores cover any image.

    The upsampled scores must begin at the image's first voxel or before, and an image
    of one voxel must give a score. None are needed at the authors' 100.
    """
    padding = 0
    while (
        _first_of_head(input_padding, padding) - _reach(COARSEST_STRIDE) > 0
        or -(-(2 * input_padding - 1) // COARSEST_STRIDE) + 2 * padding
        < FULLY_CONNECTED_KERNEL
    ):
        padding += 1
    return padding


def crops(
    skips: Sequence[int], input_padding: int, head_padding: int
) -> tuple[list[tuple[int, int]], int]:
    """Voxels left out at the start so that maps which are summed lie over one another.

    Found from where the first voxel's centre of every map lies in the image. At the
    authors' padding of 100 these are their crops: 5 of the fourth pooling's scores, 9
    of the third's, and 19, 27 or 31 of the last upsampling.

    Args:
        skips: Poolings whose scores are added, coarsest first.
        input_padding: Around the image.
        head_padding: Around the last pooling.

    Returns:
        Per skip the voxels cut from the upsampled scores and from the skipped ones;
        and those cut from the last upsampling.
    """
    first = _first_of_head(input_padding, head_padding)
    stride = COARSEST_STRIDE
    pairs = []
    for stage in skips:
        first -= _reach(stride, 2)
        stride //= 2
        of_skip = _first_of_pool(stage, input_padding)
        ahead = round((first - of_skip) / stride)
        pairs.append((max(0, -ahead), max(0, ahead)))
        first = max(first, of_skip)
    return pairs, round(_reach(stride) - first)


def _first_of_pool(stage: int, input_padding: int) -> float:
    """Place in the image of the first voxel of a pooling."""
    return (2**stage - 1) / 2 - (input_padding - 1)


def _first_of_head(input_padding: int, head_padding: int) -> float:
    """Place in the image of the first voxel of the coarsest scores."""
    inwards = FULLY_CONNECTED_KERNEL // 2 - head_padding
    return _first_of_pool(len(CONVOLUTIONS), input_padding) + COARSEST_STRIDE * inwards


def _reach(stride: int, factor: int | None = None) -> float:
    """Image voxels by which upsampling to ``stride / factor`` (or 1) begins earlier."""
    factor = factor or stride
    return (2 * factor - 1) / 2 * (stride // factor)
