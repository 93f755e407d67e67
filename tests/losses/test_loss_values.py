"""What the losses come to, by hand, at their limits and from one another."""

import math

import pytest
import torch
import torch.nn.functional as F
from every_loss import BY_NAME

from foveal.case import IGNORED
from foveal.losses.cross_entropy import cross_entropy
from foveal.losses.dice import dice_loss
from foveal.losses.focal import focal_loss
from foveal.losses.generalised_dice import generalised_dice_loss
from foveal.losses.iou import iou_loss
from foveal.losses.region_cross_entropy import region_cross_entropy, structure_log_odds
from foveal.losses.top_k import top_k_loss
from foveal.losses.tversky import tversky_loss

ORGAN_AND_LESION = torch.tensor([[False, True, True], [False, False, True]])
"""Class 1 is organ, class 2 a lesion in it: the organ is the union of both."""

BOTH = torch.tensor([[True, True]])


def row(probabilities, labels):
    """One patch of voxels in a row, each with the probabilities of its classes.

    Returns:
        Arguments of a loss; every class but background is a structure.
    """
    logits = torch.tensor(probabilities, dtype=torch.double).log()
    classes = logits.shape[1]
    return (
        logits.T.reshape(1, classes, -1, 1, 1),
        torch.tensor(labels, dtype=torch.uint8).reshape(1, -1, 1, 1),
        torch.ones(1, classes - 1, dtype=torch.bool),
        torch.eye(classes, dtype=torch.bool)[1:],
    )


def nested(probabilities, labels):
    """The same with a lesion in an organ."""
    return (*row(probabilities, labels)[:2], BOTH, ORGAN_AND_LESION)


@pytest.fixture
def patch():
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 4, 5, 6)).to(torch.uint8)
    labels[0, 0] = IGNORED
    return (
        torch.randn(2, 3, 4, 5, 6, dtype=torch.double),
        labels,
        torch.ones(2, 2, dtype=torch.bool),
        torch.eye(3, dtype=torch.bool)[1:],
    )


def test_class_weights_make_a_weighted_mean():
    arguments = row([[0.5, 0.5], [0.75, 0.25], [0.2, 0.8]], [0, 1, IGNORED])
    loss = cross_entropy(*arguments, class_weights=(1.0, 3.0))
    assert loss.item() == pytest.approx((math.log(2) + 3 * math.log(4)) / 4)


def test_class_weights_are_those_of_torch(patch):
    weights = (0.5, 2.0, 7.0)
    logits, labels, *_ = patch
    torch.testing.assert_close(
        cross_entropy(*patch, class_weights=weights),
        F.cross_entropy(
            logits,
            labels.long(),
            torch.tensor(weights, dtype=torch.double),
            ignore_index=IGNORED,
        ),
    )


def test_voxel_weights_make_a_weighted_mean():
    arguments = row([[0.5, 0.5], [0.75, 0.25], [0.2, 0.8]], [0, 1, IGNORED])
    weights = torch.tensor([1.0, 0.5, 100.0]).reshape(1, 3, 1, 1)
    loss = cross_entropy(*arguments, voxel_weights=weights)
    assert loss.item() == pytest.approx((math.log(2) + 0.5 * math.log(4)) / 1.5)
    loss = cross_entropy(*arguments, voxel_weights=weights, class_weights=(2.0, 1.0))
    assert loss.item() == pytest.approx((2 * math.log(2) + 0.5 * math.log(4)) / 2.5)


def test_weights_of_one_change_nothing(patch):
    ones = torch.ones(patch[1].shape)
    for weights in ({"class_weights": (1.0,) * 3}, {"voxel_weights": ones}):
        torch.testing.assert_close(
            cross_entropy(*patch, **weights), cross_entropy(*patch)
        )


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e6])
def test_only_the_ratio_of_weights_counts(patch, scale):
    weights = 0.1 + torch.rand(patch[1].shape, dtype=torch.double)
    torch.testing.assert_close(
        cross_entropy(*patch, voxel_weights=scale * weights),
        cross_entropy(*patch, voxel_weights=weights),
    )


def test_weights_of_zero_are_no_loss_and_no_gradient(patch):
    logits = patch[0].requires_grad_()
    loss = cross_entropy(*patch, voxel_weights=torch.zeros(patch[1].shape))
    loss.backward()
    assert loss == 0
    assert logits.grad.abs().max() == 0


def test_a_merged_class_has_the_weight_of_the_class_that_is_shown():
    logits, labels, _, structures = nested([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]], [1, 0])
    loss = cross_entropy(
        logits,
        labels,
        torch.tensor([[True, False]]),
        structures,
        class_weights=(1.0, 3.0, 100.0),
    )
    assert loss.item() == pytest.approx((3 * -math.log(0.8) - math.log(0.6)) / 4)


