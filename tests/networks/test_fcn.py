"""FCN's sizes, crops, upsampling, stages of training and geometry."""

import pytest
import torch
import torch.nn.functional as F
from vgg_geometry import with_generic_weights

from foveal import building
from foveal.networks.fcn import Fcn, crops, head_padding

SMALL = {"features": (2, 2, 3, 3, 3), "head_features": 4}


def small(name, num_classes=2, **options):
    options = {**SMALL, "input_padding": 1, **options}
    return building.network(name, in_channels=1, num_classes=num_classes, **options)


@pytest.mark.parametrize(
    ("name", "number", "learned"),
    [
        ("fcn32s", 134_346_581, 1_806_336),
        ("fcn16s", 134_357_354, 458_640),
        ("fcn8s", 134_362_751, 127_008),
    ],
)
def test_published_sizes(name, number, learned):
    for upsampling, expected in (("fixed", number), ("learned", number + learned)):
        with torch.device("meta"):
            network = building.network(
                name, in_channels=3, num_classes=21, upsampling=upsampling
            )
        assert sum(each.numel() for each in network.parameters()) == expected
    assert f"{number:,}" in Fcn.__doc__
    assert f"{learned:,}" in Fcn.__doc__


def test_padding_of_100_gives_the_published_crops():
    assert head_padding(100) == 0
    assert crops([], 100, 0) == ([], 19)
    assert crops([4], 100, 0) == ([(0, 5)], 27)
    assert crops([4, 3], 100, 0) == ([(0, 5), (0, 9)], 31)


def test_upsampling_interpolates_linearly():
    torch.manual_seed(0)
    network = small("fcn32s", 3)
    scores = torch.randn(1, 3, 4, 5)
    # Voxel centres agree, so all but the rim, where zeros are beyond, is the same.
    upsampled = network.upscore(scores)[:, :, 16:-16, 16:-16]
    expected = F.interpolate(scores, scale_factor=32, mode="bilinear")
    inner = (slice(None), slice(None), slice(16, -16), slice(16, -16))
    torch.testing.assert_close(upsampled[inner], expected[inner])
    assert not list(network.upscore.parameters())
    assert not any("upscore" in name for name in network.state_dict())


def test_learned_upsampling_starts_as_the_fixed_one():
    torch.manual_seed(0)
    fixed, learned = (small("fcn8s", upsampling=kind) for kind in ("fixed", "learned"))
    learned.load_state_dict(fixed.state_dict(), strict=False)
    torch.nn.init.normal_(fixed.score_fr.weight)
    learned.score_fr.load_state_dict(fixed.score_fr.state_dict())
    image = torch.randn(1, 1, 40, 33)
    torch.testing.assert_close(learned.eval()(image).logits, fixed.eval()(image).logits)
    assert learned.upscore8.weight.requires_grad
    assert "upscore8" in learned.classifier_names


