import math

import pytest
import torch

from foveal.uncertainty.temperature import (
    MOST_VOXELS,
    DrawnVoxels,
    draw_voxels,
    fitted_temperature,
    tempered,
    voxels_per_case,
)


def calibrated_case(num_voxels, num_classes, seed, shown=None):
    """Probabilities, and labels that are drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num_voxels, num_classes, generator=generator)
    probabilities = logits.softmax(dim=1)
    labels = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
    shown = torch.arange(num_classes) if shown is None else torch.tensor(shown)
    return probabilities, shown[labels], shown


def test_tempering_is_softmax_of_logits_over_the_temperature():
    logits = torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(1))
    for temperature in (0.3, 1.0, 2.5):
        found = tempered(logits.softmax(dim=0), temperature)
        assert torch.allclose(found, (logits / temperature).softmax(dim=0), atol=1e-6)


def test_tempering_keeps_sure_voxels_and_never_divides_by_zero():
    sure = torch.tensor([1.0, 0.0, 0.0])
    assert tempered(sure, 5.0).tolist() == [1.0, 0.0, 0.0]
    # 118 classes alike, each to the power of twenty, are below the smallest float.
    alike = torch.full((118, 2), 1 / 118)
    assert torch.allclose(tempered(alike, 0.05), alike)


@pytest.mark.parametrize("wanted", [0.6, 1.0, 1.8])
def test_the_temperature_that_probabilities_were_spoilt_by_is_found(wanted):
    probabilities, labels, shown = calibrated_case(20_000, 4, seed=2)
    spoilt = tempered(probabilities.T, 1 / wanted).T
    found = fitted_temperature([DrawnVoxels(spoilt, labels, shown)])
    assert found == pytest.approx(wanted, rel=0.03)


def test_classes_that_look_alike_are_told_together():
    # Class 2 was not annotated: it shows as background.
    probabilities, labels, shown = calibrated_case(20_000, 3, 3, shown=[0, 1, 0])
    assert not (labels == 2).any()
    spoilt = tempered(probabilities.T, 1 / 1.5).T
    found = fitted_temperature([DrawnVoxels(spoilt, labels, shown)])
    assert found == pytest.approx(1.5, rel=0.05)


def test_a_sure_error_does_not_outweigh_everything():
    probabilities = torch.tensor([[1.0, 0.0]] * 99 + [[0.0, 1.0]])
    labels = torch.zeros(100, dtype=torch.long)
    found = fitted_temperature([DrawnVoxels(probabilities, labels, torch.arange(2))])
    # One in a hundred wrong: the logit, 16.6, should be that of 99 %, 4.6.
    assert found == pytest.approx(math.log(2**24) / math.log(99), rel=0.01)


def test_sure_voxels_of_half_precision_do_not_bias_a_large_temperature():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5000, 4, generator=generator)
    logits[torch.arange(5000), torch.randint(4, (5000,), generator=generator)] += 6
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    kept = (3 * logits).softmax(dim=1).half().float()
    found = fitted_temperature([DrawnVoxels(kept, labels, torch.arange(4))])
    assert found == pytest.approx(3.0, rel=0.1)


def test_drawn_voxels_are_some_that_count_and_the_same_every_time():
    counted = torch.zeros(10, 10, 10, dtype=torch.bool)
    counted[2:8] = True
    places = draw_voxels(counted, 200, seed=1)
    assert counted.flatten()[places].all()
    assert 150 < len(places) <= 200
    assert (places == draw_voxels(counted, 200, seed=1)).all()
    assert len(draw_voxels(counted, 600, seed=1)) == 600
    assert len(draw_voxels(torch.zeros(2, 2, 2, dtype=torch.bool), 9, seed=1)) == 0


def test_fewer_voxels_are_drawn_of_many_classes_and_cases():
    assert voxels_per_case(40, 3) == MOST_VOXELS
    assert voxels_per_case(100, 118) == 50_000_000 // 11_800