def test_weighted_gradient_is_that_of_finite_differences(patch):
    _, labels, annotated, structures = patch
    annotated[1, 1] = False
    labels[1][labels[1] == 2] = 0
    logits = torch.randn(2, 3, 2, 2, 2, dtype=torch.double, requires_grad=True)
    labels = labels[:, :2, :2, :2]
    weights = torch.rand(labels.shape, dtype=torch.double)
    assert torch.autograd.gradcheck(
        lambda z: cross_entropy(
            z,
            labels,
            annotated,
            structures,
            class_weights=(0.5, 1.0, 4.0),
            voxel_weights=weights,
        ),
        logits,
    )


HARDER_AND_HARDER = [[0.9, 0.1], [0.5, 0.5], [0.25, 0.75], [0.125, 0.875]]


@pytest.mark.parametrize(
    ("percent", "expected"),
    [
        (50.0, (math.log(8) + math.log(4)) / 2),
        (74.9, (math.log(8) + math.log(4)) / 2),
        (75.0, (math.log(8) + math.log(4) + math.log(2)) / 3),
        (1.0, math.log(8)),
    ],
)
def test_top_k_is_the_mean_of_the_worst(percent, expected):
    loss = top_k_loss(*row(HARDER_AND_HARDER, [0, 0, 0, 0]), percent=percent)
    assert loss.item() == pytest.approx(expected)


def test_top_k_of_everything_is_cross_entropy(patch):
    torch.testing.assert_close(top_k_loss(*patch, percent=100.0), cross_entropy(*patch))


def test_top_k_takes_the_worst_of_the_whole_batch(patch):
    logits, labels, annotated, structures = patch
    logits[0] *= 1e-3
    logits[1] *= 50
    surprise = F.cross_entropy(logits[1:], labels[1:].long(), reduction="none")
    expected = surprise.flatten().sort(descending=True).values[:21].mean()
    loss = top_k_loss(logits, labels, annotated, structures, percent=10.0)
    # 10 % of 210 known voxels, all of them in the second patch.
    torch.testing.assert_close(loss, expected)


def test_ignored_voxels_are_no_candidates_of_top_k():
    arguments = row(HARDER_AND_HARDER, [0, 0, 0, IGNORED])
    assert top_k_loss(*arguments, percent=40.0).item() == pytest.approx(math.log(4))


def test_top_k_learns_from_chosen_voxels_alone():
    arguments = row(HARDER_AND_HARDER, [0, 0, 0, 0])
    logits = arguments[0].requires_grad_()
    top_k_loss(*arguments, percent=50.0).backward()
    assert (logits.grad[0, 0, :2] == 0).all()
    assert (logits.grad[0, 0, 2:] < 0).all()


def test_focal_loss_by_hand():
    arguments = row([[0.75, 0.25], [0.1, 0.9]], [0, IGNORED])
    loss = focal_loss(*arguments, gamma=2.0)
    assert loss.item() == pytest.approx(0.25**2 * math.log(4 / 3))


def test_focal_loss_without_gamma_is_cross_entropy(patch):
    torch.testing.assert_close(focal_loss(*patch, gamma=0.0), cross_entropy(*patch))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_of_certain_voxels_has_a_slope(gamma):
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]]).reshape(1, 2, 2, 1, 1)
    logits.requires_grad_()
    loss = focal_loss(
        logits,
        torch.tensor([0, 0], dtype=torch.uint8).reshape(1, 2, 1, 1),
        BOTH[:, :1],
        torch.tensor([[False, True]]),
        gamma=gamma,
    )
    loss.backward()
    assert loss.item() == pytest.approx(100)
    assert torch.isfinite(logits.grad).all()


# Structure probabilities 1/4 and 3/4, the reference is the second voxel: shared 3/4,
# predicted 1, reference 1.
TWO_VOXELS = row([[0.75, 0.25], [0.25, 0.75]], [0, 1])


def test_iou_by_hand():
    assert iou_loss(*TWO_VOXELS).item() == pytest.approx(1 - 0.75 / 1.25, abs=1e-5)


def test_iou_follows_from_dice():
    dice = 1 - dice_loss(*TWO_VOXELS)
    assert iou_loss(*TWO_VOXELS).item() == pytest.approx(
        1 - (dice / (2 - dice)).item(), abs=1e-5
    )


def test_tversky_by_hand():
    # Half a voxel each would be too much and missed; here 3/4 and 1/4.
    arguments = row([[0.25, 0.75], [0.25, 0.75]], [0, 1])
    loss = tversky_loss(*arguments, false_positives=0.3, false_negatives=0.7)
    expected = 1 - 0.75 / (0.75 + 0.3 * 0.75 + 0.7 * 0.25)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("weight", "other"), [(0.5, dice_loss), (1.0, iou_loss)])
def test_tversky_holds_dice_and_iou(patch, weight, other):
    loss = tversky_loss(*patch, false_positives=weight, false_negatives=weight)
    assert loss.item() == pytest.approx(other(*patch).item(), abs=1e-5)


