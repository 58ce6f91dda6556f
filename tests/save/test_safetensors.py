"""The file format: what it stores, that other readers read it, and that no damaged file gets in."""

import errno
import json

import numpy as np
import pytest

from avalon import dtype as dtypes
from avalon.errors import CheckpointError
from avalon.safetensors import Stored, read, write

STORABLE = [dtype for dtype in dtypes.ALL if dtype is not dtypes.complex128]


def stored(dtype, *shape):
    size = int(np.prod(shape))
    return Stored(dtype, np.arange(size).astype(dtype.storage).reshape(shape))


def test_every_type_comes_back_with_its_bits(tmp_path):
    arrays = {dtype.name: stored(dtype, 2, 3) for dtype in STORABLE}
    arrays |= {"scalar": stored(dtypes.float32), "empty": stored(dtypes.int64, 0, 4)}
    write(tmp_path / "all", arrays, {"who": "tests"})
    result, metadata = read(tmp_path / "all")
    assert metadata == {"who": "tests"}
    assert result.keys() == arrays.keys()
    for name, (dtype, array) in arrays.items():
        assert result[name].dtype is dtype
        assert result[name].array.shape == array.shape
        assert result[name].array.tobytes() == array.tobytes()


def test_a_view_is_stored_by_its_values(tmp_path):
    view = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    write(tmp_path / "view", {"x": Stored(dtypes.float32, view)}, {})
    np.testing.assert_array_equal(read(tmp_path / "view")[0]["x"].array, view)


def test_the_layout_is_the_published_one(tmp_path):
    write(tmp_path / "x", {"a": stored(dtypes.uint8, 3), "b": stored(dtypes.float64, 1)}, {})
    content = (tmp_path / "x").read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert (8 + length) % 8 == 0
    assert json.loads(content[8 : 8 + length]) == {
        "b": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]},
        "a": {"dtype": "U8", "shape": [3], "data_offsets": [8, 11]},
    }
    assert content[8 + length :] == np.zeros(1).tobytes() + b"\0\1\2"


def test_a_type_that_the_format_lacks(tmp_path):
    with pytest.raises(CheckpointError, match="'z' has type avalon.complex128"):
        write(tmp_path / "x", {"z": stored(dtypes.complex128, 1)}, {})


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    write(tmp_path / "x", {"a": stored(dtypes.uint8, 3)}, {})
    before = (tmp_path / "x").read_bytes()

    def no_room(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(CheckpointError, match="No space left.*the file that was there is as it"):
        write(tmp_path / "x", {"a": stored(dtypes.uint8, 4)}, {})
    assert (tmp_path / "x").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(CheckpointError, match="cannot write .*Choose a folder that exists"):
        write(tmp_path / "no" / "x", {}, {})


def test_a_file_that_is_missing_lists_its_neighbours(tmp_path):
    write(tmp_path / "last.safetensors", {}, {})
    with pytest.raises(CheckpointError, match=r"does not exist; its folder holds last\.safetens"):
        read(tmp_path / "lsat.safetensors")
    with pytest.raises(CheckpointError, match="there is no folder"):
        read(tmp_path / "no" / "x")


def test_every_truncation_is_refused(tmp_path):
    write(tmp_path / "x", {"a": stored(dtypes.float32, 2)}, {})
    content = (tmp_path / "x").read_bytes()
    for length in range(len(content)):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="truncated|not JSON"):
            read(tmp_path / "cut")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 16]}, "lie outside the file"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}, "lie outside the file"),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}, "lie outside the file"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "does not fill bytes 0 to 8"),
        ({"dtype": "F128", "shape": [2], "data_offsets": [0, 8]}, "'F128'"),
        ({"shape": [2], "data_offsets": [0, 8]}, "'dtype'"),
        ([1, 2], "damaged at 'a'"),
    ],
)
def test_headers_that_lie(tmp_path, entry, message):
    header = json.dumps({"a": entry}).encode()
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "x")


def test_foreign_files(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(CheckpointError, match="zip archive, such as torch.save writes"):
        read(tmp_path / "model.pt")
    (tmp_path / "list").write_bytes((2).to_bytes(8, "little") + b"[]")
    with pytest.raises(CheckpointError, match="its header is no table"):
        read(tmp_path / "list")
    with pytest.raises(CheckpointError, match="cannot read"):
        read(tmp_path)
