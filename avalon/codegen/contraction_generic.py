"""The kernel that contracts every shape: extents and strides are arguments, one build serves all.

Comes in: a dtype, a target, and which operand's parts lie along the lanes. Goes out: a kernel whose
slots are x, w, y and the numbers of a `Problem`. Guaranteed: the bits of the specialised kernels,
for it adds in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from avalon import dtype as dtypes
from avalon.codegen.contraction_pack import GatheredSide, Scratch, block_at, pieces, split
from avalon.codegen.contraction_problem import LONGEST_BLOCK, Problem, View, contract_problem, known
from avalon.codegen.contraction_tile import add_into, lanes_of, summed_in, sums
from avalon.codegen.emit import Emit, Pointer, Value
from avalon.codegen.target import Target
from avalon.dtype import DType
from avalon.runtime.plan import Kernel
from avalon.size import hint

_UNIT = 96  # parts of each operand in a unit of work
SPANS_UNIT = 4096  # elements of y in a unit of work of the spans' kernel
_ANY = contract_problem((1, 1, 1, 1), *(View(0, (0, 0, 0)),) * 3)


def _tile(target: Target, few_rows: bool) -> tuple[int, int]:
    """Rows and vectors of the tile of sums: small, so that it wastes little on shapes unknown."""
    if few_rows:
        return (2, 3)
    if target.registers >= 32:
        return (8, 2)
    return (4, 3) if target.has_fma else (4, 2)


@dataclass(frozen=True)
class Variant:
    """Which of the generic kernels serves a problem.

    Attributes:
        spatial: a convolution; matrix products have no positions.
        x_in_lanes: whether the lanes run along x's parts and the rows along w's, or the reverse.
        few_rows: whether there are at most two rows.
        is_partial: whether sums are wanted that are not yet rounded to a 16-bit dtype.
    """

    spatial: bool
    x_in_lanes: bool
    few_rows: bool
    is_partial: bool


def variant_for(
    target: Target, dtype: DType, problem: Problem, spatial: bool, is_partial: bool
) -> Variant:
    """The lanes run along x's parts where y is contiguous along them, unless they are too few."""
    rows, vectors = _tile(target, False)
    width = vectors * lanes_of(target, dtype)
    x_parts = hint(known(problem.images) * problem.positions)
    w_parts = hint(known(problem.channels))

    def computed(lanes: int, rows_: int) -> int:
        return ceil(lanes / width) * width * ceil(rows_ / rows) * rows

    x_cost, w_cost = computed(x_parts, w_parts), computed(w_parts, x_parts)
    x_in_lanes = x_cost <= 1.5 * w_cost if hint(problem.positions) > 1 else 1.5 * x_cost < w_cost
    few_rows = (w_parts if x_in_lanes else x_parts) <= 2
    return Variant(spatial, x_in_lanes, few_rows, is_partial)


