"""What each call of a replayed step makes anew: cells, whose memory its program writes.

Comes in: what the program puts out. Goes out: a cell a call. Guaranteed: nobody but the caller
holds it or its memory, and it is as good as new. A small one of the last call that nobody kept is
handed out again, for making and dropping cells takes longer than a small program runs.
"""

from __future__ import annotations

from sys import getrefcount

from avalon.dtype import DType
from avalon.runtime.buffer import Buffer
from avalon.shape import Shape
from avalon.tensor.cell import Cell
from avalon.tracing.values import Value

_SMALL = 1 << 12  # bytes that may wait in vain for the next call


class Fresh:
    """The cells that become one output of a program.

    Attributes:
        number: which of the step's new cells it is.
    """

    __slots__ = (
        "_address", "_dtype", "_last", "_nbytes", "_shape", "_storage", "_word", "_words", "number",
    )  # fmt: skip

    _address: int  # of the last one's memory
    _last: Cell | None

    def __init__(
        self, number: int, words: memoryview, word: int, kind: tuple[Shape, DType],
        storage: tuple[Shape, Shape | None], nbytes: int,
    ) -> None:  # fmt: skip
        """`word` of `words` is where the address goes; `storage`: the cells' shape and strides."""
        self.number = number
        self._words = words
        self._word = word
        self._shape, self._dtype = kind
        self._storage = storage
        self._nbytes = nbytes
        self._last = None

    def cell(self) -> Cell:
        """A cell for the call that comes; the address of its memory is written."""
        last = self._last
        if last is not None and getrefcount(last) == _ALONE and not last.version:
            last.memory = None  # with which NumPy's views, had they died, would hold the buffer
            value = last.value
            buffer = value.buffer
            if (
                getrefcount(value) == _ALONE
                and getrefcount(buffer) == _ALONE
                and buffer.address == self._address
            ):
                last.watched = False
                return last
        buffer = Buffer(self._nbytes)
        self._words[self._word] = buffer.address
        made = Cell(Value(self._shape, self._dtype, buffer), *self._storage)
        if self._nbytes <= _SMALL:
            self._last, self._address = made, buffer.address
        return made

    def stack(self, count: int) -> tuple[int, Value]:
        """The word of the address, and a value for what `count` calls put out."""
        return self._word, Value((count,), self._dtype, Buffer(count * self._nbytes))


class _Holder:
    __slots__ = ("held",)

    def count(self) -> int:
        """What `getrefcount` says of an object that one field and one variable hold: whether a
        variable's reference counts differs between versions of Python.
        """
        self.held = held = object()
        return getrefcount(held)


_ALONE = _Holder().count()
