import hashlib
import json

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from foveal.cli.main import app
from foveal.commands.ensemble_fuse import fuse
from foveal.errors import CaseError, DatasetError, SettingsError
from foveal.geometry import Grid
from foveal.io.volumes import read_volume, write_volume

GRID = Grid((4, 3, 2), np.diag([-1.0, -1.0, 2.5, 1.0]))


def label_map(*labels, dtype=np.uint8):
    """Labels along the first row, background elsewhere."""
    array = np.zeros(GRID.shape, dtype)
    array[: len(labels), 0, 0] = labels
    return array


def write(folder, **cases):
    for case, array in cases.items():
        write_volume(folder / f"{case}.nii.gz", array, GRID)
    return folder


def read(path, length=3):
    return read_volume(path).array[:length, 0, 0].tolist()


@pytest.fixture
def three(tmp_path):
    """Ana and Ben mostly agree; Cem's label 9 is unknown to them."""
    return (
        write(tmp_path / "ana", a=label_map(1, 1, 0), b=label_map(2, 0, 2)),
        write(tmp_path / "ben", a=label_map(1, 0, 1), b=label_map(2, 2, 0)),
        write(tmp_path / "cem", a=label_map(0, 1, 9), b=label_map(0, 2, 9)),
    )


def metrics(path, **dice):
    """A metrics.json of one case."""
    rows = [
        {"case": "v", "structure": name, "metric": "dice", "value": value}
        for name, value in dice.items()
    ]
    summary = [{"structure": name} for name in dice]
    record = {"format_version": 1, "definitions": {}, "notes": [], "rows": rows}
    path.write_text(json.dumps(record | {"summary": summary}))
    return path


def test_majority_of_folders_is_fused_case_by_case(three, tmp_path):
    fusion = fuse(three, tmp_path / "fused")
    assert read(tmp_path / "fused" / "a.nii.gz") == [1, 1, 0]
    assert read(tmp_path / "fused" / "b.nii.gz") == [2, 2, 0]
    assert [case.case for case in fusion.cases] == ["a", "b"]
    assert "9 is never found by ana, ben; is it called so there?" in fusion.notes


def test_cases_are_matched_by_name_whatever_their_order(tmp_path):
    """Some members number the same cases in another order."""
    first = write(tmp_path / "x", s1=label_map(1), s2=label_map(0, 1))
    second = write(tmp_path / "y", s2=label_map(0, 1), s10=label_map(1))
    with pytest.raises(
        DatasetError, match=r"x has nothing for s10; cases are matched by name"
    ):
        fuse((first, second), tmp_path / "fused")
    assert not (tmp_path / "fused").exists()


def test_missing_case_is_fused_from_the_others_if_allowed(three, tmp_path):
    (three[2] / "b.nii.gz").unlink()
    fusion = fuse(three, tmp_path / "fused", allow_missing=True)
    assert read(tmp_path / "fused" / "b.nii.gz") == [2, 0, 0]
    assert fusion.cases[1].missing == {"": ("cem",)}
    record = json.loads((tmp_path / "fused" / "fusion.json").read_text())
    assert record["cases"][1]["missing"] == {"": ["cem"]}
    assert (
        "1 case(s), or masks of theirs, are fused from fewer sources: b."
        in (record["notes"])
    )


def test_members_that_say_different_things_of_a_case_are_named(tmp_path):
    far = np.zeros(GRID.shape, np.uint8)
    far[3, 2, 1] = 1
    folders = [
        write(tmp_path / name, a=array)
        for name, array in (
            ("x", label_map(1, 1)),
            ("y", label_map(1, 1, 0, 0)),
            ("z", far),
        )
    ]
    notes = fuse(folders, tmp_path / "fused").notes
    assert notes[0] == (
        "x and y have the same files, so these votes count more than once."
    )
    assert notes[1].startswith("Case a: z hardly overlaps with the others (Dice 0.00")


def test_weights_decide_and_are_recorded(three, tmp_path):
    fusion = fuse(
        three, tmp_path / "fused", method="weighted", weights=[0.9, 0.4, 0.45]
    )
    assert read(tmp_path / "fused" / "a.nii.gz") == [1, 1, 0]
    assert read(tmp_path / "fused" / "b.nii.gz") == [2, 0, 2]
    assert fusion.weights == {"ana": 0.9, "ben": 0.4, "cem": 0.45}


