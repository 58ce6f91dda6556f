"""The safetensors format: named arrays in one file, read without running any code from it.

A file is eight bytes (the length of the header, little endian), a JSON header that gives each name
its type, shape and byte range, and the bytes (https://huggingface.co/docs/safetensors/index).

Comes in and goes out: names, element types and NumPy arrays of the bytes in memory. Guaranteed: a
file is written whole or not at all; a damaged file is a `CheckpointError`, whatever it claims.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from avalon import dtype as dtypes
from avalon.dtype import DType
from avalon.errors import CheckpointError

_NAMES = {
    dtypes.bool_: "BOOL", dtypes.uint8: "U8", dtypes.int8: "I8", dtypes.int16: "I16",
    dtypes.int32: "I32", dtypes.int64: "I64", dtypes.uint32: "U32", dtypes.uint64: "U64",
    dtypes.float16: "F16", dtypes.bfloat16: "BF16", dtypes.float32: "F32", dtypes.float64: "F64",
    dtypes.complex64: "C64",
}  # fmt: skip
_TYPES = {name: dtype for dtype, name in _NAMES.items()}
_LONGEST_HEADER = 100_000_000


class Stored(NamedTuple):
    """One array of a file: its element type, and its values as `dtype.storage`."""

    dtype: DType
    array: np.ndarray[Any, Any]


def write(path: Path, arrays: Mapping[str, Stored], metadata: Mapping[str, str]) -> None:
    """Write named arrays and text to a file, which appears only once it is complete.

    Raises:
        CheckpointError: an element type that the format lacks, or a folder that cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    # Wide elements first, so that every array is aligned in the file.
    order = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)
    for name in order:
        dtype, array = arrays[name]
        if dtype not in _NAMES:
            raise CheckpointError(f"[save] {name!r} has type {dtype!r}, which safetensors lacks")
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little"))
            file.write(text)
            for name in order:
                file.write(np.ascontiguousarray(arrays[name].array).data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise CheckpointError(
            f"[save] cannot write {path}: {error.strerror}. Choose a folder that exists, is yours "
            f"to write and has room; the file that was there is as it was."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def read(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """Return the arrays of a file, in the order of its header, and its text.

    Raises:
        CheckpointError: the file is missing, damaged or of another format.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"[load] {path} does not exist{_alternatives(path)}") from None
    except OSError as error:
        raise CheckpointError(f"[load] cannot read {path}: {error.strerror}") from error
    header, start = _header(path, content)
    metadata = header.pop("__metadata__", {})
    arrays = {}
    for name, entry in header.items():
        try:
            dtype, shape = _TYPES[entry["dtype"]], tuple(map(int, entry["shape"]))
            first, last = entry["data_offsets"]
            if not 0 <= first <= last <= len(content) - start or min(shape, default=0) < 0:
                raise ValueError("its bytes lie outside the file, which may be truncated")
            if last - first != prod(shape) * dtype.itemsize:
                raise ValueError(f"shape {shape} does not fill bytes {first} to {last}")
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"[load] {path} is damaged at {name!r}: {error}") from error
        # A copy, so that arrays are aligned and outlive the file's bytes.
        stored = np.frombuffer(content, np.uint8, last - first, start + first).copy()
        arrays[name] = Stored(dtype, stored.view(dtype.storage).reshape(shape))
    return arrays, metadata


def _header(path: Path, content: bytes) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(_LONGEST_HEADER, len(content) - 8):
        hint = ""
        if content[:2] == b"PK":
            hint = ": it is a zip archive, such as torch.save writes. Save its state dict again "
            hint += "with safetensors.torch.save_file"
        raise CheckpointError(
            f"[load] {path} is not a safetensors file, or it is truncated "
            f"({len(content)} bytes){hint}"
        )
    try:
        header = json.loads(content[8 : 8 + length])
    except ValueError as error:
        raise CheckpointError(
            f"[load] {path} is not a safetensors file: its header is not JSON ({error})"
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"[load] {path} is not a safetensors file: its header is no table")
    return header, 8 + length


def _alternatives(path: Path) -> str:
    if not path.parent.is_dir():
        return f": there is no folder {path.parent}"
    present = sorted(file.name for file in path.parent.glob("*.safetensors"))
    return f"; its folder holds {', '.join(present[:8])}" if present else ""
