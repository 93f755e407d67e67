import gzip
import itertools

import numpy as np
import pytest

from foveal.case import CaseFiles, ChannelFile, Dataset
from foveal.geometry import Grid
from foveal.io.volumes import write_volume
from foveal.planning.audit import audit

SHAPE = (20, 8, 6)
NUM_CASES = 12
LABELS = {"lung_left": 1, "lung_right": 2, "liver": 3}


def torso(*, scale=100.0, seed=0, swapped=False, liver=3):
    """Noise with a left and a right lung and a liver on the right, RAS.

    Returns:
        Image and label map.
    """
    generator = np.random.default_rng(seed)
    image = (scale * generator.normal(3, 1, SHAPE)).astype(np.float32)
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:7, 1:7, 3:] = 2 if swapped else 1
    labels[13:17, 1:7, 3:] = 1 if swapped else 2
    labels[11:17, 1:7, :liver] = 3
    return image, labels


@pytest.fixture
def torsos(tmp_path):
    """Makes a data set of torsos; keyword: place of a case to how it differs."""

    def make(changes=None, *, records=None, num_cases=NUM_CASES, labels=LABELS):
        cases = []
        for n in range(num_cases):
            change = dict((changes or {}).get(n, {}))
            affine = change.pop("affine", np.diag([3.0, 3, 3, 1]))
            arrays = change.pop("arrays", None)
            image, label_map = arrays or torso(**({"seed": n} | change))
            grid = Grid(image.shape, affine)
            paths = [tmp_path / f"{n}_{part}.nii.gz" for part in ("image", "labels")]
            for path, array in zip(paths, (image, label_map), strict=True):
                write_volume(path, array, grid)
            record = {"patient": f"p{n}"} | (records or {}).get(n, {})
            cases.append(
                CaseFiles(
                    name=f"c{n:02d}",
                    channels=(ChannelFile(paths[0]),),
                    label_map=paths[1],
                    **record,
                )
            )
        return Dataset("torsos", tmp_path, tuple(cases), ("MR",), dict(labels))

    return make


def found(dataset):
    return [
        (finding.case, finding.severity, finding.kind)
        for finding in audit(dataset).findings
    ]


def only(dataset):
    (finding,) = audit(dataset).findings
    return finding


def test_torsos_that_differ_as_people_do_are_not_odd(torsos):
    assert found(torsos({2: {"scale": 300.0}, 5: {"liver": 2}})) == []


# --------------------------------------------------------------------------- grids


def test_a_case_in_metres_is_odd_for_its_spacing_alone(torsos):
    finding = only(torsos({4: {"affine": np.diag([0.003, 0.003, 0.003, 1])}}))
    assert (finding.case, finding.kind) == ("c04", "spacing")
    assert "in metres" in finding.why


def test_a_spacing_of_exactly_one_is_a_lost_one_where_others_differ(torsos):
    finding = only(torsos({4: {"affine": np.eye(4)}}))
    assert (finding.case, finding.kind) == ("c04", "spacing")
    assert "whose spacing was lost" in finding.why


def test_a_spacing_of_one_is_usual_where_several_have_it(torsos):
    changes = {n: {"affine": np.diag([1.0, 1, 1, 1])} for n in range(5)}
    assert ("c00", "warning", "spacing") not in found(torsos(changes))


def test_the_odd_one_out_of_an_orientation_is_told(torsos):
    image, labels = torso(seed=4)
    turned = np.diag([-3.0, -3, 3, 1])
    # Turned as the header says, so that left stays left.
    arrays = image[::-1, ::-1].copy(), labels[::-1, ::-1].copy()
    finding = only(torsos({4: {"affine": turned, "arrays": arrays}}))
    assert (finding.case, finding.kind) == ("c04", "orientation")
    assert "run to LPS, those of 11 of 12 cases to RAS" in finding.what


