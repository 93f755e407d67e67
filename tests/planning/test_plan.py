import numpy as np
import pytest

from foveal import building
from foveal.config.plan import LabelsConfig
from foveal.errors import DatasetError
from foveal.planning.fingerprint import CaseFingerprint
from foveal.planning.memory import Budget
from foveal.planning.plan import (
    choose_crop,
    choose_labels,
    choose_normalisation,
    make_plan,
    slice_axis,
    target_spacing,
)

CPU = Budget("cpu", 8e9, 120e9, "made up")


EYES = LabelsConfig(names=("eye_l", "eye_r"), values=(4, 9), ignore_value=7)


def fingerprint(**changes) -> CaseFingerprint:
    facts = {
        "name": "a",
        "stored_orientation": "LPS",
        "shape": (36, 50, 35),
        "spacing_mm": (1.0, 1.0, 1.0),
        "nonzero_shape": (36, 50, 35),
        "mask_shape": None,
        "intensities": np.arange(101, dtype=np.float32)[None],
        "image_quantiles": ((0.0, 40.0, 90.0),),
        "is_hu_like": (False,),
        "structure_volumes_ml": {"eye_l": 2.0, "eye_r": 3.0},
        "structure_offsets": {"eye_l": -0.2, "eye_r": 0.2},
        "combinations": frozenset({frozenset({"eye_l"}), frozenset({"eye_r"})}),
        "is_annotated_in_full": True,
    }
    return CaseFingerprint(**{**facts, **changes})


def planned(cases, channel_names=("T1",)):
    return make_plan(
        cases,
        dataset_name="made up",
        channel_names=channel_names,
        labels=EYES,
        budget=CPU,
    )


def test_a_plan_holds_every_decision():
    nothing_drawn = np.zeros((1, 0), np.float32)
    other = fingerprint(structure_volumes_ml={"eye_l": 5.0}, intensities=nothing_drawn)

    plan, reasons = planned([fingerprint(), other])

    assert plan.labels.values == (4, 9)
    assert plan.labels.ignore_value == 7
    assert plan.preprocessing.orientation == "RAS"
    assert plan.preprocessing.spacing_mm == (1.0, 1.0, 1.0)
    assert plan.patches.size == (32, 48, 32)
    assert plan.patches.batch_size == 2
    assert plan.mirroring.axes == (0,)
    assert plan.mirroring.left_right_pairs == (("eye_l", "eye_r"),)
    assert plan.fingerprint is not None
    assert plan.fingerprint.structure_volumes_ml == {
        "eye_l": (2.0, 5.0),
        "eye_r": (3.0, 3.0),
    }
    assert plan.fingerprint.intensity_ranges == ((0.5, 99.5),)
    topics = [reason.partition(":")[0] for reason in reasons]
    assert topics == [
        "Data",
        "Orientation",
        "Spacing",
        "Crop",
        "Normalisation",
        "Patch",
        "Network",
        "Batch",
        "Memory",
        "Left and right",
        "Mirroring",
    ]


def test_the_patch_follows_the_shape_at_the_target_spacing():
    cases = [
        fingerprint(spacing_mm=(2.0, 1.0, 1.0), shape=(18, 50, 35)),
        fingerprint(),
        fingerprint(),
    ]

    plan, _ = planned(cases)

    assert plan.fingerprint is not None
    assert plan.fingerprint.median_shape == (36.0, 50.0, 35.0)
    assert plan.fingerprint.spacing_mm_range[0] == (1.0, 2.0)


def test_a_structure_that_never_occurs_is_warned_of():
    _, reasons = planned([fingerprint(structure_offsets={"eye_l": -0.2})])

    assert "Warning: eye_r occurs in no case and cannot be learnt" in reasons


def test_no_labelled_case_is_refused():
    with pytest.raises(DatasetError, match="no case has a label map"):
        planned([])


