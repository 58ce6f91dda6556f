"""Boxes of windows: how a convolution's unit of work hands its sums over to a pooling.

Comes in: the memory of a unit's sums, and what is done with the windows in them. Goes out: nothing;
every window of the unit's box has been handed over. Guaranteed: each window lies in one unit, for
boxes begin where windows begin (`grain`).

Lanes run along y's last axis. Where the sums lie with channels as neighbours, and everything else
allows it, lanes run along channels, whose windows need no shuffling; what comes out, less than went
in, is turned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Protocol

from avalon import dtype as dtypes
from avalon.codegen.contraction_pack import Scratch, quotient, split
from avalon.codegen.contraction_problem import Problem
from avalon.codegen.contraction_tile import lanes_of, turn_into
from avalon.codegen.emit import Emit, Pointer, Value
from avalon.codegen.target import Target
from avalon.dtype import DType
from avalon.runtime.plan import Kernel

Index = tuple[Value, ...]  # group, image, channel, three positions


class Windows(Protocol):
    """What is done with windows, see `epilogue_windows`."""

    steps: tuple[int, ...]
    extents: tuple[int, ...]
    stores: list[DType]
    keeps: bool

    @property
    def joined(self) -> int: ...
    @property
    def can_cross(self) -> bool: ...
    def begin(self, strides: Sequence[int], crosses: bool) -> None: ...
    def write_row(
        self, emit: Emit, memory: Pointer, dtype: DType, place: Value, index: Index, count: int,
        mask: Value | None,
    ) -> None: ...  # fmt: skip
    def values_across(
        self, emit: Emit, memory: Pointer, dtype: DType, place: Value, index: Index, count: int,
        mask: Value | None,
    ) -> list[Value]: ...  # fmt: skip
    def store_values(
        self, emit: Emit, values: Sequence[Value], index: Index, mask: Value | None
    ) -> None: ...
    def write_sums(
        self, emit: Emit, partial: Pointer, spans: int, index: Index, count: int,
        mask: Value | None,
    ) -> None: ...  # fmt: skip


class Channels(Protocol):
    """The channels of a unit of work: w's side of the tile."""

    valid: Value

    def stored_row(self, row: Value) -> Value: ...