@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s"])
@pytest.mark.parametrize("input_padding", [1, 17, 49, 81, 100])
def test_any_size_comes_out_as_it_went_in(name, input_padding):
    network = small(
        name, input_padding=input_padding, features=(1,) * 5, head_features=1
    ).eval()
    with torch.no_grad():
        for shape in ((1, 2), (31, 32), (33, 64), (65, 47)):
            logits = network(torch.zeros(1, 1, *shape)).logits
            assert tuple(logits.shape[2:]) == shape == network.output_shape(shape)


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_scores_cover_every_image_whatever_the_padding(stride):
    skips = [stage for stage in (4, 3) if 2**stage >= stride]
    for input_padding in range(1, 130):
        head = head_padding(input_padding)
        pairs, image_crop = crops(skips, input_padding, head)
        assert image_crop >= 0
        for length in range(1, 70):
            pools = [length + 2 * input_padding - 2]
            for _ in range(5):
                pools.append(-(-pools[-1] // 2))
            scores = pools[5] + 2 * head - 6
            assert scores >= 1
            for stage, (of_scores, of_skip) in zip(skips, pairs, strict=True):
                scores = min(2 * (scores + 1) - of_scores, pools[stage] - of_skip)
            assert stride * (scores + 1) - image_crop >= length


@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s"])
@pytest.mark.parametrize("input_padding", [1, 33, 97])
def test_scores_lie_where_their_evidence_is(name, input_padding):
    # With these paddings the poolings of this image are symmetric, as the kernels are.
    network = small(name, input_padding=input_padding).double().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data.fill_(0.1)
    image = torch.zeros(1, 1, 192, 192, dtype=torch.double)
    image[:, :, 64:128, 64:128] = 1
    logits = network(image).logits[0, 0]
    torch.testing.assert_close(logits, logits.flip(0))
    torch.testing.assert_close(logits, logits.flip(1))
    assert logits[96, 96] > logits[16, 96] > 0


def test_a_finer_network_continues_from_a_coarser_one():
    torch.manual_seed(0)
    networks = [small(name) for name in ("fcn32s", "fcn16s", "fcn8s")]
    for coarse, fine, stage in zip(networks[:2], networks[1:], (4, 3), strict=True):
        missing, unexpected = fine.load_state_dict(coarse.state_dict(), strict=False)
        assert unexpected == []
        assert missing == [f"score_pool{stage}.weight", f"score_pool{stage}.bias"]


def test_a_finer_network_starts_with_the_scores_of_the_coarser_one():
    # Twice by 2 then 16 is once by 32, but for corners at the scores' own voxels,
    # which are cut within half a voxel of the finer grid.
    torch.manual_seed(0)
    coarse, fine = (
        small("fcn32s", input_padding=100),
        small("fcn16s", input_padding=100),
    )
    torch.nn.init.normal_(coarse.score_fr.weight)
    fine.load_state_dict(coarse.state_dict(), strict=False)
    image = torch.randn(1, 1, 130, 1)
    first, second = (each.eval()(image).logits for each in (coarse, fine))
    # The voxels of the scores lie 31.5 - 19 voxels behind the first, 32 apart.
    from_score = (torch.arange(130) - 12.5 + 16) % 32 - 16
    is_between = from_score.abs() >= 8
    assert is_between.sum() > 60
    torch.testing.assert_close(first[:, :, is_between], second[:, :, is_between])
    rest = (first - second).abs()[:, :, ~is_between].max()
    assert 0 < rest < 0.3 * first.abs().max()


def test_scores_begin_at_zero_and_poolings_are_scaled():
    network = small("fcn8s", pool4_scale=0.01, pool3_scale=0.0001).eval()
    image = torch.rand(1, 1, 64, 64)
    assert network(image).logits.abs().max() == 0
    for stage, scale in ((4, 0.01), (3, 0.0001)):
        score = network.get_submodule(f"score_pool{stage}")
        torch.nn.init.ones_(score.weight)
        scaled = network(image).logits
        score.weight.data *= scale
        plain = small("fcn8s").eval()
        plain.load_state_dict(network.state_dict())
        torch.testing.assert_close(scaled, plain(image).logits)
        torch.nn.init.zeros_(score.weight)


@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s"])
@pytest.mark.parametrize("input_padding", [1, 100])
def test_receptive_field_is_what_one_voxel_reaches(name, input_padding):
    torch.manual_seed(0)
    network = with_generic_weights(
        small(name, input_padding=input_padding, features=(1,) * 5, head_features=1)
    )
    reach = []
    for place in range(544, 576):
        # In a black image, whatever the bright voxel touches turns positive.
        image = torch.zeros(1, 1, 1088, 1, dtype=torch.double)
        image[0, 0, place] = 1
        with torch.no_grad():
            seen = network(image).logits.sum(dim=(0, 1, 3)).nonzero() - place
        reach += [int(seen.min()), int(seen.max())]
    field = max(reach) - min(reach) + 1
    assert network.receptive_field == (field, field)


def test_taps_give_the_activations_asked_for():
    network = small("fcn32s").eval()
    image = torch.rand(2, 1, 64, 96)
    fc7, pool3 = network(image, taps=("fc7", "pool3")).activations
    assert pool3.shape == (2, 3, 8, 12)
    torch.nn.init.normal_(network.score_fr.weight)
    upsampled = network.upscore(network.score_fr(fc7))[:, :, 16:80, 16:112]
    torch.testing.assert_close(upsampled, network(image).logits)