def test_validated_dice_of_each_structure_are_weights(tmp_path):
    folders = [
        write(tmp_path / "x", a=label_map(1, 2)),
        write(tmp_path / "y", a=label_map(2, 1)),
    ]
    measured = [
        metrics(tmp_path / "x.json", **{"1": 0.9, "2": 0.4}),
        metrics(tmp_path / "y.json", **{"1": 0.5, "2": 0.6}),
    ]
    fuse(folders, tmp_path / "fused", method="weighted", weights_from=measured)
    assert read(tmp_path / "fused" / "a.nii.gz", 2) == [1, 1]
    record = json.loads((tmp_path / "fused" / "fusion.json").read_text())
    assert record["weights"] == {"x": {"1": 0.9, "2": 0.4}, "y": {"1": 0.5, "2": 0.6}}
    assert record["weights_from"] == [str(path) for path in measured]


def test_named_structures_of_label_maps_weigh_by_their_mean(tmp_path):
    folders = [
        write(tmp_path / "x", a=label_map(1, 2)),
        write(tmp_path / "y", a=label_map(2, 1)),
    ]
    measured = [
        metrics(tmp_path / "x.json", liver=0.9, spleen=0.4),
        metrics(tmp_path / "y.json", liver=0.8, spleen=0.6),
    ]
    fuse(folders, tmp_path / "fused", method="weighted", weights_from=measured)
    assert read(tmp_path / "fused" / "a.nii.gz", 2) == [2, 1]


def test_overlapping_masks_are_fused_one_by_one(tmp_path):
    people = [tmp_path / name for name in ("x", "y", "z")]
    for person, liver, tumour in zip(
        people,
        (label_map(1, 1, 1), label_map(1, 1, 0), label_map(1, 0, 0)),
        (label_map(0, 1, 1), label_map(0, 1, 0), label_map(0, 0, 0)),
        strict=True,
    ):
        write(person / "case_1", liver=liver, tumour=tumour)
    fusion = fuse(people, tmp_path / "fused")
    folder = tmp_path / "fused" / "case_1"
    assert read(folder / "liver.nii.gz") == [1, 1, 0]
    assert read(folder / "tumour.nii.gz") == [0, 1, 0]
    assert fusion.cases[0].agreement["x"]["tumour"].dice == pytest.approx(2 / 3)


def test_mask_that_one_lacks_is_refused_by_name(tmp_path):
    write(tmp_path / "x" / "c", optic_nerve=label_map(1))
    write(tmp_path / "y" / "c", **{"optic-nerve": label_map(1)})
    people = (tmp_path / "x", tmp_path / "y")
    with pytest.raises(
        DatasetError, match=r"no mask for c/optic_nerve \(not in y\), c"
    ):
        fuse(people, tmp_path / "fused")
    fuse(people, tmp_path / "fused", allow_missing=True)
    assert len(list((tmp_path / "fused" / "c").iterdir())) == 2


def test_empty_masks_give_an_empty_mask(tmp_path):
    people = (tmp_path / "x", tmp_path / "y")
    for person in people:
        write(person / "c", lens=label_map(0))
    fusion = fuse(people, tmp_path / "fused", method="staple")
    assert not read_volume(tmp_path / "fused" / "c" / "lens.nii.gz").array.any()
    assert np.isnan(fusion.mean_dice("x"))
    assert fusion.cases[0].agreement["x"]["lens"].voxels == 0


def test_staple_writes_sensitivity_and_specificity_of_every_rater(three, tmp_path):
    fuse(three, tmp_path / "fused", method="staple")
    record = json.loads((tmp_path / "fused" / "fusion.json").read_text())
    ana = record["cases"][0]["agreement"]["ana"]["1"]
    assert ana.keys() == {"voxels", "dice", "sensitivity", "specificity"}
    assert ana["voxels"] == 2
    assert 0.5 < ana["sensitivity"] <= 1
    fuse(three, tmp_path / "majority")
    record = json.loads((tmp_path / "majority" / "fusion.json").read_text())
    assert record["cases"][0]["agreement"]["ana"]["1"].keys() == {"voxels", "dice"}


def test_single_files_are_one_case_and_the_first_gives_the_header(tmp_path):
    header = nib.Nifti1Header()
    header.set_sform(GRID.affine, code="mni")
    paths = [tmp_path / "mine.nii.gz", tmp_path / "hers.nii.gz"]
    write_volume(paths[0], label_map(1, 1), GRID, header)
    write_volume(paths[1], label_map(1, 0, 300, dtype=np.int32), GRID)
    fuse(paths, tmp_path / "both.nii.gz")
    assert read(tmp_path / "both.nii.gz") == [1, 0, 0]
    assert nib.load(tmp_path / "both.nii.gz").header["sform_code"] == 4
    record = json.loads((tmp_path / "both.fusion.json").read_text())
    (case,) = record["cases"]
    content = hashlib.blake2b(paths[1].read_bytes()).hexdigest()
    assert case["inputs"]["hers.nii.gz"] == {"hers.nii.gz": content}
    content = hashlib.blake2b((tmp_path / "both.nii.gz").read_bytes()).hexdigest()
    assert case["outputs"] == {"both.nii.gz": content}


