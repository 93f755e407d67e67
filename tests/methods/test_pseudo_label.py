"""Pseudo-labels as loss terms: weighted, thresholded, without touching batch norms."""

import dataclasses

import pytest
import torch
from made_up_setting import NO_CHANGES, NO_MOVES
from phantoms import ball_and_box

from foveal.building import network
from foveal.case import IGNORED
from foveal.losses.cross_entropy import cross_entropy
from foveal.losses.dice import dice_loss
from foveal.methods.interface import Clock, Setting
from foveal.methods.labelled_loss import LabelledLoss
from foveal.methods.pseudo_label import (
    PseudoLabel,
    sure_classes,
    sure_probabilities,
)
from foveal.sampling.batch import Batch

STRUCTURES = torch.eye(3, dtype=torch.bool)[1:]
MIDDLE = Clock(step=5, total_steps=20, seed=0, rank=0)


def batch_of(seed):
    image, labels = ball_and_box(seed, (16, 16, 16))
    label_map = torch.from_numpy(labels)[None]
    one_hot = torch.nn.functional.one_hot(label_map.long(), 3)
    return Batch(
        image=(torch.from_numpy(image)[None, None] - 100) / 20,
        label_map=label_map,
        annotated=torch.ones(1, 2, dtype=torch.bool),
        structures=STRUCTURES,
        case_names=("phantom",),
        corners=((0, 0, 0),),
        soft_labels=one_hot.movedim(-1, 1).float(),
    )


def method(labels="hard", **options):
    torch.manual_seed(0)
    setting = Setting(
        network=network(
            "unet3d",
            in_channels=1,
            num_classes=3,
            features=(4, 8),
            kernels=((3, 3, 3),) * 2,
            strides=((2, 2, 2),),
            norm="batch",
            deep_supervision=True,
        ),
        labelled_loss=LabelledLoss(
            {"cross_entropy": (cross_entropy, 1.0), "dice": (dice_loss, 1.0)}
        ),
        sampler="class_balanced",
        batch_size=2,
        in_channels=1,
        patch_size=(16, 16, 16),
        spacing_mm=(1.0, 1.0, 1.0),
        structures=STRUCTURES,
        spatial=NO_MOVES,
        intensity=NO_CHANGES,
    )
    usual = {
        "labels": labels,
        "threshold": 0.9,
        "weight": 1.0,
        "ramp_up_fraction": 0.5,
        "every_steps": None,
        "least_share": 0.5,
        "batch_size": None,
    }
    return PseudoLabel(setting, **usual | options)


@pytest.fixture
def batches():
    return {"labelled": batch_of(0), "unlabelled": batch_of(1)}


def test_unlabelled_patches_are_drawn_uniformly_and_as_many_by_default():
    streams = method().streams
    assert streams["unlabelled"] == ("unlabelled", "uniform", 2, ())
    assert method(batch_size=5).streams["unlabelled"].batch_size == 5
    assert method().refresh.stream in streams


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_terms_of_unlabelled_patches_are_weighed_by_weight_and_ramp(batches, labels):
    made = method(labels, weight=0.4)
    torch.manual_seed(1)
    half = made(batches, MIDDLE)
    torch.manual_seed(1)
    full = made(batches, MIDDLE._replace(step=10))
    assert set(full) == {"cross_entropy", "dice", "pseudo_cross_entropy"} | (
        {"pseudo_dice"} if labels == "hard" else set()
    )
    # Labelled patches move the running statistics between the two, but not by much.
    ratio = full["pseudo_cross_entropy"] / half["pseudo_cross_entropy"]
    assert 1.8 < ratio < 2.2
    begun = made(batches, MIDDLE._replace(step=0))
    assert begun["pseudo_cross_entropy"] == 0


def test_soft_labels_that_are_sure_cost_what_hard_ones_do(batches):
    hard, soft = (method(kind)(batches, MIDDLE) for kind in ("hard", "soft"))
    torch.testing.assert_close(
        hard["pseudo_cross_entropy"], soft["pseudo_cross_entropy"]
    )


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_voxels_without_a_label_carry_no_loss_and_are_counted(batches, labels):
    made = method(labels)
    assert made.measures() == {}
    unknown = dataclasses.replace(
        batches["unlabelled"],
        label_map=torch.full_like(batches["unlabelled"].label_map, IGNORED),
        soft_labels=torch.zeros_like(batches["unlabelled"].soft_labels),
    )
    terms = made(batches | {"unlabelled": unknown}, MIDDLE)
    assert terms["pseudo_cross_entropy"] == 0
    assert made.measures() == {"pseudo_label_share": 0}
    half = dataclasses.replace(
        unknown,
        label_map=unknown.label_map.index_fill(1, torch.arange(8), 0),
        soft_labels=unknown.soft_labels.index_fill(2, torch.arange(8), 1 / 3),
    )
    made(batches | {"unlabelled": half}, MIDDLE)
    assert made.measures() == {"pseudo_label_share": 0.5}


def test_unlabelled_patches_teach_but_leave_batch_norms_alone(batches):
    made, alone = method(), method()
    terms = made(batches, MIDDLE)
    terms["pseudo_cross_entropy"].backward()
    assert all(each.grad is not None for each in made.parameters())
    alone.network(batches["labelled"].image)
    for name, buffer in alone.network.named_buffers():
        assert torch.equal(buffer, made.network.get_buffer(name)), name


def test_labels_below_the_threshold_are_unknown():
    probabilities = torch.tensor([[0.95, 0.5, 0.1], [0.05, 0.3, 0.9], [0.0, 0.2, 0.0]])
    grid = probabilities.reshape(3, 3, 1, 1)
    assert sure_classes(grid, threshold=0.9).flatten().tolist() == [0, IGNORED, 1]
    assert sure_classes(grid, threshold=0.0).flatten().tolist() == [0, 0, 1]
    soft = sure_probabilities(grid, threshold=0.9).reshape(3, 3)
    assert soft.tolist() == [[242, 0, 26], [13, 0, 230], [0, 0, 0]]
    assert soft.dtype == torch.uint8
