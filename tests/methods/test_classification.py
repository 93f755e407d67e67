"""What is learned from knowing only which structures an image shows."""

import math

import pytest
import torch

from foveal.building import network
from foveal.errors import SamplingError
from foveal.losses.presence import presence_cross_entropy, presence_logits
from foveal.methods.classification import Classification
from foveal.methods.interface import Clock
from foveal.sampling.batch import Batch, shown_structures

CLOCK = Clock(0, 1, 0, 0)
STRUCTURES = torch.tensor([[False, True, False], [False, True, True]])
"""The second structure is the union of both labels."""


def test_a_structure_is_shown_by_any_voxel_of_its_classes():
    label_map = torch.zeros(2, 2, 2, dtype=torch.uint8)
    assert shown_structures(label_map, STRUCTURES).tolist() == [False, False]
    label_map[0, 0, 0] = 255
    assert shown_structures(label_map, STRUCTURES).tolist() == [False, False]
    label_map[1, 1, 1] = 2
    assert shown_structures(label_map, STRUCTURES).tolist() == [False, True]
    label_map[1, 0, 1] = 1
    assert shown_structures(label_map, STRUCTURES).tolist() == [True, True]


def test_the_odds_of_presence_are_those_of_the_classes_against_background():
    image_logits = torch.tensor([[0.5, 1.0, 2.0]])
    odds = presence_logits(image_logits, STRUCTURES).exp()[0]
    assert odds[0] == pytest.approx(math.exp(1.0) / math.exp(0.5))
    assert odds[1] == pytest.approx((math.exp(1.0) + math.exp(2.0)) / math.exp(0.5))


def test_loss_by_hand_and_only_where_it_is_known():
    image_logits = torch.tensor([[0.0, 1.0, -50.0], [0.0, -2.0, -50.0]])
    present = torch.tensor([[True, True], [True, False]])
    annotated = torch.tensor([[True, False], [True, False]])
    loss = presence_cross_entropy(image_logits, present, annotated, STRUCTURES)
    expected = (math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(2.0))) / 2
    assert loss.item() == pytest.approx(expected)
    nothing = torch.zeros_like(annotated)
    assert presence_cross_entropy(image_logits, present, nothing, STRUCTURES) == 0


def batch(**changes):
    values = {
        "image": torch.randn(2, 1, 4, 4, 4),
        "label_map": None,
        "annotated": torch.ones(2, 2, dtype=torch.bool),
        "structures": STRUCTURES,
        "case_names": ("a", "b"),
        "corners": ((0, 0, 0),) * 2,
        "present": torch.tensor([[True, True], [False, False]]),
        "presence_known": torch.ones(2, 2, dtype=torch.bool),
    }
    return Batch(**(values | changes))


def made_network():
    torch.manual_seed(0)
    return network(
        "unet3d",
        in_channels=1,
        num_classes=3,
        features=(2, 2),
        kernels=((3, 3, 3),) * 2,
        strides=((2, 2, 2),),
        norm="none",
    )


def test_what_an_image_shows_is_the_mean_of_its_logits():
    made, image = made_network().eval(), torch.randn(2, 1, 4, 4, 4)
    expected = made(image).logits.mean(dim=(2, 3, 4))
    torch.testing.assert_close(made.image_logits(image), expected)


def test_the_term_is_learned_from_without_outlines():
    method = Classification(made_network(), sampler="uniform", batch_size=2)
    optimiser = torch.optim.Adam(method.parameters(), 0.05)
    values = []
    image = torch.randn(2, 1, 4, 4, 4)
    image[0] += 2
    for _ in range(40):
        (term,) = method({"images": batch(image=image)}, CLOCK).values()
        optimiser.zero_grad()
        term.backward()
        optimiser.step()
        values.append(term.item())
    assert values[-1] < 0.5 * values[0]


def test_images_of_which_nothing_is_known_are_refused():
    method = Classification(made_network(), sampler="uniform", batch_size=2)
    unknown = batch(present=None, presence_known=None)
    with pytest.raises(SamplingError, match="cases a, b: of one it is not known"):
        method({"images": unknown}, CLOCK)
