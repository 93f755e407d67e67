import itertools
import zlib

import nibabel as nib
import numpy as np
import pytest

from foveal.case import CaseFiles, ChannelFile, Dataset, NamedFold, StructureFile
from foveal.errors import CaseError
from foveal.geometry import Grid
from foveal.io.cases import read_case
from foveal.io.volumes import write_volume
from foveal.planning.audit import audit

SHAPE = (4, 5, 6)


@pytest.fixture
def write(tmp_path):
    """Writes an array to a file of its own and returns the path."""
    numbers = itertools.count()

    def write_array(array, affine=None):
        path = tmp_path / f"{next(numbers)}.nii.gz"
        affine = np.eye(4) if affine is None else affine
        write_volume(path, array, Grid(array.shape, affine))
        return path

    return write_array


def image(seed=0):
    """A ramp, which no other seed has."""
    return np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE) + 0.01 * seed


def label_map(*values, shape=SHAPE):
    array = np.zeros(shape, np.int16)
    array.flat[: len(values)] = values
    return array


def case(write, name="liver_1", **changes):
    files = {
        "name": name,
        "patient": name,
        "channels": (ChannelFile(write(image(zlib.crc32(name.encode()) % 10_000))),),
        "label_map": write(label_map(1, 2)),
    }
    return CaseFiles(**(files | changes))


def dataset(tmp_path, *cases, **changes):
    entries = {
        "name": "liver",
        "root": tmp_path,
        "cases": cases,
        "channel_names": ("CT",),
        "label_values": {"liver": 1, "lesion": 2},
    }
    return Dataset(**(entries | changes))


@pytest.fixture
def sound(write):
    """Enough flawless cases for the default folds."""
    return [case(write, f"sound_{number}") for number in range(5)]


def test_a_sound_data_set_has_no_findings(tmp_path, sound):
    seen = []
    found = audit(dataset(tmp_path, *sound), lambda *progress: seen.append(progress))
    assert found.findings == ()
    assert found.num_errors == 0
    assert [(done, total) for done, total, _ in seen] == [(n, 5) for n in range(1, 6)]
    assert {name for *_, name in seen} == {case.name for case in sound}


def only_finding(tmp_path, sound, wrong, **changes):
    """The one finding of a data set in which one case is wrong."""
    (finding,) = audit(dataset(tmp_path, *sound, wrong, **changes)).findings
    assert finding.case == wrong.name
    assert finding.remedy
    return finding


def missing(write):
    path = write(image())
    path.unlink()
    return {"channels": (ChannelFile(path),)}


def zero_bytes(write):
    path = write(image())
    path.write_bytes(b"")
    return {"channels": (ChannelFile(path),)}


def four_axes(write):
    path = write(label_map(1))
    nib.save(nib.Nifti1Image(np.zeros((*SHAPE, 2), np.uint8), np.eye(4)), path)
    return {"label_map": path}


def truncated(write):
    path = write(np.random.default_rng(0).normal(size=SHAPE))
    path.write_bytes(path.read_bytes()[:-200])
    return {"label_map": path}


def label_map_elsewhere(write):
    return {"label_map": write(label_map(1, shape=(4, 5, 7)))}


def mask_elsewhere(write):
    return {"mask": write(np.ones(SHAPE, np.uint8), np.diag([1.0, 1, 1.5, 1]))}


def weights_elsewhere(write):
    return {"weight_map": write(np.ones(SHAPE, np.uint8), np.diag([1.0, 1, 1.5, 1]))}


def negative_weights(write):
    return {"weight_map": write(np.full(SHAPE, -1, np.int16))}


def no_weights(write):
    return {"weight_map": write(np.zeros(SHAPE, np.float32))}


def nan(write):
    array = image()
    array[0, 0, 0] = np.nan
    return {"channels": (ChannelFile(write(array)),)}


def half_labels(write):
    return {"label_map": write(label_map(1).astype(np.float32) / 2)}


