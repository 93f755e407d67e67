from dataclasses import replace

import numpy as np
import pytest

from foveal.case import Case
from foveal.config.plan import ChannelConfig, FingerprintConfig
from foveal.geometry import Grid
from foveal.planning.departures import Appearance, departures, look_at
from foveal.planning.fingerprint import image_quantiles

CT = ChannelConfig(
    name="CT", normalisation="ct", clip=(-150.0, 250.0), mean=50.0, deviation=40.0
)
MR = ChannelConfig(name="T1", normalisation="robust_zscore")

USUAL = FingerprintConfig(
    num_cases=9,
    median_shape=(100, 100, 50),
    spacing_mm_range=((0.8, 1.0), (0.8, 1.0), (2.0, 5.0)),
    intensity_ranges=((-100, 200),),
    structure_volumes_ml={},
    orientations=("LPS", "RAS"),
    extent_mm_range=((300, 400), (300, 400), (150, 300)),
    image_quantiles=(((-1000, -900), (-20, 20), (80, 120)),),
)

USUAL_CASE = Appearance(
    stored_orientation="LPS",
    spacing_mm=(0.9, 0.9, 3.0),
    extent_mm=(350, 350, 200),
    quantiles=((-1000.0, 0.0, 100.0),),
    is_constant=(False,),
)


def reasons(channel=CT, **changes):
    return departures(replace(USUAL_CASE, **changes), USUAL, [channel])


def test_a_case_like_those_of_training_has_nothing_odd():
    assert reasons() == []


@pytest.mark.parametrize(
    ("spacing_k", "is_odd"), [(1.3, True), (1.4, False), (7.4, False), (7.6, True)]
)
def test_spacing_may_lie_half_again_beyond_the_range(spacing_k, is_odd):
    found = reasons(spacing_mm=(0.9, 0.9, spacing_k))
    assert len(found) == is_odd
    if is_odd:
        assert found[0] == (
            f"spacing from feet to head is {spacing_k:g} mm; in training it was 2 to "
            "5 mm"
        )


def test_extent_is_told_per_axis():
    found = reasons(extent_mm=(90, 350, 500))
    assert [text.split(";")[0] for text in found] == [
        "extent from left to right is 90 mm",
        "extent from feet to head is 500 mm",
    ]


@pytest.mark.parametrize(
    ("quantiles", "named"),
    [
        ((-1000, 61, 100), ["median"]),  # the range is 40 wide, so 60 is the limit
        ((-1000, 59, 100), []),
        ((-3000, 0, 100), []),  # the network sees nothing below -150
        ((0, 1000, 1100), ["5th percentile", "median", "95th percentile"]),
    ],
)
def test_ct_numbers_are_compared_as_far_as_the_network_sees_them(quantiles, named):
    found = reasons(quantiles=(quantiles,))
    assert len(found) == len(named)
    for text, name in zip(found, named, strict=True):
        assert text.startswith(f"the {name} of channel CT is")


def test_cases_of_one_scanner_still_leave_a_margin():
    alike = USUAL.model_copy(
        update={"image_quantiles": (((-150, -150), (0, 0), (100, 100)),)}
    )
    for median, is_odd in ((24, False), (26, True)):  # a tenth of 250
        seen = replace(USUAL_CASE, quantiles=((-150, median, 100),))
        assert len(departures(seen, alike, [CT])) == is_odd


def test_intensities_scaled_case_by_case_say_nothing():
    assert reasons(MR, quantiles=((1e4, 1e5, 1e6),)) == []


def test_constant_image_is_told_once_for_any_normalisation():
    for channel in (CT, MR):
        found = reasons(channel, quantiles=((7, 7, 7),), is_constant=(True,))
        assert found == [
            f"channel {channel.name} is 7 everywhere: there is nothing to see"
        ]


def test_unseen_orientation_is_told():
    (found,) = reasons(stored_orientation="LAS")
    assert "LAS; in training it was LPS or RAS" in found


def test_plan_without_a_fingerprint_still_finds_constant_images():
    odd = replace(USUAL_CASE, spacing_mm=(9, 9, 9), is_constant=(True,))
    assert len(departures(odd, None, [CT])) == 1


def test_axes_are_those_of_the_patient():
    image = np.zeros((1, 3, 4, 5), np.float32)
    image[0, 1, 1, 1] = 1
    affine = np.array([[0, 0, -2.0, 0], [0, 3.0, 0, 0], [4.0, 0, 0, 0], [0, 0, 0, 1]])
    seen = look_at(Case("a", image, Grid((3, 4, 5), affine)))
    assert seen.stored_orientation == "SAL"
    assert seen.spacing_mm == (2.0, 3.0, 4.0)
    assert seen.extent_mm == (10.0, 12.0, 12.0)
    assert seen.is_constant == (False,)


def test_quantiles_of_a_large_image_need_few_of_its_voxels():
    values = np.random.default_rng(0).normal(50, 10, (2, 100, 110, 90))
    values[1] *= 2
    found = np.array(image_quantiles(values.astype(np.float32)))
    expected = np.quantile(values.reshape(2, -1), (0.05, 0.5, 0.95), axis=1).T
    np.testing.assert_allclose(found, expected, atol=0.3)