def test_nothing_is_overwritten(three, tmp_path):
    fuse(three, tmp_path / "fused")
    before = (tmp_path / "fused" / "a.nii.gz").stat().st_mtime_ns
    with pytest.raises(DatasetError, match="fused holds files already, and nothing is"):
        fuse(three, tmp_path / "fused")
    assert (tmp_path / "fused" / "a.nii.gz").stat().st_mtime_ns == before
    files = [folder / "a.nii.gz" for folder in three]
    (tmp_path / "one.fusion.json").touch()
    with pytest.raises(DatasetError, match=r"one\.fusion\.json is there already"):
        fuse(files, tmp_path / "one.nii.gz")


def test_what_fails_leaves_nothing(three, tmp_path):
    other = Grid((4, 3, 3), GRID.affine)
    write_volume(three[1] / "b.nii.gz", np.zeros(other.shape, np.uint8), other)
    with pytest.raises(
        CaseError,
        match=r"case b: label map of ana is 4.3.2 but label map of ben is 4.3.3",
    ):
        fuse(three, tmp_path / "fused")
    assert {path.name for path in tmp_path.iterdir()} == {"ana", "ben", "cem"}


def test_shifted_grid_is_refused_by_name(three, tmp_path):
    shifted = GRID.affine.copy()
    shifted[2, 3] = 5.0
    write_volume(three[2] / "a.nii.gz", label_map(1), Grid(GRID.shape, shifted))
    with pytest.raises(
        CaseError, match=r"case a: label map of ana and .* of cem lie up"
    ):
        fuse(three, tmp_path / "fused")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mean"}, 'method "mean" is unknown; it must be one of majority'),
        ({"weights": [1, 1, 1]}, "weights are given, but majority does not use them"),
        ({"method": "weighted"}, "needs the weight of each source"),
        (
            {"method": "weighted", "weights": [1, 0, 1]},
            "ben has weight 0, so it would change nothing; leave it out",
        ),
        ({"method": "weighted", "weights": [1, 1]}, "2 weights are given for 3"),
    ],
)
def test_wrong_weights_are_refused_before_work_starts(
    three, tmp_path, options, message
):
    with pytest.raises(SettingsError, match=message):
        fuse(three, tmp_path / "fused", **options)
    assert not (tmp_path / "fused").exists()


def test_validated_structures_that_differ_are_refused(three, tmp_path):
    measured = [
        metrics(tmp_path / "x.json", liver=0.9),
        metrics(tmp_path / "y.json", spleen=0.9),
        metrics(tmp_path / "z.json", liver=0.0),
    ]
    with pytest.raises(SettingsError, match=r"gives cem no Dice above 0 for liver"):
        fuse(three, tmp_path / "f", method="weighted", weights_from=measured)
    with pytest.raises(SettingsError, match=r"differ: ana has \['liver'\], ben has"):
        fuse(three[:2], tmp_path / "f", method="weighted", weights_from=measured[:2])


def test_sources_that_cannot_be_fused_are_refused(three, tmp_path):
    with pytest.raises(DatasetError, match="1 source is given; fusing takes two"):
        fuse(three[:1], tmp_path / "f")
    with pytest.raises(DatasetError, match="ana is given twice, so that its votes"):
        fuse((three[0], three[0]), tmp_path / "f")
    with pytest.raises(DatasetError, match="dan does not exist"):
        fuse((three[0], tmp_path / "dan"), tmp_path / "f")
    write(tmp_path / "masks" / "a", liver=label_map(1))
    with pytest.raises(DatasetError, match=r"ana: label maps, masks: masks\)"):
        fuse((three[0], tmp_path / "masks"), tmp_path / "f")


def test_command_prints_each_source_and_where_to_look(three, tmp_path):
    words = ["ensemble", "fuse", *map(str, three), str(tmp_path / "f")]
    shown = CliRunner().invoke(
        app, [*words, "--method", "weighted", "--weights", "2,1"]
    )
    assert shown.exit_code == 1
    assert "2 weights are given for 3" in shown.output
    weights = ["--method", "weighted", "--weights", "2,1,1"]
    shown = CliRunner().invoke(app, [*words, *weights])
    assert shown.exit_code == 0, shown.output
    assert "2 case(s) fused in" in shown.output
    assert "note: 9 is never found by ana, ben" in shown.output
    as_json = CliRunner().invoke(
        app, [*words[:-1], str(tmp_path / "g"), "--method", "staple", "--json"]
    )
    assert json.loads(as_json.stdout)["method"] == "staple"
