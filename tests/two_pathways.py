"""A tiny valid network: what DeepMedic's geometry asks of everything around it.

A sharp pathway, and one that sees every third voxel and repeats its features. The
margins differ before and after, so that taking one for the other is noticed. It is a
plugin too: `register` adds it as ``two_pathways``, and in 2D as ``two_pathways_2d``.
"""

import torch
import torch.nn.functional as F
from torch import nn

from foveal.networks.interface import Network, Output

FACTOR = 3
MARGIN = (6, 4)
"""Each block of three voxels starts where a wide voxel is taken, and two more of them
lie before it and after it: 6 and, seen from the last voxel of the block, 4."""


class TwoPathways(Network):
    padding = "valid"
    classifier_names = ("classifier",)

    def __init__(self, in_channels, num_classes, *, dimensions=3):
        super().__init__()
        self.alignment = (FACTOR,) * dimensions
        self.margins = (MARGIN,) * dimensions
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]

        def pathway():
            return nn.Sequential(
                convolution(in_channels, 4, 3), nn.Tanh(), convolution(4, 4, 3)
            )

        self.sharp, self.wide = pathway(), pathway()
        self.classifier = convolution(8, num_classes, 1)

    @property
    def receptive_field(self):
        return (15,) * len(self.alignment)

    def forward(self, image, taps=()):
        axes = len(self.alignment)
        sharp = self.sharp(image[(..., *[slice(4, -2)] * axes)])
        wide = self.wide(image[(..., *[slice(None, None, FACTOR)] * axes)])
        wide = F.interpolate(wide, scale_factor=FACTOR, mode="nearest")
        return Output(self.classifier(torch.cat([sharp, wide], dim=1).tanh()))


class TwoPathways2d(TwoPathways):
    def __init__(self, in_channels, num_classes):
        super().__init__(in_channels, num_classes, dimensions=2)


def register(parts):
    parts.add_network("two_pathways", TwoPathways)
    parts.add_network("two_pathways_2d", TwoPathways2d)