def test_several_orientations_are_nothing_odd(torsos):
    changes = {}
    for n in range(4):
        image, labels = torso(seed=n)
        arrays = image[::-1].copy(), labels[::-1].copy()
        changes[n] = {"affine": np.diag([-3.0, 3, 3, 1]), "arrays": arrays}
    assert found(torsos(changes)) == []


# --------------------------------------------------------------------- intensities


def test_a_case_scaled_ten_thousandfold_is_odd(torsos):
    finding = only(torsos({4: {"scale": 1e6}}))
    assert (finding.case, finding.severity) == ("c04", "warning")
    assert finding.kind == "intensity scale"
    assert "channel MR are about 10,000 times those of the other cases" in finding.what


def test_a_case_scaled_down_is_odd(torsos):
    assert "about 1/1,000 of those" in only(torsos({4: {"scale": 0.1}})).what


def test_a_scale_that_many_share_is_one_note(torsos):
    changes = {n: {"scale": 1e6} for n in range(11)}
    finding = only(torsos(changes, num_cases=26))
    assert (finding.case, finding.severity) == (None, "note")
    assert finding.cases == tuple(f"c{n:02d}" for n in range(11))
    assert "11 of 26 cases" in finding.what
    assert "10,000 times those of 15 others" in finding.what


def test_scales_that_run_into_one_another_are_no_groups(torsos):
    changes = {n: {"scale": 10.0 * 4**n} for n in range(NUM_CASES)}
    assert found(torsos(changes)) == []


def test_ct_without_its_offset_is_odd_among_hounsfield_units(torsos):
    changes = {}
    for n in range(NUM_CASES):
        image, labels = torso(seed=n)
        hounsfield = np.rint(np.clip(image - 250, -1000, 1500)).astype(np.int16)
        hounsfield[0] = -1000
        changes[n] = {"arrays": (hounsfield, labels)}
    shifted, labels = changes[4]["arrays"]
    changes[4] = {"arrays": (shifted + 1024, labels)}
    finding = only(torsos(changes))
    assert (finding.case, finding.kind) == ("c04", "CT without its offset")


# ---------------------------------------------------------------------- structures


def test_swapped_sides_of_one_case_are_told(torsos):
    finding = only(torsos({4: {"swapped": True}}))
    assert (finding.case, finding.kind) == ("c04", "left and right")
    assert finding.what.startswith(
        "lung_left lies to the patient's right of lung_right"
    )
    assert "unlike in 11 of 12 cases" in finding.what
    assert "likely swapped" in finding.why


def test_sides_swapped_in_every_case_are_one_finding(torsos):
    finding = only(torsos({n: {"swapped": True} for n in range(NUM_CASES)}))
    assert finding.case is None
    assert len(finding.cases) == NUM_CASES
    assert "in 12 of 12 cases" in finding.what


def test_a_mirrored_body_is_told_by_the_side_of_a_single_organ(torsos):
    image, labels = torso(seed=4)
    mirrored = {"arrays": (image[::-1].copy(), labels[::-1].copy())}
    kinds = {kind for _, _, kind in found(torsos({4: mirrored}))}
    assert kinds == {"left and right", "wrong side"}


def test_a_few_stray_voxels_are_a_tiny_structure(torsos):
    image, labels = torso(seed=4)
    labels[labels == 3] = 0
    labels[12, 2, 0] = 3
    finding = only(torsos({4: {"arrays": (image, labels)}}))
    assert (finding.case, finding.kind) == ("c04", "tiny structure")
    assert finding.structure == "liver"
    assert "liver has 1 voxels, 0.027 ml, where 2.92 ml are usual" in finding.what


def test_a_structure_far_larger_than_usual_is_huge(torsos):
    changes = {}
    for n in range(NUM_CASES):
        image, labels = torso(seed=n)
        labels[labels == 3] = 0
        labels[11:13, 1:3, 0:1] = 3
        if n == 4:
            labels[:, :, :3] = 3
        changes[n] = {"arrays": (image, labels)}
    finding = only(torsos(changes))
    assert (finding.case, finding.kind) == ("c04", "huge structure")