def test_no_foreground_at_all_is_refused():
    empty = fingerprint(intensities=np.zeros((1, 0), np.float32), structure_offsets={})
    with pytest.raises(DatasetError, match="no label map has a voxel"):
        planned([empty])


def test_spacing_is_the_median_of_every_axis():
    spacings = [(1.0, 1.0, 2.0), (1.2, 1.0, 2.5), (2.0, 1.0, 3.0)]

    spacing, reason = target_spacing(spacings, [(100, 100, 60)] * 3)

    assert spacing == (1.2, 1.0, 2.5)
    assert "median" in reason


def test_a_coarse_axis_takes_the_tenth_percentile():
    spacings = [(1.0, 1.0, length) for length in np.linspace(2.0, 12.0, 11)]

    spacing, reason = target_spacing(spacings, [(256, 256, 30)] * 11)

    assert spacing == (1.0, 1.0, 3.0)
    assert "axis 2 is coarse" in reason


def test_a_coarse_axis_is_never_made_finer_than_the_others():
    spacings = [(1.0, 1.0, 0.5), (1.0, 1.0, 0.5), *[(1.0, 1.0, 5.0)] * 9]

    spacing, _ = target_spacing(spacings, [(256, 256, 30)] * 11)

    assert spacing == (1.0, 1.0, 1.0)


def test_a_long_coarse_axis_keeps_the_median():
    spacings = [(1.0, 1.0, length) for length in (2.0, 4.0, 6.0)]

    assert target_spacing(spacings, [(256, 256, 200)] * 3)[0] == (1.0, 1.0, 4.0)


def test_the_mask_crops_only_if_every_case_has_one():
    masked = fingerprint(mask_shape=(10, 10, 10))

    assert choose_crop([masked, masked])[0] == "mask"
    assert choose_crop([masked, fingerprint()])[0] == "none"


@pytest.mark.parametrize(("kept", "crop"), [(70, "nonzero"), (80, "none")])
def test_non_zero_voxels_crop_only_if_a_quarter_is_saved(kept, crop):
    case = fingerprint(shape=(100, 10, 10), nonzero_shape=(kept, 10, 10))

    assert choose_crop([case])[0] == crop


@pytest.mark.parametrize(
    ("name", "hu_like_share", "normalisation"),
    [
        ("CT", 0.0, "ct"),
        ("portal venous CT", 0.0, "ct"),
        ("ct_abdomen", 1.0, "ct"),
        ("0000", 1.0, "ct"),
        ("0000", 0.4, "robust_zscore"),
        ("MRI", 1.0, "robust_zscore"),
        ("FLAIR", 0.0, "robust_zscore"),
        ("spectrum", 0.0, "robust_zscore"),
    ],
)
def test_ct_is_known_by_its_name_or_its_values(name, hu_like_share, normalisation):
    foreground = np.arange(-100, 101, dtype=np.float32)

    channel, _ = choose_normalisation(name, foreground, hu_like_share=hu_like_share)

    assert channel.normalisation == normalisation


def test_ct_constants_are_those_of_the_clipped_foreground():
    # 0 .. 1000 without its outermost half percents: 5 .. 995.
    foreground = np.arange(1001, dtype=np.float32)

    channel, _ = choose_normalisation("CT", foreground, hu_like_share=1.0)

    clipped = np.clip(np.arange(1001), 5, 995)
    assert channel.clip == (5.0, 995.0)
    assert channel.mean == pytest.approx(500.0)
    assert channel.deviation == pytest.approx(clipped.std(), rel=1e-5)


def test_a_constant_ct_is_scaled_case_by_case():
    channel, _ = choose_normalisation(
        "CT", np.full(50, 40.0, np.float32), hu_like_share=1.0
    )

    assert channel.normalisation == "robust_zscore"


