"""The innermost loop of every contraction: a tile of sums held in registers.

Comes in: a `Stream` of vectors (the lanes of the tile) and a `Stream` of scalars (its rows), and
how many products to add. Goes out: the tile's sums, added into scratch memory. Guaranteed: each sum
is one chain of fused multiply-adds from +0 in the order of the streams, whatever the size of the
tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from avalon import dtype as dtypes
from avalon.codegen.emit import Emit, Index, Pointer, Value
from avalon.codegen.target import Target
from avalon.dtype import DType


@dataclass(frozen=True)
class Stream:
    """Elements of one operand along the sum: step k of part i is at
    `first` + `parts[i]` + (`table[k]`, or k * `step`). `masks` switch lanes off, part by part.
    """

    pointer: Pointer
    first: Index
    parts: Sequence[Index]
    step: Index = 0
    table: Pointer | None = None
    masks: Sequence[Value | None] | None = None

    def position(self, emit: Emit, k: Value) -> Value:
        """The element where part 0 stands at step `k`."""
        if self.table is not None:
            moved = emit.load(self.table, k, dtypes.int64)
        else:
            moved = emit.multiply(k, emit.index(self.step))
        return emit.add(emit.index(self.first), moved)


@dataclass(frozen=True)
class TurnedStream:
    """Elements of one operand whose steps are neighbours in memory while its lanes are not: lane l
    of vector v at step k is at `vectors[v][l]` (the sum of a value and a number) + k.
    """

    pointer: Pointer
    vectors: Sequence[Sequence[tuple[Value, int]]]


QUARTER = 4  # columns that `turned` takes at once


def summed_in(dtype: DType) -> DType:
    """The dtype in which products of `dtype` are summed."""
    return dtypes.float32 if dtype in (dtypes.float16, dtypes.bfloat16) else dtype


def lanes_of(target: Target, dtype: DType) -> int:
    """Lanes of a vector of sums: as many float32, half as many of 64 bits."""
    return target.lanes // 2 if dtype.itemsize == 8 else target.lanes


def sums(
    emit: Emit, dtype: DType, width: int, count: Index, lanes: Stream, rows: Stream, nonempty: bool,
    picked: Pointer | None = None,
) -> list[list[Value]]:  # fmt: skip
    """Sums of `count` products for every row and vector of the tile, in registers. `picked` holds
    the numbers of the steps that count, if not all do.
    """
    zero = emit.constant(0, dtype, width)
    carried = [zero] * (len(rows.parts) * len(lanes.parts))
    masks = lanes.masks or [None] * len(lanes.parts)
    with emit.loop(0, count, 1, carried, nonempty=nonempty) as loop:
        k = loop.index if picked is None else emit.load(picked, loop.index, dtypes.int64)
        at = lanes.position(emit, k)
        vectors = [
            emit.load(lanes.pointer, emit.add(at, emit.index(part)), dtype, width, mask)
            for part, mask in zip(lanes.parts, masks, strict=True)
        ]
        at = rows.position(emit, k)
        following = []
        for row, part in enumerate(rows.parts):
            scalar = emit.load(rows.pointer, emit.add(at, emit.index(part)), dtype)
            spread = emit.broadcast(scalar, width)
            for column, vector in enumerate(vectors):
                held = loop.values[row * len(vectors) + column]
                following.append(emit.fma(spread, vector, held))
        loop.next(*following)
    per_row = len(lanes.parts)
    results = list(loop.results)
    return [results[i : i + per_row] for i in range(0, len(results), per_row)]


def turned_sums(
    emit: Emit, dtype: DType, count: Index, lanes: TurnedStream, rows: Stream
) -> list[list[Value]]:
    """As `sums`, for lanes that are turned in registers on their way: worth it for few rows."""
    width, count = len(lanes.vectors[0]), emit.index(count)
    zero = emit.constant(0, dtype, width)
    carried = [zero] * (len(rows.parts) * len(lanes.vectors))
    rest = emit.bit_and(count, QUARTER - 1)
    whole = emit.subtract(count, rest)

    def added(k: Value, held: Sequence[Value], vectors: Sequence[Value]) -> list[Value]:
        at = rows.position(emit, k)
        following = []
        for row, part in enumerate(rows.parts):
            scalar = emit.load(rows.pointer, emit.add(at, emit.index(part)), dtype)
            spread = emit.broadcast(scalar, width)
            for column, vector in enumerate(vectors):
                total = held[row * len(vectors) + column]
                following.append(emit.fma(spread, vector, total))
        return following

    with emit.loop(0, whole, QUARTER, carried) as loop:
        columns = []
        for lane_places in lanes.vectors:
            strip = [
                emit.load(
                    lanes.pointer, emit.add(emit.add(base, loop.index), apart), dtype, QUARTER
                )
                for base, apart in lane_places
            ]
            columns.append(turned(emit, strip))
        held: Sequence[Value] = loop.values
        for step in range(QUARTER):
            vectors = [column[step] for column in columns]
            held = added(emit.add(loop.index, step), held, vectors)
        loop.next(*held)
    with emit.loop(whole, count, 1, loop.results) as tail:
        vectors = []
        for lane_places in lanes.vectors:
            vector = zero
            for lane, (base, apart) in enumerate(lane_places):
                place = emit.add(emit.add(base, tail.index), apart)
                vector = emit.insert(vector, emit.load(lanes.pointer, place, dtype), lane)
            vectors.append(vector)
        tail.next(*added(tail.index, tail.values, vectors))
    per_row, results = len(lanes.vectors), list(tail.results)
    return [results[i : i + per_row] for i in range(0, len(results), per_row)]


def add_into(
    emit: Emit,
    tile: Pointer,
    first: Index,
    parts: Sequence[int],
    found: list[list[Value]],
    is_first: Value | bool,
    masks: Sequence[Value] | None = None,
) -> None:
    """Add the sums of a block to those of the blocks before it, or to +0. Row i of the tile is kept
    at `first` + `parts[i]`; `masks` say which lanes of its vectors.
    """
    dtype, width = found[0][0].dtype, found[0][0].lanes
    nothing = emit.constant(0, dtype, width)
    for part, vectors in zip(parts, found, strict=True):
        for column, vector in enumerate(vectors):
            place = emit.add(emit.index(first), part + column * width)
            mask = masks[column] if masks else None
            before = nothing
            if is_first is not True:
                before = emit.load(tile, place, dtype, width, mask)
                if isinstance(is_first, Value):
                    before = emit.where(is_first, nothing, before)
            vector = emit.add(before, vector)
            emit.store(tile, place, vector, mask)


def turned(emit: Emit, rows: Sequence[Value]) -> list[Value]:
    """Turn many vectors of four lanes into four vectors of as many lanes: a stretch of a transposed
    matrix. Narrow stretches take few instructions, so that kernels stay quick to build.
    """
    if len(rows) == 2:
        return [emit.shuffle(rows[0], rows[1], (i, QUARTER + i)) for i in range(QUARTER)]
    quarter = len(rows) // QUARTER
    # Vector i holds the rows i, 4 + i, 8 + i, ..., so that the squares can be turned side by side.
    joined = []
    for i in range(QUARTER):
        parts = [rows[QUARTER * block + i] for block in range(quarter)]
        while len(parts) > 1:
            parts = [emit.join(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        joined.append(parts[0])
    lanes = len(rows)

    def pick(a: Value, b: Value, order: tuple[int, int, int, int]) -> Value:
        """Shuffle every square: numbers from 4 on mean lanes of `b`."""
        return emit.shuffle(a, b, [
            4 * square + n if n < QUARTER else lanes + 4 * square + n - QUARTER
            for square in range(quarter)
            for n in order
        ])  # fmt: skip

    low, high = (0, 4, 1, 5), (2, 6, 3, 7)
    ab, cd = (joined[0], joined[1]), (joined[2], joined[3])
    a, b, c, d = (pick(*pair, order) for order in (low, high) for pair in (ab, cd))
    first, last = (0, 1, 4, 5), (2, 3, 6, 7)
    return [pick(a, b, first), pick(a, b, last), pick(c, d, first), pick(c, d, last)]


def turn_into(
    emit: Emit, source: Pointer, shape: tuple[int, int], target: Pointer, stride: int, dtype: DType,
    width: int,
) -> None:  # fmt: skip
    """Transpose a matrix in memory; rows are taken `width` at a time, and the target's are `stride`
    apart.
    """
    rows, columns = shape
    with (
        emit.loop(0, rows, width, nonempty=True) as row,
        emit.loop(0, columns, QUARTER, nonempty=True) as column,
    ):
        at = emit.add(emit.multiply(row.index, columns), column.index)
        strip = [
            emit.load(source, emit.add(at, i * columns), dtype, QUARTER) for i in range(width)
        ]
        at = emit.add(emit.multiply(column.index, stride), row.index)
        for i, values in enumerate(turned(emit, strip)):
            emit.store(target, emit.add(at, i * stride), values)
