import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from foveal.case import IGNORED
from foveal.errors import CaseError
from foveal.geometry import Grid
from foveal.store.store import (
    Store,
    class_voxels,
    default_store_root,
    entry_key,
)
from foveal.unfinished import unfinished

WHOLE = (slice(0, 5), slice(0, 6), slice(0, 7))


def write(store, key, *, label_map=None, annotated=None, num_classes=3):
    image = np.random.default_rng(0).normal(size=(2, 5, 6, 7)).astype(np.float32)
    store.write(
        key,
        image,
        label_map,
        Grid((5, 6, 7), np.diag([1.0, 2.0, 3.0, 1.0])),
        num_classes=num_classes,
        annotated=annotated,
    )
    return image


def small_label_map():
    label_map = np.zeros((5, 6, 7), np.uint8)
    label_map[1, 2, 3] = 2
    label_map[4, 5, 6] = 2
    label_map[0, 0, 1] = 1
    label_map[2] = IGNORED
    return label_map


def test_a_case_comes_back_as_written(tmp_path):
    store = Store(tmp_path)
    label_map = small_label_map()
    image = write(store, "k", label_map=label_map, annotated=(True, True, False))

    case = store.open("k", name="a", patient="p")

    assert (case.name, case.patient) == ("a", "p")
    assert case.shape == (5, 6, 7)
    assert case.num_channels == 2
    assert case.grid.spacing_mm == (1.0, 2.0, 3.0)
    assert case.annotated == (True, True, False)
    # Of 210 voxels, 42 are ignored and 3 are foreground.
    assert case.class_counts == (165, 1, 2)
    np.testing.assert_array_equal(case.read_image(WHOLE), image)
    np.testing.assert_array_equal(case.read_label_map(WHOLE), label_map)
    window = (slice(1, 4), slice(0, 2), slice(6, 7))
    np.testing.assert_array_equal(case.read_image(window), image[:, *window])


def test_voxels_of_a_class_are_found_in_the_order_of_the_array(tmp_path):
    store = Store(tmp_path)
    write(store, "k", label_map=small_label_map())

    case = store.open("k", name="a", patient="p")

    assert case.class_voxel(1, 0) == (0, 0, 1)
    assert case.class_voxel(2, 0) == (1, 2, 3)
    assert case.class_voxel(2, 1) == (4, 5, 6)


@pytest.mark.parametrize(("class_index", "n"), [(0, 0), (1, 1), (2, -1), (3, 0)])
def test_a_voxel_that_does_not_exist_is_refused(tmp_path, class_index, n):
    store = Store(tmp_path)
    write(store, "k", label_map=small_label_map())

    with pytest.raises(IndexError, match=f"no voxel {n} of class {class_index}"):
        store.open("k", name="a", patient="p").class_voxel(class_index, n)


def test_an_unlabelled_case_has_no_labels(tmp_path):
    store = Store(tmp_path)
    write(store, "k")

    case = store.open("k", name="a", patient="p")

    assert case.class_counts == ()
    assert case.annotated is None
    with pytest.raises(CaseError, match="case a has no label map"):
        case.read_label_map(WHOLE)


def test_a_label_map_of_background_only_is_labelled(tmp_path):
    store = Store(tmp_path)
    write(store, "k", label_map=np.zeros((5, 6, 7), np.uint8))

    case = store.open("k", name="a", patient="p")

    assert case.class_counts == (210, 0, 0)
    assert not case.read_label_map(WHOLE).any()


@given(
    label_map=arrays.arrays(
        np.uint8, (3, 4, 5), elements=st.sampled_from([0, 1, 2, 5, IGNORED])
    )
)
def test_every_foreground_voxel_is_listed_once_under_its_class(label_map):
    counts, voxels = class_voxels(label_map, 6)

    start = 0
    for label in range(1, 6):
        listed = voxels[start : start + counts[label]]
        np.testing.assert_array_equal(listed, np.flatnonzero(label_map == label))
        start += counts[label]
    assert start == len(voxels)
    assert counts[0] == np.count_nonzero(label_map == 0)


def test_the_key_depends_on_content_but_not_on_the_order_of_names():
    key = entry_key({"recipe": "r", "channels": [["a", None]]})

    assert key == entry_key({"channels": [["a", None]], "recipe": "r"})
    assert key != entry_key({"recipe": "r", "channels": [["a", 0]]})
    assert key != entry_key({"recipe": "s", "channels": [["a", None]]})


def test_an_interrupted_write_leaves_no_entry(tmp_path, monkeypatch):
    store = Store(tmp_path)

    def interrupt(_store, _folder, _key):
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "_publish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(store, "k")

    assert not store.contains("k")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_removed_and_what_is_written_is_kept(tmp_path):
    store = Store(tmp_path)
    write(store, "k")
    with unfinished(tmp_path / "killed", Path.mkdir) as killed:
        (killed / "image.tiles").write_bytes(b"half")
    assert killed.exists()  # As after a kill, which ends the lock alone.

    with unfinished(tmp_path / "writing", Path.mkdir) as writing:
        (writing / "image.tiles").write_bytes(b"half")
        store.remove_unfinished()

        assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "k", writing])


