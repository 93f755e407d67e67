"""Values by hand, limits and gradients of the losses, partial annotation included."""

import math

import numpy as np
import pytest
import torch
from every_loss import EVERY_LOSS, EVERY_LOSS_WITHOUT_PLACES
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.case import IGNORED, seen_classes
from foveal.losses.cross_entropy import cross_entropy
from foveal.losses.dice import dice_loss
from foveal.losses.partial_annotation import merge_unannotated
from foveal.losses.soft_counts import with_own_parts

ORGAN_AND_LESION = torch.tensor([[False, True, True], [False, False, True]])
"""Class 1 is organ, class 2 a lesion in it: the organ is the union of both."""


def all_annotated(patches, classes):
    """Every structure of every patch, and that every class but 0 is a structure."""
    return torch.ones(patches, classes - 1, dtype=torch.bool), one_class_each(classes)


def one_class_each(classes):
    return torch.eye(classes, dtype=torch.bool)[1:]


def random_patch(seed, classes=4, patches=2):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(patches, classes, 3, 4, 5, generator=generator)
    labels = torch.randint(0, classes, (patches, 3, 4, 5), generator=generator)
    return logits, labels.to(torch.uint8)


def test_cross_entropy_of_two_voxels_by_hand():
    # Probabilities 3/4 and 1/4 for the right class.
    logits = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]])
    logits = logits.reshape(1, 2, 2, 1, 1)
    labels = torch.tensor([0, 0], dtype=torch.uint8).reshape(1, 2, 1, 1)
    expected = (math.log(4 / 3) + math.log(4)) / 2
    loss = cross_entropy(logits, labels, *all_annotated(1, 2))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_dice_of_two_voxels_by_hand():
    # Structure probabilities 1/4 and 3/4; the reference is the second voxel.
    logits = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]])
    logits = logits.reshape(1, 2, 2, 1, 1)
    labels = torch.tensor([0, 1], dtype=torch.uint8).reshape(1, 2, 1, 1)
    loss = dice_loss(logits, labels, *all_annotated(1, 2))
    assert loss.item() == pytest.approx(1 - 2 * 0.75 / (1 + 1), abs=1e-5)


@pytest.mark.parametrize("loss", EVERY_LOSS)
def test_ignored_voxels_carry_nothing(loss):
    logits, labels = random_patch(0)
    labels[:, 0] = IGNORED
    changed = logits.clone()
    changed[:, :, 0] += 5 * torch.randn_like(changed[:, :, 0])
    annotated = all_annotated(2, 4)
    assert loss(changed, labels, *annotated) == loss(logits, labels, *annotated)
    logits.requires_grad_()
    loss(logits, labels, *annotated).backward()
    assert logits.grad[:, :, 0].abs().max() == 0
    assert logits.grad[:, :, 1:].abs().max() > 0


@pytest.mark.parametrize("loss", EVERY_LOSS)
def test_nothing_known_is_no_loss_and_no_gradient(loss):
    logits, labels = random_patch(1)
    labels[:] = IGNORED
    logits.requires_grad_()
    value = loss(logits, labels, *all_annotated(2, 4))
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("loss", EVERY_LOSS)
def test_perfect_prediction_costs_nothing(loss):
    _, labels = random_patch(2)
    one_hot = torch.nn.functional.one_hot(labels.long(), 4).movedim(-1, 1)
    value = loss(40.0 * one_hot, labels, *all_annotated(2, 4))
    assert value.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("loss", EVERY_LOSS)
@given(seed=st.integers(0, 10_000))
def test_loss_falls_along_its_gradient(loss, seed):
    logits, labels = random_patch(seed)
    logits.requires_grad_()
    value = loss(logits, labels, *all_annotated(2, 4))
    (gradient,) = torch.autograd.grad(value, logits)
    assert torch.isfinite(gradient).all()
    better = logits - 1e-2 * gradient / gradient.norm()
    assert loss(better, labels, *all_annotated(2, 4)) < value


