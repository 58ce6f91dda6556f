"""Sorting: one kernel a type and direction, for every shape.

Comes in: the element type and the direction. Goes out: a kernel that writes the int64 indices which
sort each row along an axis. Guaranteed: equal elements keep their order; NaN counts as greatest, as
in PyTorch. It is a merge sort from runs of one element upward, between the two halves of a
temporary buffer, without a branch that depends on data.

Slots: x, the indices, a temporary of two int64 an element, then the extent of the axis, the
distance of its elements, and the number of rows. A unit is a row.
"""

from __future__ import annotations

from avalon import dtype as dtypes
from avalon.codegen.emit import Emit, Pointer, Value
from avalon.codegen.target import Target
from avalon.dtype import DType
from avalon.runtime.plan import Kernel


def argsort_kernel(target: Target, dtype: DType, descending: bool) -> Kernel:
    """The kernel for elements of `dtype`."""
    emit = Emit(f"argsort_{dtype.name}_{'descending' if descending else 'ascending'}", target)
    x, result, temporary = (emit.pointer(slot) for slot in range(3))
    extent, distance, rows = (emit.integer(slot) for slot in range(3, 6))
    half = emit.multiply(extent, rows)
    with emit.loop(emit.begin, emit.end) as unit:
        outer = emit.binary("udiv", unit.index, distance)
        inner = emit.binary("urem", unit.index, distance)
        base = emit.add(emit.multiply(emit.multiply(outer, extent), distance), inner)
        row = emit.multiply(unit.index, extent)
        with emit.loop(0, extent) as place:
            emit.store(temporary, emit.add(row, place.index), place.index)

        def key(index: Value, base: Value = base) -> Value:
            return emit.load(x, emit.add(base, emit.multiply(index, distance)), dtype)

        one, zero = emit.constant(1, dtypes.int64), emit.constant(0, dtypes.int64)
        with emit.while_((one, row, emit.add(row, half))) as level:
            width, source, target_row = level.values
            level.check(emit.less(width, extent))
            pair = emit.multiply(width, 2)
            runs = emit.binary("udiv", emit.subtract(emit.add(extent, pair), 1), pair)
            with emit.loop(0, runs) as run:
                low = emit.multiply(run.index, pair)
                middle = emit.minimum(emit.add(low, width), extent)
                high = emit.minimum(emit.add(low, pair), extent)
                with emit.loop(low, high, carried=(low, middle)) as place:
                    left, right = place.values
                    first = _at(
                        emit, temporary, source, emit.minimum(left, emit.subtract(middle, 1))
                    )
                    second = _at(
                        emit, temporary, source, emit.minimum(right, emit.subtract(high, 1))
                    )
                    before = _comes_before(emit, key(second), key(first), descending)
                    may_left = emit.less(left, middle)
                    may_right = emit.less(right, high)
                    takes_right = emit.bit_and(
                        may_right, emit.bit_or(emit.logical_not(may_left), before)
                    )
                    taken = emit.where(takes_right, second, first)
                    emit.store(temporary, emit.add(target_row, place.index), taken)
                    place.next(
                        emit.add(left, emit.where(takes_right, zero, one)),
                        emit.add(right, emit.where(takes_right, one, zero)),
                    )
            level.next(pair, target_row, source)
        final = level.results[1]
        with emit.loop(0, extent) as place:
            index = _at(emit, temporary, final, place.index)
            emit.store(result, emit.add(base, emit.multiply(place.index, distance)), index)
    return Kernel(emit.symbol, emit.finish())


def _at(emit: Emit, temporary: Pointer, row: Value, place: Value) -> Value:
    return emit.load(temporary, emit.add(row, place), dtypes.int64)


def _comes_before(emit: Emit, second: Value, first: Value, descending: bool) -> Value:
    """Whether the later element must come before the earlier one."""
    smaller, larger = (first, second) if descending else (second, first)
    if first.dtype is dtypes.bool_:
        return emit.bit_and(emit.logical_not(smaller), larger)
    before = emit.less(smaller, larger)
    if not first.dtype.is_floating_point:
        return before
    is_nan, ordered = emit.not_equal(larger, larger), emit.equal(smaller, smaller)
    return emit.bit_or(before, emit.bit_and(is_nan, ordered))