def labels_of(*cases, structures):
    """Labels for cases that are given as sets of combinations."""
    labels, _ = choose_labels(
        [
            fingerprint(
                combinations=frozenset(map(frozenset, combinations)),
                structure_volumes_ml=dict.fromkeys(looked_at, 1.0),
                is_annotated_in_full=set(looked_at) == set(structures),
            )
            for looked_at, combinations in cases
        ],
        label_values={name: n for n, name in enumerate(structures, start=1)},
        regions={},
        ignore_value=None,
        has_structure_files=True,
    )
    return labels


def test_masks_that_do_not_overlap_are_labels():
    labels = labels_of((("a", "b"), [["a"], ["b"]]), structures=("a", "b"))

    assert labels.separate_masks
    assert labels.names == ("a", "b")
    assert labels.regions == {}


def test_every_combination_of_overlapping_masks_is_a_label():
    labels = labels_of(
        (("lesion", "organ"), [["organ"], ["organ", "lesion"]]),
        structures=("lesion", "organ"),
    )

    assert labels.names == ("organ", "lesion+organ")
    assert labels.values == (2, 3)
    assert labels.structures == {"lesion": (2,), "organ": (1, 2)}
    assert labels.combinations == (
        frozenset(),
        frozenset({"organ"}),
        frozenset({"lesion", "organ"}),
    )


def test_the_visible_part_of_a_known_combination_is_no_label_of_its_own():
    seen_whole = (("lesion", "node", "organ"), [["organ"], ["organ", "lesion", "node"]])
    organ_unknown = (("lesion", "node"), [["lesion", "node"]])
    labels = labels_of(
        seen_whole, organ_unknown, structures=("lesion", "node", "organ")
    )

    assert labels.names == ("organ", "lesion+node+organ")


def test_a_combination_without_a_mirror_image_turns_mirroring_off():
    labels = LabelsConfig(
        names=("kidney_l", "kidney_r", "kidney_l+cyst"),
        values=(1, 2, 3),
        regions={
            "kidney_l": ("kidney_l", "kidney_l+cyst"),
            "kidney_r": ("kidney_r",),
            "cyst": ("kidney_l+cyst",),
        },
    )
    positions = {"kidney_l": -0.2, "kidney_r": 0.2, "cyst": 0.0}
    case = fingerprint(
        structure_offsets=positions, structure_volumes_ml=dict.fromkeys(positions, 1.0)
    )

    plan, reasons = make_plan(
        [case], dataset_name="a", channel_names=("T1",), labels=labels, budget=CPU
    )

    assert plan.mirroring.axes == ()
    assert any("kidney_l+cyst" in reason for reason in reasons)


def test_a_lesion_seen_alone_where_its_organ_was_not_annotated_is_no_label():
    labels = labels_of(
        (("lesion", "organ"), [["organ"], ["organ", "lesion"]]),
        (("lesion",), [["lesion"]]),
        structures=("lesion", "organ"),
    )

    assert labels.names == ("organ", "lesion+organ")


def test_too_many_combinations_are_refused_with_the_remedy():
    names = tuple(f"s{n:03}" for n in range(30))
    pairs = [[a, b] for a in names for b in names if a < b]
    with pytest.raises(DatasetError, match=r"465 labels.*foveal check"):
        labels_of((names, [*([name] for name in names), *pairs]), structures=names)


def test_labels_of_one_structure_change_places_with_their_counterparts():
    labels = LabelsConfig(
        names=("cortex_l", "medulla_l", "cortex_r", "medulla_r"),
        values=(1, 2, 3, 4),
        regions={"left": ("cortex_l", "medulla_l"), "right": ("cortex_r", "medulla_r")},
    )

    assert labels.swapped_classes((("left", "right"),)) == (0, 3, 4, 1, 2)


# ------------------------------------------------------------------------- pictures

PICTURE = {
    "shape": (256, 200, 1),
    "nonzero_shape": (256, 200, 1),
    "is_picture": True,
    "structure_offsets": {},
}
CELLS = LabelsConfig(names=("cell",), values=(255,))


