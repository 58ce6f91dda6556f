"""Memory: buffers of bytes from a pool that keeps its pages.

Comes in: sizes, NumPy arrays, foreign addresses. Goes out: `Buffer` objects, 64-byte aligned when
the pool made them. Guaranteed: a page that was touched once is not given back between calls
(touching a fresh page costs more than a microsecond); a buffer that a NumPy view looks into says
`pinned` and is neither reused nor donated while the view lives; all of it may be used from several
threads at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import threading
from collections.abc import Callable, Sequence
from math import prod
from sys import getrefcount
from typing import TYPE_CHECKING, Any

import numpy as np

from avalon.dtype import DType

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALIGNMENT = 64
_SLAB = 1 << 20  # smaller blocks are cut from slabs of this size, larger ones are mapped one by one
_HUGE_PAGE = 2 << 20
# Kernels load whole vectors of which some lanes are masked, and these may lie up to a vector behind
# a block. Where they meet a page that is not there, each such load takes some hundred cycles, so
# there is memory behind every block.
_BEHIND = ALIGNMENT
# Blocks that all start at the same place of a page fight for the same cache sets, and loads that
# follow stores at equal page offsets stall; large blocks are therefore shifted against each other.
_SHIFTS = 12
_SHIFT = 5 * ALIGNMENT
_IDLE_LIMIT = 1 << 30
_SMALL = 1 << 12  # arrays that are copied by way of their bytes


class _SizeClass(list[int]):
    """The free blocks of one size, by address. `append` and `pop` of a list are atomic in CPython,
    so a buffer returns its block without a lock, even from a garbage collection in another thread.
    """

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


class Pool:
    """Blocks in size classes: four to a doubling, so that at most a fifth of a block is wasted, and
    eight where blocks are mapped one by one.
    """

    def __init__(self) -> None:
        self._classes: dict[int, _SizeClass] = {}
        self._by_request: dict[int, _SizeClass] = {}
        self._maps: dict[int, mmap.mmap] = {}  # address of a large block -> its pages
        self._slabs: list[mmap.mmap] = []
        self._lock = threading.Lock()
        self._mapped = 0
        self._mapped_blocks = 0

    def size_class(self, nbytes: int) -> _SizeClass:
        """Return the free list that serves requests of `nbytes`."""
        found = self._by_request.get(nbytes)
        if found is None:
            if nbytes < 0:
                raise ValueError(f"[buffer] a size must not be negative, got {nbytes}")
            size = _round_up(nbytes)
            with self._lock:
                found = self._classes.setdefault(size, _SizeClass(size))
                if len(self._by_request) > 1 << 16:
                    self._by_request.clear()
                self._by_request[nbytes] = found
        return found

    def grow(self, wanted: _SizeClass) -> int:
        """Map fresh memory for a class whose list is empty; return the address of one block."""
        with self._lock:
            if wanted.size < _SLAB:
                return self._cut_slab(wanted)
            if self._idle() > max(_IDLE_LIMIT, self._mapped // 2):
                self._trim()
            shift = self._mapped_blocks % _SHIFTS * _SHIFT
            try:
                pages, address = _map_pages(wanted.size + _SHIFTS * _SHIFT)
            except (OSError, MemoryError):
                self._trim()
                pages, address = self._map_or_explain(wanted.size)
            self._mapped += len(pages)
            self._mapped_blocks += 1
            self._maps[address + shift] = pages
            ctypes.memset(address + shift + wanted.size, 0, _BEHIND)
            return address + shift

    def lend(self, nbytes: int) -> tuple[int, _SizeClass]:
        """An unused large block for a short while, of any sufficient size; the address, and the
        list to which it returns. If all are too small, they make room for a new one.
        """
        wanted = self.size_class(nbytes)
        with self._lock:
            for home in sorted(self._classes.values(), key=lambda found: found.size):
                if home.size >= wanted.size:
                    with contextlib.suppress(IndexError):  # it is empty
                        return home.pop(), home
            self._trim(wanted.size)
        return self.grow(wanted), wanted

    def trim(self) -> int:
        """Give unused large blocks back to the system; return their bytes."""
        with self._lock:
            return self._trim()

    @property
    def mapped(self) -> int:
        """Bytes that the pool holds from the system, used or not."""
        return self._mapped

    @property
    def idle(self) -> int:
        """Bytes in blocks that nobody uses at this moment."""
        with self._lock:
            return self._idle()

    def renew_lock(self) -> None:
        """Start with a free lock in a forked child, whatever the parent's threads were doing."""
        self._lock = threading.Lock()

    def _idle(self) -> int:
        return sum(len(blocks) * blocks.size for blocks in self._classes.values())

    def _cut_slab(self, wanted: _SizeClass) -> int:
        slab = _SLAB if wanted.size * 16 > (_SLAB >> 3) else _SLAB >> 3
        pages, address = _map_pages(slab + _BEHIND)
        ctypes.memset(address, 0, slab + _BEHIND)  # blocks lie behind blocks
        self._slabs.append(pages)
        self._mapped += slab
        first, *rest = range(address, address + slab - wanted.size + 1, wanted.size)
        wanted.extend(reversed(rest))
        return first

    def _map_or_explain(self, size: int) -> tuple[mmap.mmap, int]:
        try:
            return _map_pages(size + _SHIFTS * _SHIFT)
        except (OSError, MemoryError):
            raise MemoryError(
                f"[buffer] the system has no {size:,} bytes left; {self._mapped:,} bytes are in "
                "use here. Use a smaller batch, or drop tensors that are no longer needed."
            ) from None

    def _trim(self, enough: int | None = None) -> int:
        """Give unused large blocks back, the largest first, until `enough` bytes are."""
        freed = 0
        for blocks in sorted(self._classes.values(), key=lambda found: -found.size):
            if blocks.size < _SLAB:
                break
            while blocks and (enough is None or freed < enough):
                try:
                    address = blocks.pop()
                except IndexError:  # another thread took it
                    break
                pages = self._maps.pop(address)
                freed += len(pages)
                pages.close()
        self._mapped -= freed
        return freed


