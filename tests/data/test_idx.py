"""The IDX reader: what it reads, and one clear error for each way in which a file can be wrong."""

import gzip
import struct

import numpy as np
import pytest

from avalon.data.idx import read_idx
from avalon.errors import DataError


def idx_bytes(array, code=0x08):
    header = struct.pack(">HBB", 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(0x08, "u1"), (0x09, "i1"), (0x0B, "i2"), (0x0C, "i4"), (0x0D, "f4"), (0x0E, "f8")],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_reads_every_element_type_plain_and_gzipped(tmp_path, code, dtype, pack):
    array = np.arange(-3, 21).astype(dtype).reshape(2, 3, 4)
    path = tmp_path / "array"
    path.write_bytes(pack(idx_bytes(array, code)))
    result = read_idx(path)
    assert result.dtype == array.dtype
    assert result.dtype.isnative
    np.testing.assert_array_equal(result, array)


def test_reads_an_empty_array(tmp_path):
    path = tmp_path / "empty"
    path.write_bytes(idx_bytes(np.zeros((0, 28, 28), np.uint8)))
    assert read_idx(path).shape == (0, 28, 28)


def test_missing_file_lists_its_neighbours(tmp_path):
    (tmp_path / "t10k-images.gz").touch()
    with pytest.raises(DataError, match=r"train-images does not exist.*holds t10k-images\.gz"):
        read_idx(tmp_path / "train-images")
    with pytest.raises(DataError, match="there is no folder"):
        read_idx(tmp_path / "nowhere" / "train-images")


@pytest.mark.parametrize("cut", [1, 5, 40])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_truncated_file(tmp_path, cut, pack):
    content = pack(idx_bytes(np.arange(60, dtype=np.uint8).reshape(3, 4, 5)))
    path = tmp_path / "cut"
    path.write_bytes(content[:-cut])
    with pytest.raises(DataError, match="truncated.*Fetch the file again"):
        read_idx(path)


def test_header_cut_short(tmp_path):
    path = tmp_path / "header"
    path.write_bytes(b"\0\0\x08\x03\0\0")
    with pytest.raises(DataError, match="truncated: its header needs 16 bytes, 6 are there"):
        read_idx(path)


def test_file_longer_than_its_header_says(tmp_path):
    path = tmp_path / "long"
    path.write_bytes(idx_bytes(np.zeros(3, np.uint8)) + b"more")
    with pytest.raises(DataError, match="longer than its header says"):
        read_idx(path)


@pytest.mark.parametrize("content", [b"", b"\0", b"<!DOCTYPE>", b"\x89PNG\r\n", b"\0\0\x07\x01"])
def test_foreign_file(tmp_path, content):
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not an IDX file: it begins with"):
        read_idx(path)


def test_damaged_gzip(tmp_path):
    content = bytearray(gzip.compress(idx_bytes(np.arange(200, dtype=np.uint8))))
    content[30] ^= 0xFF
    path = tmp_path / "damaged.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="truncated or damaged"):
        read_idx(path)


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        read_idx(tmp_path)