def test_lesions_of_all_sizes_are_not_odd(torsos):
    changes = {}
    for n in range(NUM_CASES):
        image, labels = torso(seed=n)
        labels[labels == 3] = 0
        labels[..., :2].reshape(-1)[: 2 ** (n // 2)] = 0
        flat = np.zeros(20 * 8 * 2, np.uint8)
        flat[100 : 100 + 2 ** (n // 2 + 1)] = 3
        labels[..., :2] = flat.reshape(20, 8, 2)
        changes[n] = {"arrays": (image, labels)}
    assert found(torsos(changes)) == []


def test_a_structure_that_one_case_lacks_is_missing(torsos):
    image, labels = torso(seed=4)
    labels[labels == 3] = 0
    lacking = {4: {"arrays": (image, labels)}}
    finding = only(torsos(lacking))
    assert (finding.case, finding.kind) == ("c04", "missing structure")
    assert "liver is missing; 11 of 12 cases have it" in finding.what
    said = {4: {"annotated": ("lung_left", "lung_right")}}
    assert found(torsos(lacking, records=said)) == []


# -------------------------------------------------------------------------- copies


def test_the_same_image_under_two_names_is_told_however_it_is_compressed(torsos):
    dataset = torsos({4: {"seed": 3}})
    copy = dataset.cases[4].channels[0].path
    copy.write_bytes(gzip.compress(gzip.decompress(copy.read_bytes()), 1))
    finding = only(dataset)
    assert (finding.severity, finding.cases) == ("warning", ("c03", "c04"))
    assert "flatters the scores" in finding.why


def test_the_number_type_does_not_hide_a_copy(torsos):
    image, labels = torso(seed=3)
    whole = np.rint(image)
    changes = {
        3: {"arrays": (whole, labels)},
        4: {"arrays": (whole.astype(np.int16), labels)},
    }
    assert only(torsos(changes)).kind == "same image twice"


def test_a_training_image_in_the_test_is_an_error(torsos):
    dataset = torsos({4: {"seed": 3}}, records={4: {"split": "test"}})
    finding = only(dataset)
    assert (finding.severity, finding.kind) == ("error", "same image twice")


def test_one_file_for_two_channels_is_told(torsos, tmp_path):
    dataset = torsos(num_cases=5)
    seeds = itertools.count(100)
    cases = []
    for n, case in enumerate(dataset.cases):
        second = tmp_path / f"second_{n}.nii.gz"
        image, _ = torso(seed=next(seeds))
        write_volume(second, image, Grid(SHAPE, np.diag([3.0, 3, 3, 1])))
        other = case.channels[0] if n == 2 else ChannelFile(second)
        cases.append(
            CaseFiles(
                case.name, case.patient, (case.channels[0], other), case.label_map
            )
        )
    two = Dataset("two", tmp_path, tuple(cases), ("FLAIR", "T1"), LABELS)
    finding = only(two)
    assert (finding.case, finding.kind) == ("c02", "same image in two channels")
    assert "FLAIR, T1" in finding.what


# ------------------------------------------------------------------- disk and memory


def test_disk_and_memory_are_those_of_the_planned_volumes(torsos):
    resources = audit(torsos()).resources
    voxels = np.prod(SHAPE)
    # Noise hardly compresses.
    assert resources.store_bytes == pytest.approx(NUM_CASES * 4 * voxels, rel=0.1)
    assert resources.memory_bytes == pytest.approx(36 * voxels)
    assert resources.largest_case in {f"c{n:02d}" for n in range(NUM_CASES)}


def test_too_little_disk_and_memory_are_told(torsos, monkeypatch):
    monkeypatch.setattr(
        "foveal.planning.resources.available_memory_bytes", lambda: 1000
    )
    monkeypatch.setattr(
        "foveal.planning.resources.shutil.disk_usage",
        lambda _: type("Usage", (), {"free": 2000})(),
    )
    kinds = [kind for _, _, kind in found(torsos())]
    assert kinds == ["disk", "memory"]