def units(problem: Problem) -> int:
    """Units of work of the generic kernel."""
    parts = (known(problem.images) * problem.positions, known(problem.channels))
    groups = known(problem.groups) * problem.blocks.spans
    return groups * prod(-(-part // _UNIT) for part in parts)


def generic_kernel(target: Target, dtype: DType, variant: Variant) -> Kernel:
    """Build the kernel. Its slots: x, w, y, then `Problem.numbers`."""
    spatial, x_in_lanes = variant.spatial, variant.x_in_lanes
    stored = summed_in(dtype) if variant.is_partial else dtype
    names = [
        "convolve" if spatial else "contract", dtype.name, stored.name,
        "x_lanes" if x_in_lanes else "w_lanes", *(["few_rows"] if variant.few_rows else []),
    ]  # fmt: skip
    emit = Emit("_".join(names), target)
    problem = _ANY.bind(emit, 3, spatial)
    scratch = Scratch(emit)
    rows_in_tile, vectors = _tile(target, variant.few_rows)
    held, width = summed_in(dtype), lanes_of(target, dtype)
    rows = GatheredSide(
        emit, problem, not x_in_lanes, spatial, dtype, scratch, width, rows_in_tile, _UNIT,
        LONGEST_BLOCK,
    )  # fmt: skip
    lanes = GatheredSide(
        emit, problem, x_in_lanes, spatial, dtype, scratch, width, vectors * width, _UNIT,
        LONGEST_BLOCK,
    )  # fmt: skip
    tile = scratch.reserve(_UNIT * _UNIT, held)
    rows.begin()
    lanes.begin()
    row_groups, lane_groups = (pieces(emit, side.total, _UNIT) for side in (rows, lanes))
    total = emit.constant(1, dtypes.int64)
    for count in problem.counts:
        total = emit.multiply(total, emit.index(count))
    with emit.loop(emit.begin, emit.end) as unit:
        span, group, lane_group, row_group = split(
            emit, unit.index, problem.groups, lane_groups, row_groups
        )
        rows.begin_unit(group, emit.multiply(row_group, _UNIT), _UNIT)
        lanes.begin_unit(group, emit.multiply(lane_group, _UNIT), _UNIT)
        zero = emit.constant(0, held, width)
        with emit.if_(emit.equal(total, 0)), emit.loop(0, _UNIT * _UNIT, width) as i:
            emit.store(tile, i.index, zero)
        first = emit.multiply(span, emit.index(problem.per_span))
        last = emit.minimum(emit.add(first, emit.index(problem.per_span)), total)
        with emit.loop(first, last) as number:
            block = block_at(emit, problem, number.index)
            rows.begin_block(block)
            lanes.begin_block(block)
            with (
                emit.loop(0, pieces(emit, lanes.valid, lanes.width)) as panel,
                emit.loop(0, pieces(emit, rows.valid, rows.width)) as strip,
            ):
                found = sums(
                    emit, held, width, block.count, lanes.vectors(panel.index),
                    rows.stream(strip.index), nonempty=True,
                )  # fmt: skip
                place = emit.add(
                    emit.multiply(strip.index, rows.width * _UNIT),
                    emit.multiply(panel.index, lanes.width),
                )
                is_first = emit.equal(number.index, first)
                parts = [row * _UNIT for row in range(rows.width)]
                add_into(emit, tile, place, parts, found, is_first)
        _store(emit, problem, stored, group, span, rows, lanes, tile)
    return Kernel(emit.symbol, emit.finish(), scratch.size)


def _store(
    emit: Emit, problem: Problem, dtype: DType, group: Value, span: Value,
    rows: GatheredSide, lanes: GatheredSide, tile: Pointer,
) -> None:  # fmt: skip
    """Write the unit's sums to y; neighbours in memory without a scatter."""
    held, width = summed_in(dtype), lanes.lanes
    place = emit.add(
        emit.index(problem.y_offset), emit.multiply(group, emit.index(problem.y_strides[0]))
    )
    place = emit.add(place, emit.multiply(span, emit.index(problem.span_stride)))
    result = emit.offset(emit.pointer(2), place, dtype)
    with emit.loop(0, lanes.valid, width) as lane:
        mask = emit.mask_below(emit.subtract(lanes.valid, lane.index), width)
        places = emit.load(lanes.results, lane.index, dtypes.int64, width)
        start = emit.extract(places, 0)
        expected = emit.add(emit.broadcast(start, width), emit.iota(width))
        apart = emit.any_lane(emit.bit_and(mask, emit.not_equal(places, expected)))
        with emit.loop(0, rows.valid) as row:
            at = emit.add(emit.multiply(row.index, _UNIT), lane.index)
            value = emit.cast(emit.load(tile, at, held, width), dtype)
            moved = emit.load(rows.results, row.index, dtypes.int64)
            with emit.if_(apart):
                index = emit.add(places, emit.broadcast(moved, width))
                emit.scatter(result, index, value, mask)
            with emit.if_(emit.logical_not(apart)):
                emit.store(result, emit.add(start, moved), value, mask)


def spans_kernel(target: Target, dtype: DType) -> Kernel:
    """Build the kernel that adds the sums of the spans: slots partial sums, y, their number, their
    distance, the size of y. A unit is `SPANS_UNIT` elements. Both arrays are contiguous.
    """
    emit = Emit(f"spans_{dtype.name}", target)
    held, width = summed_in(dtype), lanes_of(target, dtype)
    partial, result = emit.pointer(0), emit.pointer(1)
    spans, distance, size = (emit.integer(slot) for slot in (2, 3, 4))
    with emit.loop(emit.begin, emit.end) as unit:
        begin = emit.multiply(unit.index, SPANS_UNIT)
        end = emit.minimum(emit.add(begin, SPANS_UNIT), size)
        with emit.loop(begin, end, width) as i:
            mask = emit.mask_below(emit.subtract(end, i.index), width)
            total = emit.load(partial, i.index, held, width, mask)
            with emit.loop(1, spans, carried=(total,)) as span:
                at = emit.add(emit.multiply(span.index, distance), i.index)
                span.next(emit.add(span.values[0], emit.load(partial, at, held, width, mask)))
            emit.store(result, i.index, emit.cast(span.results[0], dtype), mask)
    return Kernel(emit.symbol, emit.finish())