@pytest.mark.parametrize("loss", EVERY_LOSS)
@pytest.mark.parametrize(
    "structures",
    [
        one_class_each(4),
        torch.tensor([[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).bool(),
    ],
    ids=["apart", "nested"],
)
def test_gradient_equals_finite_differences(loss, structures):
    logits, labels = random_patch(3)
    logits = logits[:, :, :2, :2, :3].double().requires_grad_()
    labels = labels[:, :2, :2, :3].clone()
    labels[:, 0, 0] = IGNORED
    # Class 2 was not annotated in the second patch, and shows as what it lies in.
    annotated = torch.tensor([[True, True, True], [True, False, True]])
    labels[1][labels[1] == 2] = int(structures[0, 2])
    assert torch.autograd.gradcheck(
        lambda z: loss(z, labels, annotated, structures), logits, eps=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("loss", EVERY_LOSS)
@settings(max_examples=12)
@given(seed=st.integers(0, 10_000), ignored_fraction=st.floats(0.0, 1.0))
def test_predictions_of_ignored_voxels_change_nothing(loss, seed, ignored_fraction):
    logits, labels = random_patch(seed)
    other = random_patch(seed + 1)[0]
    is_ignored = other[:, 0].sigmoid() < ignored_fraction
    labels[is_ignored] = IGNORED
    changed = torch.where(is_ignored.unsqueeze(1), 9 * other, logits).requires_grad_()
    value = loss(changed, labels, *all_annotated(2, 4))
    assert value.item() == pytest.approx(
        loss(logits, labels, *all_annotated(2, 4)).item(), rel=1e-5, abs=1e-7
    )
    value.backward()
    assert (changed.grad * is_ignored.unsqueeze(1)).abs().max() == 0


@pytest.mark.parametrize("loss", EVERY_LOSS_WITHOUT_PLACES)
@settings(max_examples=12)
@given(seed=st.integers(0, 10_000))
def test_order_of_voxels_does_not_matter(loss, seed):
    logits, labels = random_patch(seed)
    labels[:, 0, 0] = IGNORED
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    shuffled_logits = logits.flatten(2)[:, :, order].reshape(logits.shape)
    shuffled_labels = labels.flatten(1)[:, order].reshape(labels.shape)
    annotated = all_annotated(2, 4)
    assert loss(shuffled_logits, shuffled_labels, *annotated).item() == pytest.approx(
        loss(logits, labels, *annotated).item(), rel=1e-5
    )


@pytest.mark.parametrize("loss", EVERY_LOSS)
@settings(max_examples=12)
@given(seed=st.integers(0, 10_000))
def test_perfect_prediction_of_nested_structures_costs_nothing(loss, seed):
    labels = random_patch(seed, classes=3)[1]
    labels[:, 0] = IGNORED
    one_hot = torch.nn.functional.one_hot((labels % IGNORED).long(), 3).movedim(-1, 1)
    both = torch.ones(2, 2, dtype=torch.bool)
    value = loss(40.0 * one_hot, labels, both, ORGAN_AND_LESION)
    assert value.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("loss", EVERY_LOSS)
def test_half_precision_is_summed_in_single(loss):
    logits, labels = random_patch(6)
    halves = logits.bfloat16()
    value = loss(halves, labels, *all_annotated(2, 4))
    assert value.dtype == torch.float32
    torch.testing.assert_close(
        value, loss(halves.float(), labels, *all_annotated(2, 4))
    )


@pytest.mark.parametrize("loss", EVERY_LOSS)
def test_autocast_changes_nothing(loss):
    logits, labels = random_patch(6, classes=3)
    arguments = logits, labels, torch.ones(2, 2, dtype=torch.bool), ORGAN_AND_LESION
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(*arguments)
    assert value == loss(*arguments)


def test_merged_background_has_the_probability_of_both():
    logits, _ = random_patch(4)
    annotated = torch.tensor([[True, False, True], [True, True, True]])
    before = logits.softmax(dim=1)
    after = merge_unannotated(logits, annotated, one_class_each(4)).softmax(dim=1)
    torch.testing.assert_close(after[0, 0], before[0, 0] + before[0, 2])
    torch.testing.assert_close(after[0, [1, 3]], before[0, [1, 3]])
    assert (after[0, 2] == 0).all()
    torch.testing.assert_close(after[1], before[1])


@pytest.mark.parametrize("loss", EVERY_LOSS)
def test_predicting_a_structure_that_was_not_annotated_is_not_punished(loss):
    labels = torch.zeros(1, 3, 4, 5, dtype=torch.uint8)
    labels[0, 0] = 1
    annotated = torch.tensor([[True, False]]), one_class_each(3)
    logits = torch.zeros(1, 3, 3, 4, 5)
    logits[:, 1, 0] = 30
    says_background, says_other = logits.clone(), logits.clone()
    says_background[:, 0, 1:] = 30
    says_other[:, 2, 1:] = 30
    expected = loss(says_background, labels, *annotated)
    assert loss(says_other, labels, *annotated).item() == pytest.approx(
        expected.item(), abs=1e-6
    )
    # Where it was annotated, the same prediction is wrong.
    everything = all_annotated(1, 3)
    assert loss(says_other, labels, *everything) > expected + 0.1


def test_dice_of_a_class_annotated_nowhere_is_left_out():
    logits, labels = random_patch(5)
    labels[labels == 3] = 0
    annotated = torch.tensor([[True, True, False]] * 2)
    merged = torch.cat(
        [logits[:, [0, 3]].logsumexp(dim=1, keepdim=True), logits[:, 1:3]], dim=1
    )
    expected = dice_loss(merged, labels, *all_annotated(2, 3))
    value = dice_loss(logits, labels, annotated, one_class_each(4))
    assert value.item() == pytest.approx(expected.item())


def test_dice_of_overlapping_structures_by_hand():
    # One voxel each of organ and of lesion; probabilities bg, organ, lesion.
    probabilities = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.3, 0.6]])
    logits = probabilities.log().T.reshape(1, 3, 2, 1, 1)
    labels = torch.tensor([1, 2], dtype=torch.uint8).reshape(1, 2, 1, 1)
    organ = 2 * (0.8 + 0.9) / (0.8 + 0.9 + 2)
    lesion = 2 * 0.6 / (0.3 + 0.6 + 1)
    organ_alone = 2 * 0.5 / (0.5 + 0.3 + 1)
    both = torch.tensor([[True, True]])
    loss = dice_loss(logits, labels, both, ORGAN_AND_LESION)
    expected = 1 - (organ + lesion + organ_alone) / 3
    assert loss.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("loss", EVERY_LOSS)
