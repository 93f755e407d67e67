import pytest
import safetensors.torch
import torch

from foveal.errors import RunError
from foveal.io.weights import read_weights, tensors_digest, write_weights

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}


def test_what_is_written_is_read_again(tmp_path):
    write_weights(tmp_path / "file", TENSORS, {"plan": "größe = 1"})
    tensors, texts = read_weights(tmp_path / "file")
    assert texts == {"plan": "größe = 1"}
    assert tensors.keys() == TENSORS.keys()
    assert all(tensors[name].equal(TENSORS[name]) for name in TENSORS)


def test_every_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "file"
    write_weights(path, TENSORS, {"plan": "spacing"})
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        try:
            tensors, texts = read_weights(path)
        except RunError:
            continue
        # White space of the header may change without changing what it says.
        assert texts == {"plan": "spacing"}
        assert all(tensors[name].equal(TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04K\x01."])
def test_what_is_no_such_file_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(RunError, match="is damaged or no file of weights"):
        read_weights(tmp_path / "file")


def test_weights_of_others_are_refused(tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / "file")
    with pytest.raises(RunError, match="was not written by Foveal"):
        read_weights(tmp_path / "file")


def test_digest_sees_names_types_shapes_and_values():
    a = torch.arange(4, dtype=torch.int32)
    digests = {
        tensors_digest(tensors)
        for tensors in (
            {"a": a},
            {"b": a},
            {"a": a.reshape(2, 2)},
            {"a": a.float()},
            {"a": a + 1},
        )
    }
    assert len(digests) == 5
    transposed = a.reshape(2, 2).T
    assert tensors_digest({"a": transposed}) == tensors_digest(
        {"a": transposed.contiguous()}
    )
