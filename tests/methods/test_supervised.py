"""Weighted sums of losses, on every scale of deep supervision; a loss that learns."""

import pytest
import torch
from every_loss import BY_NAME, EVERY_LOSS
from phantoms import ball_and_box

from foveal.building import network
from foveal.methods.interface import Clock
from foveal.methods.supervised import Supervised
from foveal.networks.interface import Output
from foveal.sampling.batch import Batch

CLOCK = Clock(step=0, total_steps=1, seed=0, rank=0)
STRUCTURES = torch.eye(3, dtype=torch.bool)[1:]


def batch_of(seeds, annotated=None):
    """Whole phantoms."""
    drawn = [ball_and_box(seed, (16, 16, 16)) for seed in seeds]
    images = torch.stack([torch.from_numpy(image)[None] for image, _ in drawn])
    label_maps = torch.stack([torch.from_numpy(labels) for _, labels in drawn])
    return Batch(
        image=(images - 100) / 20,
        label_map=label_maps,
        annotated=torch.ones(len(seeds), 2, dtype=torch.bool)
        if annotated is None
        else annotated,
        structures=STRUCTURES,
        case_names=("phantom",) * len(seeds),
        corners=((0, 0, 0),) * len(seeds),
    )


def unet(*, stages=2, **options):
    torch.manual_seed(0)
    return network(
        "unet3d",
        in_channels=1,
        num_classes=3,
        features=(8, 16, 16)[:stages],
        kernels=((3, 3, 3),) * stages,
        strides=((2, 2, 2),) * (stages - 1),
        **options,
    )


def hard_dice(output: Output, batch):
    """Mean of the two structures."""
    predicted, reference = output.logits.argmax(dim=1), batch.label_map
    scores = [
        2
        * ((predicted == n) & (reference == n)).sum()
        / ((predicted == n).sum() + (reference == n).sum())
        for n in (1, 2)
    ]
    return float(sum(scores) / 2)


@pytest.mark.parametrize("loss", EVERY_LOSS)
def test_scales_add_up_with_halving_shares(loss):
    trained = unet(stages=3, deep_supervision=True)
    annotated = torch.tensor([[True, False], [True, True]])
    batch = batch_of([0, 1], annotated)
    batch.label_map[0][batch.label_map[0] == 2] = 0
    batch.label_map[:, :4] = 255
    method = Supervised(trained, {"it": (loss, 3.0)}, sampler="uniform", batch_size=2)
    found = method.forward({"labelled": batch}, CLOCK)["it"]
    found.backward()
    assert all(torch.isfinite(weights.grad).all() for weights in trained.parameters())
    output = trained(batch.image)
    assert len(output.coarse_logits) == 1
    # The voxel nearest the centre of a coarse one, ties upwards.
    coarse = batch.label_map[:, 1::2, 1::2, 1::2]
    at_scales = [
        loss(logits, labels, annotated, STRUCTURES)
        for logits, labels in (
            (output.logits, batch.label_map),
            (output.coarse_logits[0], coarse),
        )
    ]
    expected = 3 * (2 * at_scales[0] + at_scales[1]) / 3
    torch.testing.assert_close(found, expected)


def test_losses_are_weighted_apart():
    weights = {name: 0.5 + n for n, name in enumerate(BY_NAME)}
    chosen = {name: (BY_NAME[name], weight) for name, weight in weights.items()}
    method = Supervised(unet(), chosen, sampler="uniform", batch_size=1)
    batch = batch_of([0])
    terms = method.forward({"labelled": batch}, CLOCK)
    logits = method.network(batch.image).logits
    assert terms.keys() == weights.keys()
    for name, term in terms.items():
        expected = weights[name] * BY_NAME[name](logits, *batch.labels())
        torch.testing.assert_close(term, expected)


def test_top_k_alone_learns_to_segment():
    trained = unet()
    chosen = {"top_k": (BY_NAME["top_k"], 1.0)}
    method = Supervised(trained, chosen, sampler="uniform", batch_size=2)
    optimiser = torch.optim.Adam(trained.parameters(), 2e-2)
    unseen = batch_of([7, 8])
    before = hard_dice(trained(unseen.image), unseen)
    for step in range(12):
        optimiser.zero_grad()
        method.forward({"labelled": batch_of([step % 4])}, CLOCK)["top_k"].backward()
        optimiser.step()
    after = hard_dice(trained(unseen.image), unseen)
    assert before < 0.1
    assert after > 0.5