@pytest.mark.parametrize(
    ("flaw", "what"),
    [
        (missing, "does not exist or is no file"),
        (truncated, "cannot be read"),
        (zero_bytes, "cannot be read"),
        (four_axes, "holds 2 channels where one was expected"),
        (label_map_elsewhere, "but label map is 4×5×7"),  # noqa: RUF001
        (mask_elsewhere, "image and mask lie up to"),
        (weights_elsewhere, "image and weight map lie up to"),
        (negative_weights, "weight map has 120 voxels below 0, the lowest -1"),
        (no_weights, "weight map is 0 everywhere"),
        (nan, "channel 0 has 1 voxels that are NaN or infinite"),
        (half_labels, "not integers, for example 0.5"),
    ],
)
def test_what_reading_refuses_is_an_error(tmp_path, write, sound, flaw, what):
    wrong = case(write, **flaw(write))
    finding = only_finding(tmp_path, sound, wrong)
    assert finding.severity == "error"
    assert what in finding.what
    with pytest.raises(CaseError, match="case liver_1"):
        read_case(wrong)


def test_a_blank_image_is_an_error(tmp_path, write, sound):
    blank = ChannelFile(write(np.zeros(SHAPE, np.int16)))
    finding = only_finding(tmp_path, sound, case(write, channels=(blank,)))
    assert (finding.severity, finding.what) == ("warning", "the image is 0 everywhere")


def test_a_channel_of_one_value_is_a_warning(tmp_path, write):
    flat = ChannelFile(write(image() * 0))
    cases = [
        case(write, str(n), channels=(ChannelFile(write(image(n))), flat))
        for n in range(5)
    ]
    findings = audit(dataset(tmp_path, *cases, channel_names=("a", "b"))).findings
    assert {finding.severity for finding in findings} == {"warning"}
    assert [finding.what for finding in findings] == ["channel 1 is 0 everywhere"] * 5


def test_a_flaw_of_a_test_case_is_a_warning(tmp_path, write, sound):
    wrong = case(write, **missing(write), split="test")
    assert only_finding(tmp_path, sound, wrong).severity == "warning"


def test_a_channel_on_another_grid_and_a_missing_one_are_errors(tmp_path, write):
    seeds = itertools.count()

    def channel():
        return ChannelFile(write(image(next(seeds))))

    small = ChannelFile(write(image()[1:]))
    two = dataset(
        tmp_path,
        case(write, "a", channels=(channel(), small)),
        *[case(write, str(n), channels=(channel(), channel())) for n in range(4)],
        case(write, "z"),
        channel_names=("FLAIR", "T1"),
    )
    other_grid, too_few = audit(two).findings
    assert (other_grid.case, other_grid.severity) == ("a", "error")
    assert "the first channel is 4×5×6 but channel 1 is 3×5×6" in other_grid.what  # noqa: RUF001
    assert (too_few.case, too_few.severity) == ("z", "error")
    assert "the case has 1 channel(s), the data set 2: FLAIR, T1" in too_few.what


def test_every_flaw_of_a_case_is_listed_errors_first(tmp_path, write, sound):
    wrong = case(
        write,
        channels=(ChannelFile(write(np.full(SHAPE, 7.0))),),
        label_map=write(label_map(9, shape=(4, 5, 7))),
        mask=write(np.zeros(SHAPE, np.uint8)),
    )
    findings = audit(dataset(tmp_path, *sound, wrong)).findings
    assert [finding.severity for finding in findings] == [*["error"] * 3, "warning"]
    assert "the label map holds 9" in findings[0].what
    assert "label map is" in findings[1].what
    assert "the mask is empty" in findings[2].what
    assert "channel 0 is 7 everywhere" in findings[3].what


def test_unlisted_label_values_are_errors_but_the_ignore_value_is_none(
    tmp_path, write, sound
):
    wrong = case(write, label_map=write(label_map(1, 9)))
    finding = only_finding(tmp_path, sound, wrong)
    assert finding.severity == "error"
    assert "the label map holds 9," in finding.what
    assert "known are 1, 2" in finding.remedy
    assert audit(dataset(tmp_path, *sound, wrong, ignore_value=9)).findings == ()


def test_an_empty_label_map_is_a_warning(tmp_path, write, sound):
    finding = only_finding(tmp_path, sound, case(write, label_map=write(label_map())))
    assert finding.severity == "warning"
    assert finding.what == "the label map is empty"


def test_a_structure_that_only_test_cases_have_cannot_be_learned(
    tmp_path, write, sound
):
    spleen = case(write, label_map=write(label_map(1, 2, 3)), split="test")
    found = audit(
        dataset(
            tmp_path,
            *sound,
            spleen,
            label_values={"liver": 1, "lesion": 2, "spleen": 3},
        )
    )
    assert of_the_dataset(found) == [
        ("warning", "spleen is in none of the 5 label maps for training")
    ]
    assert found.present_cases["spleen"] == 1


