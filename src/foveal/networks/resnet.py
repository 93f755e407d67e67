"""Residual classification networks as feature extractors, of any output stride.

He et al. 2016, https://arxiv.org/abs/1512.03385. Differs from the paper as those of
torchvision do, so that their weights mean the same here: the stride of a bottleneck is
at its 3x3 convolution, not at the 1x1 before it. Without the global pooling and the
classifier. A smaller output stride than 32 puts dilation in place of the last strides,
as in DeepLab (Chen et al. 2018, https://arxiv.org/abs/1606.00915).

Modules are named as in torchvision: ``conv1``, ``bn1``, ``layer1.0.conv1``, …
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from foveal.networks.geometry import Layer, Window

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
}
"""Depth to the residual blocks of each of the four layers."""

BOTTLENECK_FROM = 50
"""Depth from which on blocks are bottlenecks."""

EXPANSION = 4
"""Features of a bottleneck's output per feature inside."""


class ResNet(nn.Module):
    """Features of an image, ``output_stride`` voxels apart.

    With 64 features and RGB images as many parameters as torchvision's without their
    classifier: 11,176,512 (depth 18), 21,284,672 (34), 23,508,032 (50) and 42,500,160
    (101).

    Args:
        in_channels: Of the image.
        depth: One of `BLOCKS`.
        first_features: After the first convolution; 64 in the paper. All later layers
            are in proportion.
        output_stride: 32, 16 or 8.
        multi_grid: Dilation rates of the last layer's blocks, in units of that layer's
            own (Chen et al. 2017, https://arxiv.org/abs/1706.05587). Without, the
            blocks where a stride was left out keep what the strided network computes:
            the first convolution after it sees neighbours as far apart as before.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        depth: int,
        first_features: int,
        output_stride: int,
        multi_grid: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.output_stride = output_stride
        self.conv1 = nn.Conv2d(
            in_channels, first_features, 7, stride=2, padding=3, bias=False
        )
        self.bn1 = nn.BatchNorm2d(first_features)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        block = _Bottleneck if depth >= BOTTLENECK_FROM else _BasicBlock
        channels, stride, dilation = first_features, 4, 1
        layers = []
        for n, blocks in enumerate(BLOCKS[depth]):
            features = first_features * 2**n
            first_dilation, first_stride = dilation, 1 if n == 0 else 2
            if stride * first_stride > output_stride:
                dilation, first_stride = dilation * first_stride, 1
            stride *= first_stride
            rates = [(first_dilation, dilation)] + [(dilation,) * 2] * (blocks - 1)
            if n == len(BLOCKS[depth]) - 1 and multi_grid is not None:
                # Depths below 50 have two blocks or three; the list is for three.
                rates = [(unit * dilation,) * 2 for unit in multi_grid[:blocks]]
            layer = nn.Sequential()
            for m, pair in enumerate(rates):
                made = block(channels, features, first_stride if m == 0 else 1, pair)
                channels = made.out_channels
                layer.append(made)
            layers.append(layer)
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.out_channels = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, mode="fan_out", nonlinearity="relu"
                )

    def forward(
        self, image: Float[Tensor, "patch channel i j"]
    ) -> dict[str, Float[Tensor, "patch _ _ _"]]:
        """Features after each layer, by its name; ``layer4`` is the last."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        activations = {}
        for name in ("layer1", "layer2", "layer3", "layer4"):
            features = getattr(self, name)(features)
            activations[name] = features
        return activations

    @property
    def strides(self) -> dict[str, int]:
        """Voxels between the features of each layer."""
        return {f"layer{n}": min(2 ** (n + 1), self.output_stride) for n in range(1, 5)}

    @property
    def pathway(self) -> list[Layer]:
        """All layers along one axis, through every convolution."""
        layers: list[Layer] = [Window(7, 2, 3), Window(3, 2, 1)]
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in layer:
                layers += block.pathway  # type: ignore[arg-type]
        return layers


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions beside an identity.

    ``dilations`` are those of a convolution that may have the stride, and of one
    after it.
    """

    def __init__(
        self,
        in_channels: int,
        features: int,
        stride: int,
        dilations: tuple[int, int],
    ) -> None:
        super().__init__()
        self.out_channels = features
        self.conv1 = _three_by_three(in_channels, features, stride, dilations[0])
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = _three_by_three(features, features, 1, dilations[1])
        self.bn2 = nn.BatchNorm2d(features)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(in_channels, features, stride)

    def forward(
        self, image: Float[Tensor, "patch channel i j"]
    ) -> Float[Tensor, "patch _ _ _"]:
        """Sum of both ways."""
        features = self.relu(self.bn1(self.conv1(image)))
        features = self.bn2(self.conv2(features))
        return self.relu(features + self.downsample(image))

    @property
    def last_norm(self) -> nn.Module:
        """See `foveal.networks.blocks.ResidualBlock`."""
        return self.bn2

    @property
    def pathway(self) -> list[Layer]:
        """Along one axis, through the convolutions."""
        return [_window(self.conv1), _window(self.conv2)]


class _Bottleneck(nn.Module):
    """A 3x3 convolution between two of 1x1, beside an identity; see `_BasicBlock`."""

    def __init__(
        self,
        in_channels: int,
        features: int,
        stride: int,
        dilations: tuple[int, int],
    ) -> None:
        super().__init__()
        self.out_channels = features * EXPANSION
        self.conv1 = nn.Conv2d(in_channels, features, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = _three_by_three(features, features, stride, dilations[0])
        self.bn2 = nn.BatchNorm2d(features)
        self.conv3 = nn.Conv2d(features, self.out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(in_channels, self.out_channels, stride)

    def forward(
        self, image: Float[Tensor, "patch channel i j"]
    ) -> Float[Tensor, "patch _ _ _"]:
        """Sum of both ways."""
        features = self.relu(self.bn1(self.conv1(image)))
        features = self.relu(self.bn2(self.conv2(features)))
        features = self.bn3(self.conv3(features))
        return self.relu(features + self.downsample(image))

    @property
    def last_norm(self) -> nn.Module:
        """See `foveal.networks.blocks.ResidualBlock`."""
        return self.bn3

    @property
    def pathway(self) -> list[Layer]:
        """Along one axis, through the convolutions."""
        return [_window(self.conv2)]


def _three_by_three(
    in_channels: int, features: int, stride: int, dilation: int
) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels,
        features,
        3,
        stride=stride,
        padding=dilation,
        dilation=dilation,
        bias=False,
    )


def _projection(in_channels: int, features: int, stride: int) -> nn.Module:
    """What brings a block's input to the shape of its output; often nothing."""
    if in_channels == features and stride == 1:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, features, 1, stride=stride, bias=False),
        nn.BatchNorm2d(features),
    )


def _window(convolution: nn.Conv2d) -> Window:
    return Window(
        convolution.kernel_size[0],
        convolution.stride[0],
        int(convolution.padding[0]),
        convolution.dilation[0],
    )