class Words:
    """How values are turned: as words of one size, of which bytes (positions, marks) share one.

    Attributes:
        fits: whether all values are of that size or bytes.
        kinds: the types of the words.
    """

    def __init__(self, values: Sequence[DType], held: DType) -> None:
        self.values = values
        self.whole = dtypes.int32 if held.itemsize == 4 else dtypes.int64
        self.fits = all(dtype.itemsize in (1, held.itemsize) for dtype in values)
        self.kinds = [dtype for dtype in values if dtype.itemsize > 1]
        count = len(values) - len(self.kinds)
        self.kinds += [self.whole] * -(-count // held.itemsize)
        wide = iter(range(len(values)))
        narrow = iter(divmod(i, held.itemsize) for i in range(count))
        self.places: list[tuple[int, int]] = []  # of each value: its word, and the byte in it
        for dtype in values:
            if dtype.itemsize > 1:
                self.places.append((next(wide), 0))
            else:
                number, byte = next(narrow)
                self.places.append((len(values) - count + number, byte))

    def join(self, emit: Emit, values: Sequence[Value]) -> list[Value]:
        """The words of values."""
        words: dict[int, Value] = {}
        for value, (number, byte) in zip(values, self.places, strict=True):
            if value.dtype.itemsize == 1:
                value = emit.bit_and(emit.cast(value, self.whole), 0xFF)
                value = emit.shift_left(value, 8 * byte)
            words[number] = emit.bit_or(words[number], value) if number in words else value
        return [words[number] for number in range(len(self.kinds))]

    def split(self, emit: Emit, words: Sequence[Value]) -> list[Value]:
        """The values in words."""
        values = []
        for dtype, (number, byte) in zip(self.values, self.places, strict=True):
            value = words[number]
            if dtype.itemsize == 1:
                value = emit.bit_and(emit.shift_right(value, 8 * byte), 0xFF)
                value = emit.cast(value, dtype)
            values.append(value)
        return values


class WindowBoxes:
    """Hands windows over; `grid` says how far apart positions (images and three axes) are kept:
    as elements of a row, or, if lanes `may_cross` channels, as rows of `stride` channels.
    """

    def __init__(
        self, emit: Emit, scratch: Scratch, windows: Windows, unit: Sequence[int],
        outputs: Sequence[int], grid: Sequence[int], stride: int, held: DType, width: int,
        may_cross: bool,
    ) -> None:  # fmt: skip
        self.emit, self.windows, self.grid = emit, windows, grid
        self.held, self.width, self.keeps = held, width, windows.keeps
        self.is_whole = [size >= extent for size, extent in zip(unit[1:], outputs, strict=True)]
        self.sizes = [unit[0]] + [
            rounds if whole else size // step
            for size, step, rounds, whole in zip(
                unit[1:], windows.steps, windows.extents, self.is_whole, strict=True
            )
        ]
        # How far apart windows are kept.
        self.moves = [
            grid[0], *(s * g for s, g in zip(windows.steps, grid[1:], strict=True))
        ]
        self.words = Words(windows.stores, held)
        self.crosses = may_cross and windows.can_cross and self.words.fits and not self.keeps
        # Positions are rows of channels until they are turned.
        far = stride if self.crosses else 1
        self.moves = [move * far for move in self.moves]
        windows.begin([step * far for step in grid[1:]], self.crosses)
        if self.crosses:
            rows = -(-prod(self.sizes) // width) * width
            self.rows, self.lanes = rows, stride
            self.found = [scratch.reserve(rows * stride, held) for _ in self.words.kinds]
            self.turned = [scratch.reserve(stride * rows, held) for _ in self.words.kinds]

    def hand_over(
        self, sums: Pointer, stride: int, group: Value, images: Value, channels: Channels,
        w_start: Value, x_starts: Sequence[Value],
    ) -> None:  # fmt: skip
        """Hand over the unit's windows, which has so many images. Rows of sums are `stride` apart;
        they are channels, or positions where lanes run along channels.
        """
        emit = self.emit
        first = [x_starts[0]]
        counts = [images]
        for axis in range(3):
            start = quotient(emit, x_starts[1 + axis], self.windows.steps[axis])
            count = emit.constant(self.sizes[1 + axis], dtypes.int64)
            if not self.is_whole[axis]:
                rest = emit.subtract(
                    emit.constant(self.windows.extents[axis], dtypes.int64), start
                )
                count = emit.minimum(rest, count)
            first.append(start)
            counts.append(count)
        if self.crosses:
            self._cross(sums, group, channels, w_start, first, counts)
        else:
            self._rows(sums, stride, group, channels, w_start, first, counts)

    @contextmanager
    def _walk(self, counts: Sequence[Value]) -> Iterator[list[Value]]:
        """Loops over images and positions of the unit."""
        with ExitStack() as nest:
            yield [nest.enter_context(self.emit.loop(0, count)).index for count in counts]

    def _place(self, inside: Sequence[Value], moves: Sequence[int], start: Value) -> Value:
        """Where the round with these coordinates in the unit is kept."""
        for i, move in zip(inside, moves, strict=False):
            start = self.emit.add(start, self.emit.multiply(i, move))
        return start

    def _at(self, first: Sequence[Value], inside: Sequence[Value]) -> list[Value]:
        """The coordinates of a round; those that are not said are the unit's first."""
        some = [self.emit.add(*pair) for pair in zip(first, inside, strict=False)]
        return [*some, *first[len(some) :]]

    def _rows(
        self, sums: Pointer, stride: int, group: Value, channels: Channels, w_start: Value,
        first: Sequence[Value], counts: Sequence[Value],
    ) -> None:  # fmt: skip
        """Lanes along the last axis."""
        emit, width = self.emit, self.width
        while width > 2 and self.sizes[3] <= width // 2:
            width //= 2
        with emit.loop(0, channels.valid, nonempty=True) as channel:
            row = emit.multiply(channels.stored_row(channel.index), stride)
            with self._walk(counts[:3]) as outer, emit.loop(0, counts[3], width) as lane:
                inside = [*outer, lane.index]
                image, *rest = self._at(first, inside)
                index = (group, image, emit.add(w_start, channel.index), *rest)
                mask = self._mask(counts[3], lane.index, width)
                place = self._place(inside, self.moves, row)
                self.windows.write_row(emit, sums, self.held, place, index, width, mask)

    def _mask(self, count: Value, lane: Value, width: int) -> Value | None:
        if isinstance(count.number, int) and count.number % width == 0:
            return None
        return self.emit.mask_below(self.emit.subtract(count, lane), width)

    def _cross(
        self, sums: Pointer, group: Value, channels: Channels, w_start: Value,
        first: Sequence[Value], counts: Sequence[Value],
    ) -> None:  # fmt: skip
        """Lanes along channels first, then, turned, along positions."""
        emit, width = self.emit, self.width
        apart = [prod(self.sizes[axis + 1 :]) for axis in range(4)]
        zero = emit.constant(0, dtypes.int64)
        with self._walk(counts) as inside:
            at = self._place(inside, self.moves, zero)
            row = emit.multiply(self._place(inside, apart, zero), self.lanes)
            image, *rest = self._at(first, inside)
            with emit.loop(0, channels.valid, width, nonempty=True) as lane:
                index = (group, image, emit.add(w_start, lane.index), *rest)
                mask = self._mask(channels.valid, lane.index, width)
                values = self.windows.values_across(
                    emit, sums, self.held, emit.add(at, lane.index), index, width, mask
                )
                for found, word in zip(self.found, self.words.join(emit, values), strict=True):
                    emit.store(found, emit.add(row, lane.index), word)
        for found, turned, kind in zip(self.found, self.turned, self.words.kinds, strict=True):
            turn_into(emit, found, (self.rows, self.lanes), turned, self.rows, kind, width)
        # Axes in front of the last are joined to it where the box and what is stored allow it.
        joined = 1
        while joined < self.windows.joined and self.is_whole[3 - joined]:
            joined += 1
        outer = 4 - joined
        run = emit.multiply(counts[outer], prod(self.sizes[outer + 1 :]))
        with (
            emit.loop(0, channels.valid, nonempty=True) as channel,
            self._walk(counts[:outer]) as inside,
            emit.loop(0, run, width) as lane,
        ):
            row = emit.multiply(channel.index, self.rows)
            place = emit.add(self._place(inside, apart, row), lane.index)
            words = [
                emit.load(turned, place, kind, width)
                for turned, kind in zip(self.turned, self.words.kinds, strict=True)
            ]
            image, *rest = self._at(first, inside)
            rest[-1] = emit.add(rest[-1], lane.index)
            index = (group, image, emit.add(w_start, channel.index), *rest)
            values = self.words.split(emit, words)
            self.windows.store_values(emit, values, index, self._mask(run, lane.index, width))


def window_sums_kernel(
    symbol: str, target: Target, dtype: DType, problem: Problem, windows: Windows
) -> tuple[Kernel, int]:
    """The kernel that adds the sums of spans (slot 0) in the windows that are asked for, and its
    units: one is one run of the last axis.
    """
    emit = Emit(symbol, target)
    width = lanes_of(target, dtype)
    shape = (*problem.shape[:3], *windows.extents)
    run = emit.constant(shape[-1], dtypes.int64)
    with emit.loop(emit.begin, emit.end) as unit:
        where = split(emit, unit.index, *shape[1:-1])
        with emit.loop(0, run, width, nonempty=True) as lane:
            mask = emit.mask_below(emit.subtract(run, lane.index), width)
            index = (*where, lane.index)
            windows.write_sums(
                emit, emit.pointer(0), problem.blocks.spans, index, width, mask
            )
    return Kernel(emit.symbol, emit.finish()), prod(shape[:-1])
