"""Mean-field inference: identities, agreement with exact kernels, gradients."""

import dataclasses

import pytest
import torch

from foveal.crf.mean_field import (
    DenseCrf,
    NormalisedKernel,
    gaussian_filter,
    kernels_of,
    mean_field,
    refined_probabilities,
)

CRF = DenseCrf(
    smoothness_mm=(2.0, 2.0, 2.0),
    appearance_mm=(5.0, 5.0, 5.0),
    appearance_deviations=(0.5, 0.6),
)
SPACING = (1.0, 1.0, 1.0)
NORMALISATIONS = ["symmetric", "before", "after", "none"]


def noisy_case(shape, num_classes=3, seed=0):
    """Two halves of unlike intensity, and probabilities that are often wrong."""
    generator = torch.Generator().manual_seed(seed)
    image = 0.3 * torch.randn(2, *shape, generator=generator)
    image[:, shape[0] // 2 :] += 1
    logits = torch.randn(num_classes, *shape, generator=generator)
    logits[0, : shape[0] // 2] += 1
    logits[1, shape[0] // 2 :] += 1
    return logits.softmax(0), image


@pytest.mark.parametrize(
    ("shape", "normalisation"),
    [
        *(((24, 24, 1), normalisation) for normalisation in NORMALISATIONS),
        ((12, 12, 12), "symmetric"),
    ],
)
def test_lattice_decides_as_exact_kernels_do(shape, normalisation):
    probabilities, image = noisy_case(shape)
    crf = dataclasses.replace(CRF, normalisation=normalisation)
    fast = refined_probabilities(probabilities, image, SPACING, crf)
    exact = refined_probabilities(probabilities, image, SPACING, crf, filters="exact")
    agreement = (fast.argmax(0) == exact.argmax(0)).float().mean()
    assert agreement >= 0.99
    assert (fast - exact).abs().mean() <= 0.01
    assert (fast - probabilities).abs().mean() > 0.1


def test_after_normalisation_keeps_a_constant():
    _, image = noisy_case((8, 8, 3))
    mask = image[0] > -0.5
    crf = dataclasses.replace(CRF, normalisation="after")
    kernels, weights = kernels_of(image, mask, SPACING, crf, filters="fast")
    assert weights == [3.0, 5.0]
    ones = torch.ones(int(mask.sum()), 1)
    for kernel in kernels:
        assert torch.allclose(kernel.filter(ones), ones, atol=1e-6)


def test_no_weight_gives_the_softmax_and_a_constant_per_voxel_changes_nothing():
    features = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    ones = torch.ones(50, 1)
    kernel = NormalisedKernel(
        gaussian_filter(features, filters="fast"), ones, "symmetric"
    )
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))

    def marginals(logits, weight):
        weights = torch.full((1, 1), weight)
        refined = mean_field(
            logits, [kernel], weights, compatibility=None, iterations=3
        )
        return refined.softmax(0)

    assert torch.equal(marginals(logits, 0.0), logits.softmax(0))
    shifted = marginals(logits + torch.arange(50.0) / 10, 1.0)
    assert torch.allclose(shifted, marginals(logits, 1.0), atol=1e-5)


def test_a_mirrored_case_gives_the_mirrored_answer():
    probabilities, image = noisy_case((9, 8, 7))
    answer = refined_probabilities(probabilities, image, SPACING, CRF, filters="exact")
    flipped = refined_probabilities(
        probabilities.flip(1, 3), image.flip(1, 3), SPACING, CRF, filters="exact"
    )
    assert torch.allclose(flipped.flip(1, 3), answer, atol=1e-5)


@pytest.mark.parametrize("whole_foreground", [True, False])
def test_order_of_classes_does_not_matter(whole_foreground):
    probabilities, image = noisy_case((8, 8, 4), num_classes=4)
    crf = dataclasses.replace(CRF, whole_foreground=whole_foreground)
    order = [0, 3, 1, 2] if whole_foreground else [2, 0, 3, 1]
    straight = refined_probabilities(probabilities, image, SPACING, crf)
    shuffled = refined_probabilities(probabilities[order], image, SPACING, crf)
    assert torch.allclose(straight[order], shuffled, atol=1e-5)


def test_potts_is_the_negative_identity_and_its_penalty():
    probabilities, image = noisy_case((8, 8, 4))
    straight = refined_probabilities(probabilities, image, SPACING, CRF)
    identity = torch.eye(3)
    for matrix in (-identity, 1 - identity):
        crf = dataclasses.replace(CRF, compatibility=tuple(map(tuple, matrix.tolist())))
        answer = refined_probabilities(probabilities, image, SPACING, crf)
        assert torch.allclose(answer, straight, atol=1e-5)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_tiny_deviations_make_each_voxel_its_own_message(normalisation):
    probabilities, image = noisy_case((5, 4, 3))
    crf = dataclasses.replace(
        CRF,
        smoothness_mm=(0.01,) * 3,
        smoothness_weight=0.75,
        appearance_weight=0.0,
        iterations=1,
        normalisation=normalisation,
    )
    answer = refined_probabilities(probabilities, image, SPACING, crf)
    expected = (probabilities.log() + 0.75 * probabilities).softmax(0)
    assert torch.allclose(answer, expected, atol=1e-5)


@pytest.mark.parametrize("kernel", ["smoothness", "appearance"])
def test_endless_deviations_make_the_mean_the_message(kernel):
    probabilities, image = noisy_case((5, 4, 3))
    crf = DenseCrf(
        smoothness_mm=(1e5,) * 3,
        smoothness_weight=2.0 if kernel == "smoothness" else 0.0,
        appearance_mm=(1e5,) * 3,
        appearance_deviations=(1e5,),
        appearance_weight=2.0 if kernel == "appearance" else 0.0,
        iterations=1,
    )
    answer = refined_probabilities(probabilities, image, SPACING, crf)
    mean = probabilities.mean((1, 2, 3), keepdim=True)
    expected = (probabilities.log() + 2 * mean).softmax(0)
    # On the lattice, points that coincide nearly still lie on unlike sides of it.
    assert torch.allclose(answer, expected, atol=1e-3)


def test_only_the_mask_takes_part_and_nothing_outside_is_changed():
    probabilities, image = noisy_case((10, 9, 4))
    mask = torch.zeros(10, 9, 4, dtype=torch.bool)
    mask[2:8, 3:7, 1:3] = True
    answer = refined_probabilities(probabilities, image, SPACING, CRF, mask=mask)
    assert torch.equal(answer[:, ~mask], probabilities[:, ~mask])
    assert not torch.equal(answer[:, mask], probabilities[:, mask])
    window = (slice(None), slice(2, 8), slice(3, 7), slice(1, 3))
    alone = refined_probabilities(probabilities[window], image[window], SPACING, CRF)
    assert torch.allclose(answer[window], alone, atol=1e-6)


def test_millimetres_and_not_voxels_count():
    probabilities, image = noisy_case((8, 7, 6))
    straight = refined_probabilities(probabilities, image, SPACING, CRF)
    finer = dataclasses.replace(
        CRF, smoothness_mm=(1.0, 2.0, 6.0), appearance_mm=(2.5, 5.0, 15.0)
    )
    scaled = refined_probabilities(probabilities, image, (0.5, 1.0, 3.0), finer)
    assert torch.allclose(scaled, straight, atol=1e-5)


def test_intensities_count_in_their_own_deviations_and_a_constant_channel_not_at_all():
    probabilities, image = noisy_case((8, 7, 6))
    # Exact, as the lattice is not continuous: a corner is there or is not.
    straight = refined_probabilities(
        probabilities, image, SPACING, CRF, filters="exact"
    )
    other_units = image * torch.tensor([100.0, 0.01]).reshape(2, 1, 1, 1) + 7
    rescaled = refined_probabilities(
        probabilities, other_units, SPACING, CRF, filters="exact"
    )
    assert torch.allclose(rescaled, straight, atol=1e-4)
    with_constant = torch.cat([image, torch.full_like(image[:1], 3.0)])
    crf = dataclasses.replace(CRF, appearance_deviations=(0.5, 0.6, 0.1))
    answer = refined_probabilities(
        probabilities, with_constant, SPACING, crf, filters="exact"
    )
    assert torch.allclose(answer, straight, atol=1e-5)


def test_whole_foreground_keeps_the_shares_within_it():
    probabilities, image = noisy_case((8, 8, 4), num_classes=4)
    probabilities[:, 0, 0, 0] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    crf = dataclasses.replace(CRF, whole_foreground=True)
    answer = refined_probabilities(probabilities, image, SPACING, crf)
    assert torch.allclose(answer.sum(0), torch.ones(8, 8, 4), atol=1e-5)
    share = probabilities[1:, 1:] / probabilities[1:, 1:].sum(0)
    assert torch.allclose(answer[1:, 1:] / answer[1:, 1:].sum(0), share, atol=1e-4)
    two = torch.stack([probabilities[0], probabilities[1:].sum(0)])
    binary = refined_probabilities(
        two, image, SPACING, dataclasses.replace(crf, whole_foreground=False)
    )
    assert torch.allclose(answer[0], binary[0], atol=1e-5)


def test_half_precision_zeros_forbid_nothing():
    probabilities, image = noisy_case((8, 8, 4))
    probabilities[:, 0, 0, 0] = torch.tensor([1.0, 0.0, 0.0])
    answer = refined_probabilities(probabilities.half(), image, SPACING, CRF)
    assert answer.dtype == torch.float16
    assert torch.isfinite(answer).all()
    assert torch.allclose(answer.float().sum(0), torch.ones(8, 8, 4), atol=2e-3)


def test_gradients_for_unaries_weights_and_compatibility_are_exact():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    ones = torch.ones(8, 1, dtype=torch.float64)
    kernels = [
        NormalisedKernel(gaussian_filter(features, filters="fast"), ones, "symmetric"),
        NormalisedKernel(gaussian_filter(features, filters="exact"), ones, "after"),
    ]
    logits = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    weights = torch.tensor([[3.0] * 3, [5.0] * 3], dtype=torch.float64)
    matrix = -torch.eye(3, dtype=torch.float64) + 0.1
    inputs = [each.requires_grad_() for each in (logits, weights, matrix)]

    def answer(logits, weights, matrix):
        return mean_field(logits, kernels, weights, compatibility=matrix, iterations=2)

    assert torch.autograd.gradcheck(answer, inputs)


def test_a_hand_computed_field_of_two_voxels():
    # Two voxels 1 mm apart with deviation 1 mm: K = [[1, k], [k, 1]], row sums 1 + k.
    k = torch.exp(torch.tensor(-0.5))
    probabilities = torch.tensor([[0.8, 0.3], [0.2, 0.7]]).reshape(2, 2, 1, 1)
    crf = DenseCrf(
        smoothness_mm=(1.0, 1.0, 1.0),
        smoothness_weight=2.0,
        appearance_weight=0.0,
        iterations=1,
    )
    answer = refined_probabilities(probabilities, torch.zeros(1, 2, 1, 1), SPACING, crf)
    message = (torch.tensor([0.8, 0.2]) + k * torch.tensor([0.3, 0.7])) / (1 + k)
    odds = 0.8 / 0.2 * torch.exp(2 * (message[0] - message[1]))
    assert answer[0, 0, 0, 0] == pytest.approx(float(odds / (1 + odds)), abs=1e-5)


def test_bright_hand_is_recovered_from_a_poor_map():
    # After Lafferty-style phantoms: a bright hand of palm and fingers on MR-like noise.
    generator = torch.Generator().manual_seed(0)
    hand = torch.zeros(24, 24, 2, dtype=torch.bool)
    hand[12:21, 5:19] = True
    for finger in range(4):
        hand[3:12, 5 + 4 * finger : 7 + 4 * finger] = True
    image = hand.float()[None] + 0.15 * torch.randn(1, 24, 24, 2, generator=generator)
    logit = 0.8 * (hand.float() * 2 - 1) + torch.randn(24, 24, 2, generator=generator)
    probabilities = torch.stack([-logit / 2, logit / 2]).softmax(0)
    crf = DenseCrf(
        smoothness_mm=(1.0,) * 3,
        smoothness_weight=1.0,
        appearance_mm=(6.0,) * 3,
        appearance_deviations=(0.5,),
        appearance_weight=4.0,
    )
    answer = refined_probabilities(probabilities, image, SPACING, crf)

    def dice(found):
        return float(2 * (found & hand).sum() / (found.sum() + hand.sum()))

    assert dice(probabilities[1] > 0.5) < 0.85
    assert dice(answer[1] > 0.5) > 0.97


def test_wrong_input_is_refused_by_name():
    probabilities, image = noisy_case((4, 4, 4))
    empty = torch.zeros(4, 4, 4, dtype=torch.bool)

    def refine(probabilities=probabilities, image=image, mask=None, crf=CRF):
        refined_probabilities(probabilities, image, SPACING, crf, mask=mask)

    with pytest.raises(ValueError, match="probabilities sum to"):
        refine(probabilities * 1.1)
    with pytest.raises(ValueError, match="not negative"):
        refine(torch.cat([probabilities + 1, -torch.ones(3, 4, 4, 4)]))
    broken = probabilities.clone()
    broken[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="probabilities sum to nan"):
        refine(broken)
    with pytest.raises(ValueError, match="two classes"):
        refine(torch.ones(1, 4, 4, 4))
    with pytest.raises(ValueError, match="one grid"):
        refine(image=image[:, :3])
    with pytest.raises(ValueError, match="not finite"):
        refine(image=torch.full_like(image, torch.inf))
    with pytest.raises(ValueError, match="2 values and the image 1 channels"):
        refine(image=image[:1])
    with pytest.raises(ValueError, match="mask is empty"):
        refine(mask=empty)
    with pytest.raises(ValueError, match="the mask is"):
        refine(mask=empty[:2])
    matrix = dataclasses.replace(CRF, compatibility=((-1.0, 0.0), (0.0, -1.0)))
    with pytest.raises(ValueError, match="for 2 classes and there are 3"):
        refine(crf=matrix)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"smoothness_mm": (1.0, 0.0, 1.0)}, "smoothness_mm"),
        ({"appearance_mm": (1.0, float("nan"), 1.0)}, "appearance_mm"),
        ({"appearance_deviations": ()}, "appearance_deviations"),
        ({"smoothness_weight": -1.0}, "smoothness_weight"),
        ({"smoothness_weight": 0.0, "appearance_weight": 0.0}, "both 0"),
        ({"iterations": 0}, "iterations"),
        ({"compatibility": ((0.0, 1.0), (2.0, 0.0))}, "symmetric"),
        (
            {"compatibility": ((0.0, 1.0), (1.0, 0.0)), "whole_foreground": True},
            "no effect",
        ),
    ],
)
def test_settings_that_make_no_crf_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CRF, **wrong)