def _round_up(nbytes: int) -> int:
    """The size of the class that serves `nbytes`: multiples of 64, then four steps a doubling, and
    eight from the size of a slab on (weights of three by three are nine times a power of two).
    """
    if nbytes <= 4 * ALIGNMENT:
        return max(ALIGNMENT, -(-nbytes // ALIGNMENT) * ALIGNMENT)
    step = 1 << ((nbytes - 1).bit_length() - (3 if nbytes <= _SLAB else 4))
    return -(-nbytes // step) * step


def _map_pages(nbytes: int) -> tuple[mmap.mmap, int]:
    if hasattr(mmap, "MAP_ANONYMOUS"):
        # private, so that a forked child has its own copy
        pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if nbytes >= _HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without huge pages
                pages.madvise(mmap.MADV_HUGEPAGE)
    else:
        pages = mmap.mmap(-1, nbytes)
    return pages, ctypes.addressof(ctypes.c_char.from_buffer(pages))


pool = Pool()
_by_request = pool._by_request


class Buffer:
    """`nbytes` of memory with undefined content; it returns to the pool when the object dies.

    Attributes:
        address: where the memory starts; a multiple of 64 unless the memory is foreign.
        nbytes: its size.

    >>> import numpy as np
    >>> from avalon import dtype
    >>> buffer = Buffer.from_numpy(np.arange(3, dtype="float32"))
    >>> buffer.as_numpy(dtype.float32, (3,))
    array([0., 1., 2.], dtype=float32)
    """

    __slots__ = ("__weakref__", "_home", "_mark", "_owner", "address", "nbytes")

    address: int
    nbytes: int
    _home: _SizeClass | None
    _mark: list[Any]  # empty; whoever else holds it looks into the memory
    _owner: object  # who keeps foreign memory alive

    def __init__(self, nbytes: int) -> None:
        self._home = None  # so that a failing constructor returns nothing to the pool
        home = _by_request.get(nbytes)
        if home is None:
            home = pool.size_class(nbytes)
        try:
            self.address = home.pop()
        except IndexError:
            self.address = pool.grow(home)
        self.nbytes = nbytes
        self._mark = []
        self._home = home

    def __del__(self) -> None:
        home = self._home
        if home is not None:
            home.append(self.address)

    @classmethod
    def arena(cls, nbytes: int) -> Buffer:
        """Return memory for the temporaries of one call. Large arenas of programs that run one
        after the other lie in the same block, though their sizes differ.
        """
        if nbytes < _SLAB:
            return cls(nbytes)
        self = cls.__new__(cls)
        self._home = None
        self.address, home = pool.lend(nbytes)
        self.nbytes = nbytes
        self._mark = []
        self._home = home
        return self

    @classmethod
    def foreign(cls, address: int, nbytes: int, owner: object) -> Buffer:
        """Return a buffer over memory that `owner` keeps alive. It always counts as pinned."""
        self = cls.__new__(cls)
        self.address = address
        self.nbytes = nbytes
        self._home = None
        self._mark = []
        self._owner = owner
        return self

    def part(self, start: int, nbytes: int) -> Buffer:
        """Return a buffer over `nbytes` of this memory from byte `start` on, to be read only. This
        buffer is pinned while the part lives.
        """
        return Buffer.foreign(self.address + start, nbytes, (self, self._mark))

    @classmethod
    def from_numpy(cls, array: NDArray[Any]) -> Buffer:
        """Return a buffer with a copy of the array's elements, in row-major order."""
        nbytes = array.nbytes
        self = cls(nbytes)
        if nbytes <= _SMALL and array.dtype.isnative:
            ctypes.memmove(self.address, array.tobytes(), nbytes)
        else:
            storage = array.dtype.newbyteorder("=")
            np.ndarray(array.shape, storage, self._base())[...] = array
        return self

    @classmethod
    def from_bytes(cls, data: bytes) -> Buffer:
        """Return a buffer that holds `data`."""
        self = cls(len(data))
        ctypes.memmove(self.address, data, len(data))
        return self

    def as_numpy(self, dtype: DType, shape: Sequence[int]) -> NDArray[Any]:
        """Return a writable array over this memory, without a copy; the buffer is pinned meanwhile.

        bfloat16, which NumPy lacks, comes out as uint16.

        Raises:
            ValueError: if the array would be larger than the buffer.
        """
        try:
            return np.ndarray(shape, dtype.storage, self._base())
        except TypeError:
            raise ValueError(
                f"[buffer] {tuple(shape)} of {dtype.name} needs {prod(shape) * dtype.itemsize} "
                f"bytes, the buffer has {self.nbytes}"
            ) from None

    def tobytes(self) -> bytes:
        """Return a copy of the content."""
        return ctypes.string_at(self.address, self.nbytes)

    @property
    def pinned(self) -> bool:
        """True while a view looks into the memory, and for foreign memory."""
        if self._home is None:
            return True
        return getrefcount(self._mark) > 2

    def __copy__(self) -> Buffer:
        copy = Buffer(self.nbytes)
        ctypes.memmove(copy.address, self.address, self.nbytes)
        return copy

    def __deepcopy__(self, memo: dict[int, object]) -> Buffer:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        return (Buffer.from_bytes, (self.tobytes(),))

    def __repr__(self) -> str:
        return f"Buffer({self.nbytes} bytes at {self.address:#x}{', pinned' * self.pinned})"

    def _base(self) -> Any:
        """What NumPy asks for the memory, and keeps as the base of its views."""
        shown = _bytes_at(self.nbytes)(self.address)
        shown.buffer = self
        shown.mark = self._mark
        return shown


@functools.lru_cache(maxsize=1024)
def _bytes_at(nbytes: int) -> Callable[[int], Any]:
    """What makes an object of so many bytes at an address, with fields for who keeps them."""
    kind: Any = type("Bytes", (ctypes.c_char * nbytes,), {"__slots__": ("buffer", "mark")})
    made: Callable[[int], Any] = kind.from_address
    return made
