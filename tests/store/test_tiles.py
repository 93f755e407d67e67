import threading

import blosc2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.errors import CaseError
from foveal.store.tiles import TiledArray, write_tiles


def written(folder, array, tile_shape):
    path = folder / "array.tiles"
    write_tiles(path, array, tile_shape, codec=blosc2.Codec.LZ4, level=5)
    return TiledArray(path, array.shape, array.dtype, tile_shape)


def counted(shape, dtype=np.float32):
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_window_holds_what_was_written(tmp_path_factory, data):
    lengths = st.integers(1, 11)
    shape = data.draw(st.tuples(lengths, lengths, lengths))
    tile_shape = data.draw(st.tuples(lengths, lengths, lengths))
    window = []
    for length in shape:
        start = data.draw(st.integers(0, length))
        window.append(slice(start, data.draw(st.integers(start, length))))
    array = counted(shape)
    tiled = written(tmp_path_factory.mktemp("tiles"), array, tile_shape)

    np.testing.assert_array_equal(tiled.read(window), array[tuple(window)])


def test_constant_tiles_come_back(tmp_path):
    tiled = written(tmp_path, np.zeros((40, 40, 40), np.uint8), (16, 16, 16))

    assert not tiled.read((slice(3, 39),) * 3).any()


def test_an_array_without_entries_can_be_kept(tmp_path):
    tiled = written(tmp_path, np.zeros(0, np.uint32), (16,))

    assert tiled.read((slice(0, 0),)).tolist() == []


def test_a_window_beyond_the_array_is_refused(tmp_path):
    tiled = written(tmp_path, counted((8, 8)), (4, 4))

    for window in [(slice(-1, 3), slice(0, 8)), (slice(0, 3), slice(0, 9))]:
        with pytest.raises(ValueError, match="not inside an array"):
            tiled.read(window)


def test_only_the_tiles_of_the_window_are_read(tmp_path):
    array = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    tiled = written(tmp_path, array, (16, 16))
    content = bytearray(tiled.path.read_bytes())
    # The first tile is spoilt; a window of the last does not see it.
    content[: 16 * 16] = bytes(16 * 16)
    tiled.path.write_bytes(content)

    window = (slice(50, 60), slice(50, 60))
    np.testing.assert_array_equal(tiled.read(window), array[window])


def test_a_file_cut_short_is_found_when_it_is_opened(tmp_path):
    tiled = written(tmp_path, counted((32, 32)), (8, 8))
    content = tiled.path.read_bytes()

    for kept in (0, 5, len(content) // 2, len(content) - 1):
        tiled.path.write_bytes(content[:kept])
        with pytest.raises(CaseError, match="not whole or damaged; delete the folder"):
            TiledArray(tiled.path, (32, 32), np.dtype(np.float32), (8, 8))


def test_a_missing_file_is_found_when_it_is_opened(tmp_path):
    with pytest.raises(CaseError, match="is missing, not whole or damaged"):
        TiledArray(tmp_path / "none", (2, 2), np.dtype(np.float32), (2, 2))


def test_four_threads_read_the_same_file_at_once(tmp_path):
    array = np.random.default_rng(0).normal(size=(2, 50, 60, 70)).astype(np.float32)
    tiled = written(tmp_path, array, (1, 16, 16, 16))
    wrong = []

    def read(seed):
        generator = np.random.default_rng(seed)
        for _ in range(60):
            window = [slice(0, 2)]
            for length in array.shape[1:]:
                start, stop = sorted(generator.integers(0, length + 1, size=2).tolist())
                window.append(slice(start, stop))
            if not np.array_equal(tiled.read(window), array[tuple(window)]):
                wrong.append(window)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_a_changed_byte_is_found_when_its_tile_is_read(tmp_path):
    array = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    content = written(tmp_path, array, (16, 16)).path.read_bytes()
    start_of_tables = len(content) - 8 * 5 - 4 * 4 - 4

    for place in range(0, start_of_tables, 97):
        damaged = bytearray(content)
        damaged[place] ^= 1
        (tmp_path / "array.tiles").write_bytes(damaged)
        tiled = TiledArray(tmp_path / "array.tiles", (32, 32), np.float32, (16, 16))
        with pytest.raises(CaseError, match=r"array\.tiles is missing, not whole or"):
            tiled.read((slice(0, 32), slice(0, 32)))


def test_a_changed_byte_of_the_tables_is_found_when_the_file_is_opened(tmp_path):
    content = written(tmp_path, counted((32, 32)), (16, 16)).path.read_bytes()

    for place in range(len(content) - 8 * 5 - 4 * 4 - 4, len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 128
        (tmp_path / "array.tiles").write_bytes(damaged)
        with pytest.raises(CaseError, match="not whole or damaged"):
            TiledArray(tmp_path / "array.tiles", (32, 32), np.float32, (16, 16))


def test_a_file_deleted_meanwhile_is_named(tmp_path):
    tiled = written(tmp_path, counted((8, 8)), (4, 4))
    tiled.path.unlink()

    with pytest.raises(CaseError, match=r"array\.tiles is missing"):
        tiled.read((slice(0, 8), slice(0, 8)))
