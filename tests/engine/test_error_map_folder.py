"""Error maps on disk: what was written is read, whole or not at all, by its own run."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.engine import error_maps
from foveal.engine.error_maps import ErrorMapFolder, block_means
from foveal.errors import RunError
from foveal.inference.errors import CaseErrors

SHAPE = (37, 6, 5)


def stored_case(tmp_path, name, content="abc", shape=SHAPE):
    """As much of a stored case as its error maps look at."""
    image = SimpleNamespace(path=tmp_path / "store" / content / "image.tiles")
    return SimpleNamespace(name=name, shape=shape, image=image)


def folder(tmp_path, names=("a", "b"), block_voxels=1, **case):
    cases = {name: stored_case(tmp_path, name, **case) for name in names}
    return ErrorMapFolder(tmp_path / "error_maps", cases, block_voxels)


def errors(seed, shape=SHAPE, difficulty=0.25):
    random = np.random.default_rng(seed)
    error = random.integers(0, 256, shape).astype(np.uint8)
    return CaseErrors(error, difficulty, {"organ": 0.5, "absent": None})


def whole(shape=SHAPE):
    return tuple(slice(0, length) for length in shape)


def mean_of_block(error, voxel, block):
    window = tuple(slice(n // block * block, n // block * block + block) for n in voxel)
    return np.rint(error[window].astype(np.float64).mean())


def test_error_is_1_everywhere_at_the_start(tmp_path):
    maps = folder(tmp_path)
    assert maps.current("a") is None
    assert maps.steps == {}
    assert maps.newest("a") is None


@pytest.mark.parametrize("block", [1, 2, 4])
def test_what_was_written_is_read(tmp_path, block):
    maps = folder(tmp_path, block_voxels=block)
    found = errors(1)
    maps.write("a", 500, found)
    assert maps.current("a") is None
    maps.use("a", 500)
    made = maps.current("a")
    assert (made.step, made.difficulty, made.block_voxels) == (500, 0.25, block)
    expected = np.array(
        [mean_of_block(found.error, voxel, block) for voxel in np.ndindex(SHAPE)]
    ).reshape(SHAPE)
    read = made.read(whole())
    assert read.dtype == np.uint8
    assert np.array_equal(read, expected)
    if block == 1:
        assert np.array_equal(read, found.error)
    record = json.loads((maps.path / "cases" / "a" / "step_0000500.json").read_text())
    assert record["dice"] == {"organ": 0.5, "absent": None}


@settings(max_examples=30)
@given(st.data(), st.sampled_from([2, 3, 4, 7]))
def test_windows_read_what_the_whole_has(tmp_path_factory, data, block):
    tmp_path = tmp_path_factory.mktemp("maps")
    maps = folder(tmp_path, block_voxels=block)
    maps.write("a", 0, errors(2))
    maps.use("a", 0)
    window = tuple(
        slice(*sorted(data.draw(st.tuples(*[st.integers(0, length)] * 2))))
        for length in SHAPE
    )
    if any(axis.start == axis.stop for axis in window):
        return
    made = maps.current("a")
    assert np.array_equal(made.read(window), made.read(whole())[window])


def test_block_means_of_borders_are_of_what_is_there():
    error = np.array([[[0, 100, 7]]], np.uint8)
    assert block_means(error, 2).tolist() == [[[50, 7]]]
    assert block_means(error, 1) is error


def test_errors_of_another_shape_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"errors of \(2, 2, 2\)"):
        folder(tmp_path).write("a", 1, errors(0, (2, 2, 2)))


def test_killed_writer_leaves_no_version_and_the_old_one_as_it_was(
    tmp_path, monkeypatch
):
    maps = folder(tmp_path)
    maps.write("a", 1, errors(1))
    maps.use("a", 1)

    def writes_half(path, *_, **__):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(error_maps, "write_tiles", writes_half)
    with pytest.raises(KeyboardInterrupt):
        maps.write("a", 2, errors(2))
    assert maps.newest("a") == 1
    assert [path.name for path in (maps.path / "cases" / "a").glob("*.tiles")] == [
        "step_0000001.tiles"
    ]
    assert np.array_equal(maps.current("a").read(whole()), errors(1).error)
    with pytest.raises(RunError, match=r"step_0000002\.tiles is missing"):
        maps.use("a", 2)
    # Nor is it found by who opens the folder anew.
    assert folder(tmp_path).newest("a") == 1


def test_versions_of_a_checkpoint_replace_all_others(tmp_path):
    maps = folder(tmp_path)
    for step in (10, 20):
        for name in ("a", "b"):
            maps.write(name, step, errors(step))
            maps.use(name, step)
    maps.use_versions({"a": 10})
    assert maps.steps == {"a": 10}
    assert maps.current("b") is None
    assert np.array_equal(maps.current("a").read(whole()), errors(10).error)
    unchanged = maps.current("a")
    maps.use_versions({"a": 10, "b": 20})
    assert maps.current("a") is unchanged
    assert maps.steps == {"a": 10, "b": 20}


def test_forgetting_keeps_what_is_in_use_and_in_checkpoints(tmp_path):
    maps = folder(tmp_path)
    for step in (10, 20, 30, 40, 50):
        maps.write("a", step, errors(step))
    maps.use("a", 40)
    maps.forget([{"a": 20}, {"b": 10}])

    def there():
        return sorted(
            int(path.stem.removeprefix("step_")) for path in maps.path.rglob("*.tiles")
        )

    # 50 is newer than all that is wanted, so somebody is about to use it.
    assert there() == [20, 40, 50]
    maps.use("a", 20)
    maps.forget([])
    assert there() == [20, 40, 50]
    assert len(list(maps.path.rglob("*.json"))) == 3


@pytest.mark.parametrize(
    "other",
    [{"content": "another scan or plan"}, {"shape": (37, 6, 4)}],
    ids=["content", "shape"],
)
def test_maps_of_another_data_set_or_plan_are_refused(tmp_path, other):
    folder(tmp_path).write("a", 1, errors(1))
    with pytest.raises(RunError, match="another scan or another plan than case a"):
        folder(tmp_path, **other).use("a", 1)


def test_case_that_the_run_does_not_have_is_refused(tmp_path):
    with pytest.raises(RunError, match="error maps of gone, which it no longer"):
        folder(tmp_path).use_versions({"gone": 5})


def damage_tiles(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def cut_tiles(path):
    path.write_bytes(path.read_bytes()[:-20])


def damage_record(path):
    path.with_suffix(".json").write_text("{")


def another_format(path):
    record = path.with_suffix(".json")
    record.write_text(record.read_text().replace('_version": 1', '_version": 9'))


def no_list(path):
    path.with_suffix(".json").write_text("[1]")


@pytest.mark.parametrize(
    "damage",
    [
        damage_tiles,
        cut_tiles,
        damage_record,
        another_format,
        no_list,
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").unlink(),
    ],
)
def test_damaged_or_missing_map_is_refused_by_name(tmp_path, damage):
    maps = folder(tmp_path)
    maps.write("a", 1, errors(1))
    damage(maps.path / "cases" / "a" / "step_0000001.tiles")
    with pytest.raises(RunError, match=r"error map .*step_0000001\.tiles is missing"):
        maps.use("a", 1)
    assert maps.current("a") is None


def damage_inside(path):
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)


def test_damage_inside_a_tile_is_noticed_when_it_is_read(tmp_path):
    maps = folder(tmp_path)
    maps.write("a", 1, errors(1))
    damage_inside(maps.path / "cases" / "a" / "step_0000001.tiles")
    maps.use("a", 1)
    with pytest.raises(RunError, match=r"error map .*step_0000001\.tiles is missing"):
        maps.current("a").read(whole())


@pytest.mark.parametrize("damage", [damage_inside, lambda path: path.unlink()])
def test_a_lost_map_is_dropped_and_told_of_once_where_it_may_be(tmp_path, damage):
    cases = {name: stored_case(tmp_path, name) for name in ("a", "b")}
    maps = ErrorMapFolder(tmp_path / "error_maps", cases, goes_on_without=True)
    for name in cases:
        maps.write(name, 1, errors(1))
        maps.use(name, 1)
    in_use = maps.current("a")
    damage(maps.path / "cases" / "a" / "step_0000001.tiles")
    assert (in_use.read((slice(3, 5), slice(0, 2), slice(1, 2))) == 255).all()
    assert in_use.read(whole()).shape == SHAPE
    assert maps.current("a") is None
    assert maps.steps == {"b": 1}
    (told,) = maps.lost()
    assert "case a counts as wrong everywhere until it is predicted again" in told
    assert maps.lost() == []


def test_a_reader_of_a_replaced_map_does_not_drop_the_new_one(tmp_path):
    cases = {"a": stored_case(tmp_path, "a")}
    maps = ErrorMapFolder(tmp_path / "error_maps", cases, goes_on_without=True)
    for step in (1, 2):
        maps.write("a", step, errors(step))
    maps.use("a", 1)
    old = maps.current("a")
    maps.use("a", 2)
    maps.delete("a", 1)
    assert (old.read(whole()) == 255).all()
    assert maps.steps == {"a": 2}
    assert maps.lost() == []


@pytest.mark.parametrize("name", ["cases.json", "finished.jsonl", "cases"])
def test_a_case_may_be_called_like_a_file_beside_the_maps(tmp_path, name):
    maps = folder(tmp_path, names=(name,))
    maps.path.mkdir()
    for file in ("cases.json", "finished.jsonl"):
        (maps.path / file).touch()
    maps.write(name, 1, errors(1))
    maps.use(name, 1)
    assert np.array_equal(maps.current(name).read(whole()), errors(1).error)