def test_generalised_dice_by_hand():
    # Three voxels of background, one of the structure: weights 1/9 and 1.
    structure = [0.1, 0.2, 0.3, 0.6]
    arguments = row([[1 - p, p] for p in structure], [0, 0, 0, 1])
    shared = 2.4 / 9 + 0.6
    total = (2.8 + 3) / 9 + (1.2 + 1)
    loss = generalised_dice_loss(*arguments)
    assert loss.item() == pytest.approx(1 - 2 * shared / total, abs=1e-5)


def test_generalised_dice_of_an_absent_structure_weighs_like_the_smallest():
    arguments = row([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1]], [0, 1, 0])
    # Volumes 2, 1, 0; predicted 1.3, 1.3, 0.4; shared 1.1, 0.7, 0.
    shared = 1.1 / 4 + 0.7
    total = 3.3 / 4 + 2.3 + 0.4
    loss = generalised_dice_loss(*arguments)
    assert loss.item() == pytest.approx(1 - 2 * shared / total, abs=1e-5)


def test_generalised_dice_does_not_depend_on_resolution():
    arguments = row([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]], [0, 0, 1])
    logits, labels, *rest = arguments
    finer = (
        logits.expand(-1, -1, -1, 200, 200).contiguous(),
        labels.expand(-1, -1, 200, 200).contiguous(),
    )
    assert generalised_dice_loss(*finer, *rest).item() == pytest.approx(
        generalised_dice_loss(*arguments).item(), abs=1e-5
    )


def test_generalised_dice_counts_what_was_not_annotated_as_background():
    logits, labels, _, structures = row([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]], [0, 1])
    loss = generalised_dice_loss(
        logits, labels, torch.tensor([[True, False]]), structures
    )
    # Background 0.8 and 0.4, the first structure 0.2 and 0.6; volumes are 1 each.
    expected = 1 - 2 * (0.8 + 0.6) / (1.2 + 1 + 0.8 + 1)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


REGIONS = {
    "dice": (lambda s, p, r: 2 * s / (p + r)),
    "iou": (lambda s, p, r: s / (p + r - s)),
    "tversky": (lambda s, p, r: s / (s + 0.3 * (p - s) + 0.7 * (r - s))),
}


@pytest.mark.parametrize("name", REGIONS)
def test_structures_that_overlap_and_their_own_parts_count(name):
    arguments = nested([[0.2, 0.5, 0.3], [0.1, 0.3, 0.6]], [1, 2])
    agreement = REGIONS[name]
    organ = agreement(0.8 + 0.9, 0.8 + 0.9, 2)
    lesion = agreement(0.6, 0.3 + 0.6, 1)
    organ_alone = agreement(0.5, 0.5 + 0.3, 1)
    loss = BY_NAME[name](*arguments)
    expected = 1 - (organ + lesion + organ_alone) / 3
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_region_cross_entropy_by_hand():
    arguments = nested([[0.2, 0.5, 0.3], [0.1, 0.3, 0.6], [0.3, 0.3, 0.4]], [1, 2, 255])
    organ = -math.log(0.8) - math.log(0.9)
    lesion = -math.log(0.7) - math.log(0.6)
    assert region_cross_entropy(*arguments).item() == pytest.approx(
        (organ + lesion) / 4
    )


def test_region_cross_entropy_leaves_out_what_was_not_annotated():
    logits, _, _, structures = nested([[0.2, 0.5, 0.3], [0.1, 0.3, 0.6]], [1, 2])
    labels = torch.ones(1, 2, 1, 1, dtype=torch.uint8)
    loss = region_cross_entropy(
        logits, labels, torch.tensor([[True, False]]), structures
    )
    assert loss.item() == pytest.approx((-math.log(0.8) - math.log(0.9)) / 2)


def test_region_cross_entropy_of_one_structure_is_cross_entropy():
    torch.testing.assert_close(
        region_cross_entropy(*TWO_VOXELS), cross_entropy(*TWO_VOXELS)
    )


def test_region_cross_entropy_of_certain_mistakes_keeps_its_slope():
    logits = torch.tensor([0.0, 300.0, 0.0]).reshape(1, 3, 1, 1, 1).requires_grad_()
    background = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    loss = region_cross_entropy(logits, background, BOTH, ORGAN_AND_LESION)
    loss.backward()
    assert loss.item() == pytest.approx(150)
    assert logits.grad.flatten().tolist() == pytest.approx([-0.5, 0.5, 0], abs=1e-6)


def test_log_odds_are_exact_at_both_ends():
    logits = torch.tensor([0.0, -100.0, 100.0]).reshape(1, 3, 1)
    odds = structure_log_odds(logits, torch.eye(3, dtype=torch.bool)[1:])
    assert odds.flatten().tolist() == pytest.approx([-200.0, 100.0])