def planned_cells(labels=CELLS, **changes):
    facts = {
        "structure_volumes_ml": dict.fromkeys(labels.names, 2.0),
        "combinations": frozenset(frozenset({name}) for name in labels.names),
    }
    return make_plan(
        [fingerprint(**{**PICTURE, **facts, **changes})] * 3,
        dataset_name="made up",
        channel_names=("grey",),
        labels=labels,
        budget=CPU,
    )


def test_cases_of_one_slice_get_a_2d_network_and_patches_of_one_slice():
    plan, reasons = planned_cells()
    assert plan.network.name == "unet2d"
    assert plan.network.kernels == ((3, 3),) * 5
    assert plan.network.strides == ((2, 2),) * 4
    assert plan.patches.size == (256, 192, 1)
    assert plan.patches.batch_size == 8
    assert building.planned_network(plan).output_shape((256, 192, 1)) == (256, 192, 1)
    assert any("unet2d, as every case is one slice" in reason for reason in reasons)


def test_the_axis_of_one_slice_may_be_any_and_the_voxels_have_a_size():
    plan, reasons = planned_cells(
        shape=(1, 200, 256), nonzero_shape=(1, 200, 256), is_picture=False
    )
    assert plan.network.name == "unet2d"
    assert plan.patches.size == (1, 192, 256)
    assert any("(1 x 192 x 256 mm)" in reason for reason in reasons)
    assert plan.preprocessing.orientation == "RAS"


def test_one_case_of_several_slices_makes_it_3d():
    flat, thick = (
        fingerprint(**{**PICTURE, "shape": shape, "nonzero_shape": shape})
        for shape in ((256, 200, 1), (256, 200, 8))
    )
    assert slice_axis([flat, flat]) == 2
    assert slice_axis([flat, thick]) is None


def test_of_pictures_no_reason_speaks_of_patients_or_millimetres():
    plan, reasons = planned_cells()
    text = " ".join(reasons)
    assert "patient's right" not in text
    assert "upside down (axes 0 and 1)" in text
    assert not any(" mm" in one for one in reasons if not one.startswith("Grid"))
    assert plan.preprocessing.orientation == "LPS"
    assert plan.mirroring.axes == (0, 1)
    assert plan.fingerprint.are_pictures


@pytest.mark.parametrize(
    ("names", "axes"), [(("lung_left", "lung_right"), (0,)), (("left_ventricle",), ())]
)
def test_pictures_of_bodies_are_mirrored_as_bodies_are(names, axes):
    labels = LabelsConfig(names=names, values=tuple(range(1, len(names) + 1)))
    plan, _ = planned_cells(labels)
    assert plan.mirroring.axes == axes


def two_channels(first, second, **changes):
    return fingerprint(
        intensities=np.array([[first] * 3, [second] * 3], np.float32),
        image_quantiles=((first,) * 3, (second,) * 3),
        is_hu_like=(first < 0, second < 0),
        **changes,
    )


def test_cases_that_lack_a_channel_have_no_part_in_what_is_planned_for_it():
    cases = [
        two_channels(1.0, -600.0),
        two_channels(0.0, -700.0, missing_channels=(0,)),
        two_channels(2.0, 0.0, missing_channels=(1,)),
    ]
    plan, reasons = planned(cases, ("T1", "x"))
    assert plan.fingerprint.intensity_ranges == ((1.0, 2.0), (-700.0, -600.0))
    assert plan.fingerprint.image_quantiles[0] == ((1.0, 2.0),) * 3
    # Of the two that have it, both look like CT.
    assert plan.preprocessing.channels[1].normalisation == "ct"
    assert (
        "Missing: 1 of 3 cases lack T1, which is filled with a constant there"
        in reasons
    )


def test_a_channel_that_every_labelled_case_lacks_is_refused():
    cases = [two_channels(1.0, 2.0, missing_channels=(1,))]
    with pytest.raises(DatasetError, match="channel x is missing in every labelled"):
        planned(cases, ("T1", "x"))
