"""Voxel weights from a batch to the losses that take them."""

import pytest
import torch

from foveal.methods.interface import Clock
from foveal.methods.supervised import Supervised
from foveal.networks.interface import Network, Output
from foveal.sampling.batch import Batch


class TwoScales(Network):
    """Predicts all but the outer voxels, and the same at half the resolution."""

    alignment = (2, 2, 2)
    padding = "valid"
    margins = ((1, 1),) * 3
    classifier_names = ()
    receptive_field = (3, 3, 3)

    def forward(self, image, taps=()):
        inner = image[..., 1:-1, 1:-1, 1:-1]
        return Output(inner, (inner[..., ::2, ::2, ::2],))


def batch(voxel_weights):
    shape = (1, 6, 6, 6)
    return Batch(
        image=torch.zeros(1, 2, *shape[1:]),
        label_map=torch.zeros(shape, dtype=torch.uint8),
        annotated=torch.ones(1, 1, dtype=torch.bool),
        structures=torch.tensor([[False, True]]),
        case_names=("a",),
        corners=((0, 0, 0),),
        voxel_weights=voxel_weights,
    )


def test_only_named_losses_get_the_weights_of_what_is_predicted_at_every_scale():
    seen = []

    def weighted(*_, voxel_weights):
        seen.append(voxel_weights)
        return voxel_weights.mean()

    def plain(_logits, _label_map, _annotated, _structures):
        return torch.tensor(2.0)

    method = Supervised(
        TwoScales(),
        {"weighted": (weighted, 1.0), "plain": (plain, 0.5)},
        sampler="uniform",
        batch_size=1,
        voxel_weighted=["weighted"],
    )
    weights = torch.arange(216.0).reshape(1, 6, 6, 6)

    terms = method({"labelled": batch(weights)}, Clock(0, 1, 0, 0))

    fine = weights[:, 1:5, 1:5, 1:5]
    # The voxel nearest the centre of 2 x 2 x 2, of equally near ones the last.
    coarse = fine[:, 1::2, 1::2, 1::2]
    assert torch.equal(seen[0], fine)
    assert torch.equal(seen[1], coarse)
    expected = fine.mean() * 2 / 3 + coarse.mean() / 3
    assert terms["weighted"].item() == pytest.approx(expected.item())
    assert terms["plain"].item() == pytest.approx(1.0)