def test_a_damaged_entry_leaves_the_store_when_it_is_read(tmp_path):
    store = Store(tmp_path)
    write(store, "k", label_map=small_label_map())
    path = tmp_path / "k" / "image.tiles"
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    case = store.open("k", name="a", patient="p")

    with pytest.raises(CaseError, match=r"case a: its .* was damaged on disk"):
        case.read_image(WHOLE)

    assert list(tmp_path.iterdir()) == []


def test_an_entry_that_lost_its_record_is_written_again(tmp_path):
    store = Store(tmp_path)
    write(store, "k")
    (tmp_path / "k" / "entry.json").unlink()

    write(store, "k", label_map=small_label_map())

    assert store.open("k", name="a", patient="p").class_counts == (165, 1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["k"]


@given(place=st.integers(0), bit=st.integers(0, 7))
def test_a_changed_record_never_passes(tmp_path_factory, place, bit):
    store = Store(tmp_path_factory.mktemp("store"))
    write(store, "k", label_map=small_label_map(), annotated=(True, True, False))
    path = store.root / "k" / "entry.json"
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    path.write_bytes(content)

    try:
        case = store.open("k", name="a", patient="p")
    except CaseError:
        return
    # Between words, one blank may have become another.
    assert case.class_counts == (165, 1, 2)
    assert case.grid.spacing_mm == (1.0, 2.0, 3.0)
    assert case.annotated == (True, True, False)


def test_the_first_of_two_writers_wins(tmp_path):
    store = Store(tmp_path)
    label_map = small_label_map()
    write(store, "k", label_map=label_map)

    write(store, "k")

    assert store.open("k", name="a", patient="p").class_counts == (165, 1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["k"]


def test_a_missing_entry_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(CaseError, match=r'case a: .*"foveal preprocess" again'):
        Store(tmp_path).open("k", name="a", patient="p")


@pytest.mark.parametrize("version", [2, 99])
def test_an_entry_of_another_format_is_refused(tmp_path, version):
    store = Store(tmp_path)
    write(store, "k")
    path = tmp_path / "k" / "entry.json"
    entry = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(entry | {"format_version": version}), encoding="utf-8")

    # Format 2 had neither weight maps nor masks.
    with pytest.raises(
        CaseError, match=f'format {version}, this version needs 3; run "foveal prep'
    ):
        store.open("k", name="a", patient="p")


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "place/foveal/store"),
        ("linux", None, "home/.cache/foveal/store"),
        ("darwin", None, "home/Library/Caches/foveal/store"),
        ("win32", "LOCALAPPDATA", "place/foveal/store"),
        ("win32", None, "home/AppData/Local/foveal/store"),
    ],
)
def test_the_default_place_is_the_platforms_cache(
    tmp_path, monkeypatch, platform, variable, expected
):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, str(tmp_path / "place"))

    assert default_store_root() == tmp_path / expected


def write_with_maps(store, key, **maps):
    store.write(
        key,
        np.zeros((1, 5, 6, 7), np.float32),
        None,
        Grid((5, 6, 7), np.eye(4)),
        num_classes=2,
        annotated=None,
        **maps,
    )
    return store.open(key, name="a", patient="p")


@given(
    weights=arrays.arrays(
        np.float32, (5, 6, 7), elements=st.floats(0, 2.0**99, width=32)
    ),
    inside=arrays.arrays(np.bool_, (5, 6, 7)),
)
def test_weight_map_and_mask_come_back_bit_by_bit(tmp_path_factory, weights, inside):
    store = Store(tmp_path_factory.mktemp("store"))

    case = write_with_maps(store, "k", weight_map=weights, mask=inside)

    assert case.read_weight_map(WHOLE).tobytes() == weights.tobytes()
    np.testing.assert_array_equal(case.read_mask(WHOLE), inside.astype(np.uint8))
    window = (slice(1, 4), slice(0, 2), slice(6, 7))
    np.testing.assert_array_equal(case.read_weight_map(window), weights[window])
    np.testing.assert_array_equal(case.read_mask(window), inside[window])


def test_a_case_without_weight_map_and_mask_takes_no_files_for_them(tmp_path):
    case = write_with_maps(Store(tmp_path), "k")

    assert (case.weight_map, case.mask) == (None, None)
    names = {path.name for path in (tmp_path / "k").iterdir()}
    assert names == {"image.tiles", "entry.json"}
    with pytest.raises(CaseError, match="case a has no weight map; add one"):
        case.read_weight_map(WHOLE)
    with pytest.raises(CaseError, match="case a has no mask; add one"):
        case.read_mask(WHOLE)


def test_an_entry_that_lost_its_weight_map_is_refused(tmp_path):
    store = Store(tmp_path)
    write_with_maps(store, "k", weight_map=np.ones((5, 6, 7), np.float32))
    (tmp_path / "k" / "weight_map.tiles").unlink()

    with pytest.raises(CaseError, match=r"weight_map\.tiles is missing"):
        store.open("k", name="a", patient="p")