def test_labels_that_are_nearly_integers_are_accepted_and_told(tmp_path, write, sound):
    nearly = label_map(1, 2).astype(np.float32) * np.float32(0.9999999)
    finding = only_finding(tmp_path, sound, case(write, label_map=write(nearly)))
    assert (finding.severity, finding.kind) == ("note", "nearly integers")
    assert "0.99999" in finding.what
    assert "cut them down" in finding.why


def test_regions_are_counted_and_their_nesting_is_no_contradiction(tmp_path, write):
    cases = [
        case(write, "a", annotated=("lesion",), label_map=write(label_map(2))),
        case(write, "b", label_map=write(label_map(1))),
    ]
    found = audit(dataset(tmp_path, *cases, regions={"organ": (1, 2), "lesion": (2,)}))
    assert found.present_cases == {"organ": 2, "lesion": 1}
    assert found.annotated_cases == {"organ": 1, "lesion": 2}
    assert [finding.kind for finding in found.findings] == ["few patients"]
    assert found.as_table()["structures"][0]["values"] == [1, 2]


def test_masks_that_only_touch_are_told_and_real_overlaps_are_not(tmp_path, write):
    shape = (20, 20, 6)
    vein, liver, lesion = (np.zeros(shape, np.uint8) for _ in range(3))
    liver[:15], lesion[5:10] = 1, 1  # the lesion lies in the liver
    vein[15:] = 1
    vein[14, 0, 0] = 1
    cases = []
    for n in range(5):
        seed = np.random.default_rng(n).normal(size=shape).astype(np.float32)
        files = tuple(
            StructureFile(name, write(mask))
            for name, mask in (("liver", liver), ("lesion", lesion), ("vein", vein))
        )
        image_file = ChannelFile(write(seed))
        changes = {"channels": (image_file,), "label_map": None}
        cases.append(case(write, str(n), structure_files=files, **changes))
    names = {"lesion": 1, "liver": 2, "vein": 3}
    (finding,) = audit(dataset(tmp_path, *cases, label_values=names)).findings
    assert (finding.kind, finding.severity) == ("small overlap", "warning")
    assert (
        "liver and vein lie over one another by 5 voxels in 5 case(s)" in finding.what
    )
    assert finding.cases == tuple("01234")


def test_a_mask_that_cannot_be_used_is_an_error(tmp_path, write, sound):
    grey = StructureFile("liver", write(label_map(1, 2, 3)))
    wrong = case(write, label_map=None, structure_files=(grey,))
    finding = only_finding(tmp_path, sound, wrong)
    assert (finding.severity, finding.kind) == ("error", "unusable reference")
    assert "has more than two values" in finding.what


def test_an_inverted_mask_is_odd(tmp_path, write, sound):
    outside = label_map(0, 1) == 0
    finding = only_finding(
        tmp_path,
        sound,
        case(write, label_map=write(label_map(1, 2)), mask=write(outside)),
    )
    assert finding.severity == "warning"
    assert finding.what == "1 of 2 voxels of structures are outside the mask"


def test_separate_masks_outside_the_mask_are_odd_whatever_value_is_ignored(
    tmp_path, write, sound
):
    liver = StructureFile("liver", write(label_map(1, 1)))
    masked = case(
        write,
        label_map=None,
        structure_files=(liver,),
        annotated=("liver",),
        mask=write(label_map(0, 1)),
    )
    # The only combination of structures has the number 1.
    finding = only_finding(
        tmp_path,
        sound,
        masked,
        label_values={"liver": 3, "lesion": 2},
        ignore_value=1,
    )
    assert finding.what == "1 of 2 voxels of structures are outside the mask"


def test_voxels_of_a_structure_said_not_to_be_annotated_are_odd(tmp_path, write, sound):
    finding = only_finding(tmp_path, sound, case(write, annotated=("liver",)))
    assert finding.severity == "warning"
    assert "holds lesion, not among the annotated_labels" in finding.what


