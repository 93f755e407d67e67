"""Losses against MONAI's, where it is installed."""

from functools import partial

import pytest
import torch

from foveal.losses.cross_entropy import cross_entropy
from foveal.losses.dice import dice_loss
from foveal.losses.focal import focal_loss
from foveal.losses.generalised_dice import generalised_dice_loss
from foveal.losses.iou import iou_loss
from foveal.losses.tversky import tversky_loss

monai = pytest.importorskip("monai.losses")

CLASSES = 4

# MONAI leaves background out of its Dice where it is told to; smoothing is as here.
ALIKE = {
    "softmax": True,
    "to_onehot_y": True,
    "batch": True,
    "smooth_nr": 1e-5,
    "smooth_dr": 1e-5,
}
WITHOUT_BACKGROUND = ALIKE | {"include_background": False}


@pytest.fixture(params=[0, 1])
def batch(request):
    generator = torch.Generator().manual_seed(request.param)
    logits = 3 * torch.randn(2, CLASSES, 6, 7, 8, generator=generator)
    labels = torch.randint(0, CLASSES, (2, 6, 7, 8), generator=generator)
    # Structures of very unlike size.
    labels[:, 1:][labels[:, 1:] == 3] = 0
    return logits.double(), labels.to(torch.uint8)


def ours(loss, batch):
    annotated = torch.ones(2, CLASSES - 1, dtype=torch.bool)
    return loss(*batch, annotated, torch.eye(CLASSES, dtype=torch.bool)[1:])


@pytest.mark.parametrize(
    ("loss", "reference"),
    [
        (dice_loss, partial(monai.DiceLoss, **WITHOUT_BACKGROUND)),
        (iou_loss, partial(monai.DiceLoss, **WITHOUT_BACKGROUND, jaccard=True)),
        (
            partial(tversky_loss, false_positives=0.3, false_negatives=0.7),
            partial(monai.TverskyLoss, **WITHOUT_BACKGROUND, alpha=0.3, beta=0.7),
        ),
        (
            generalised_dice_loss,
            # Its weights are inverse squares themselves, beside which 1e-5 is much.
            partial(
                monai.GeneralizedDiceLoss,
                **ALIKE | {"smooth_nr": 1e-12, "smooth_dr": 1e-12},
            ),
        ),
    ],
    ids=["dice", "iou", "tversky", "generalised dice"],
)
def test_region_losses_are_monais(loss, reference, batch):
    logits, labels = batch
    value = ours(loss, batch)
    expected = reference()(logits, labels[:, None])
    assert value.item() == pytest.approx(expected.item(), abs=2e-5)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_is_monais(gamma, batch):
    logits, labels = batch
    reference = monai.FocalLoss(gamma=gamma, use_softmax=True, to_onehot_y=True)
    # It is the mean over classes too, of which all but the right one are 0.
    expected = CLASSES * reference(logits, labels[:, None])
    value = ours(partial(focal_loss, gamma=gamma), batch)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)


def test_cross_entropy_with_class_weights_is_monais(batch):
    logits, labels = batch
    weights = (0.1, 1.0, 2.0, 5.0)
    reference = monai.DiceCELoss(
        softmax=True,
        to_onehot_y=True,
        lambda_dice=0.0,
        weight=torch.tensor(weights, dtype=torch.double),
    )
    value = ours(partial(cross_entropy, class_weights=weights), batch)
    assert value.item() == pytest.approx(reference(logits, labels[:, None]).item())