def test_without_lesions_annotated_a_lesion_is_organ(loss):
    labels = torch.ones(1, 3, 4, 5, dtype=torch.uint8)
    labels[0, 0] = 0
    organ_only = torch.tensor([[True, False]])
    logits = torch.zeros(1, 3, 3, 4, 5)
    logits[:, 0, 0] = 30
    says_organ, says_lesion = logits.clone(), logits.clone()
    says_organ[:, 1, 1:] = 30
    says_lesion[:, 2, 1:] = 30
    for prediction in (says_organ, says_lesion):
        value = loss(prediction, labels, organ_only, ORGAN_AND_LESION)
        assert value.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("annotated", "expected"),
    [
        ([False, True], (0, 0, 2)),
        ([True, True], (0, 1, 2)),
        ([True, False], (0, 1, 1)),
        ([False, False], (0, 0, 0)),
    ],
)
def test_classes_that_look_alike_count_as_the_first_of_them(annotated, expected):
    assert seen_classes(np.array(annotated), ORGAN_AND_LESION.numpy()) == expected


def test_only_structures_that_overlap_have_parts_of_their_own():
    annotated = torch.tensor([[True, False]])
    structures, flags = with_own_parts(ORGAN_AND_LESION, annotated)
    assert structures.tolist() == [*ORGAN_AND_LESION.tolist(), [False, True, False]]
    assert flags.tolist() == [[True, False, True]]
    # A union that overlaps with nothing, and a structure of one class.
    apart = torch.tensor([[False, True, True, False], [False, False, False, True]])
    assert torch.equal(with_own_parts(apart, annotated)[0], apart)


@pytest.mark.parametrize("loss", EVERY_LOSS)
def test_nothing_annotated_is_no_loss_and_no_gradient(loss):
    logits, _ = random_patch(7, classes=3)
    logits.requires_grad_()
    labels = torch.zeros(2, 3, 4, 5, dtype=torch.uint8)
    value = loss(logits, labels, torch.zeros(2, 2, dtype=torch.bool), ORGAN_AND_LESION)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-6
