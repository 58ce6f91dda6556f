"""Files in the IDX format, in which MNIST is published (http://yann.lecun.com/exdb/mnist).

Comes in: the path of a file, plain or gzipped. Goes out: a NumPy array in native byte order.
Guaranteed: a file that is missing, cut short, too long or of another format is a `DataError` that
names the file, what was expected and what to do; no partial array is ever returned.
"""

from __future__ import annotations

import gzip
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from avalon.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"
_ELEMENT_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path) -> np.ndarray[Any, Any]:
    """Return the array stored in an IDX file.

    Args:
        path: the file, plain or gzipped; its content decides which, not its name.

    Returns:
        An array of the shape and element type that the file states (MNIST: uint8).

    Raises:
        DataError: the file is missing, truncated, too long, damaged or not an IDX file.
    """
    path = Path(path)
    content = _read(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _ELEMENT_TYPES:
        raise DataError(
            f"[read_idx] {path} is not an IDX file: it begins with "
            f"{content[:4].hex(' ') or 'nothing'}, an IDX file of bytes with 00 00 08. Is it "
            f"another data set, or a page that a download saved in its place?"
        )
    dtype, rank = np.dtype(_ELEMENT_TYPES[content[2]]), content[3]
    start = 4 + 4 * rank
    if len(content) < start:
        raise DataError(
            f"[read_idx] {path} is truncated: its header needs {start} bytes, {len(content)} are "
            f"there. Fetch the file again."
        )
    shape = tuple(int(extent) for extent in np.frombuffer(content, ">u4", rank, offset=4))
    expected = start + prod(shape) * dtype.itemsize
    if len(content) != expected:
        state = "truncated" if len(content) < expected else "longer than its header says"
        raise DataError(
            f"[read_idx] {path} is {state}: shape {shape} needs {expected} bytes, "
            f"{len(content)} are there. Fetch the file again."
        )
    stored = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return stored.astype(dtype.newbyteorder("="))


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == _GZIP_MAGIC else content
    except FileNotFoundError:
        raise DataError(f"[read_idx] {path} does not exist{_neighbours(path)}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"[read_idx] {path} is truncated or damaged: {error}. Fetch the file again."
        ) from error
    except OSError as error:
        raise DataError(f"[read_idx] cannot read {path}: {error.strerror}") from error


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f": there is no folder {path.parent}"
    present = sorted(file.name for file in path.parent.iterdir())
    return f"; its folder holds {', '.join(present[:8])}" if present else "; its folder is empty"