def test_a_spacing_in_another_unit_is_odd_whatever_the_axis_order(
    tmp_path, write, sound
):
    turned = np.diag([1.0, 1.0, 4.0, 1.0])[[2, 0, 1, 3]]
    metres = np.diag([0.001, 0.001, 0.001, 1])
    wrong, unusual = (
        case(
            write,
            name,
            channels=(ChannelFile(write(image(seed), affine)),),
            label_map=write(label_map(1, 2), affine),
        )
        for seed, (name, affine) in enumerate((("metres", metres), ("turned", turned)))
    )
    finding = only_finding(tmp_path, [*sound, unusual], wrong)
    assert finding.severity == "warning"
    assert "0.001 x 0.001 x 0.001 mm, where 1 x 1 x 1 mm are usual" in finding.what
    assert "in metres in place of millimetres" in finding.why


def test_structures_are_counted_where_annotated_and_where_present(tmp_path, write):
    cases = [
        case(write, "a"),
        case(write, "b", annotated=("liver",), label_map=write(label_map(1))),
        case(write, "c", label_map=write(label_map(2))),
        case(write, "d", label_map=None),
    ]
    found = audit(dataset(tmp_path, *cases))
    assert found.annotated_cases == {"liver": 3, "lesion": 2}
    assert found.present_cases == {"liver": 2, "lesion": 2}


def of_the_dataset(found):
    return [
        (finding.severity, finding.what)
        for finding in found.findings
        if finding.case is None
    ]


def test_without_a_labelled_case_for_training_there_is_nothing_to_learn(
    tmp_path, write
):
    cases = [case(write, "a", label_map=None), case(write, "b", split="test")]
    assert of_the_dataset(audit(dataset(tmp_path, *cases))) == [
        ("error", "no case for training has a label map")
    ]


def test_label_maps_of_background_alone_leave_nothing_to_segment(tmp_path, write):
    cases = [case(write, str(n), label_map=write(label_map())) for n in range(5)]
    found = audit(dataset(tmp_path, *cases, label_values={}))
    assert of_the_dataset(found) == [
        ("error", "no label map holds anything but background")
    ]


def test_a_patient_in_two_splits_is_an_error(tmp_path, write, sound):
    extra = [
        case(write, "x1", patient="x"),
        case(write, "x2", patient="x", split="test"),
    ]
    assert of_the_dataset(audit(dataset(tmp_path, *sound, *extra))) == [
        ("error", "patient x has cases in the splits test, train")
    ]


def test_few_patients_and_absent_structures_are_odd(tmp_path, sound):
    found = audit(
        dataset(
            tmp_path, *sound[:3], label_values={"liver": 1, "lesion": 2, "spleen": 3}
        )
    )
    assert of_the_dataset(found) == [
        ("warning", "3 labelled patient(s), fewer than the usual 5 folds"),
        ("warning", "spleen is in none of the 3 label maps for training"),
    ]


def test_table_holds_the_counts_and_every_finding(tmp_path, write, sound):
    table = audit(dataset(tmp_path, *sound, case(write, label_map=None))).as_table()
    assert table["format_version"] == 2
    assert (table["cases"], table["labelled_cases"]) == (6, 5)
    assert table["structures"][1] == {
        "name": "lesion",
        "values": [2],
        "annotated_cases": 5,
        "present_cases": 5,
    }
    assert (table["errors"], table["warnings"], table["notes"]) == (0, 0, 1)
    assert [finding["kind"] for finding in table["findings"]] == ["no label map"]
    assert table["resources"]["store_bytes"] > 0


def test_folds_that_training_would_refuse_are_errors(tmp_path, sound):
    both = NamedFold(("sound_0", "sound_1"), ("sound_1",))
    found = audit(dataset(tmp_path, *sound, folds=(both,)))
    (finding,) = [one for one in found.findings if one.kind == "folds"]
    assert finding.severity == "error"
    assert "trains on and validates patient sound_1" in finding.what


def test_folds_that_leave_cases_unmeasured_are_odd(tmp_path, sound):
    names = [case.name for case in sound]
    folds = (NamedFold(tuple(names[1:]), (names[0],)), NamedFold(tuple(names), ()))
    found = audit(dataset(tmp_path, *sound, folds=folds))
    by_kind = {finding.kind: finding for finding in found.findings}
    assert "fold 1 of the data set validates nobody" in (
        by_kind["fold without validation"].what
    )
    assert by_kind["never validated"].cases == tuple(names[1:])


def test_cases_without_a_label_map_are_named(tmp_path, sound, write):
    found = audit(dataset(tmp_path, *sound, case(write, "new", label_map=None)))
    (finding,) = [one for one in found.findings if one.kind == "no label map"]
    assert (finding.severity, finding.cases) == ("note", ("new",))
