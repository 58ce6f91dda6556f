"""Loops of reductions inside a nest, in the order that `schedule.order` fixes.

Comes in: a `Reduce` or `Extreme` expression and the emitter that stands in the loops around it.
Goes out: its value, a scalar or one result a lane. Guaranteed: the same bits wherever the reduction
is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from avalon import dtype as dtypes
from avalon.codegen.emit import Emit, Value
from avalon.dtype import DType
from avalon.schedule.index import Axis
from avalon.schedule.loops import Extreme, Reduce
from avalon.schedule.order import LANES
from avalon.schedule.pull_values import beats

if TYPE_CHECKING:
    from avalon.codegen.loops import NestEmitter

_EXTREME_LANES = 16


def reduce(nest: NestEmitter, reduction: Reduce) -> Value:
    """The value of a reduction."""
    if reduction.form == "row":
        return _tree(nest, reduction, _total(nest, reduction, reduction.axes, LANES))
    lanes = nest.lanes.count if nest.lanes and reduction.bits & nest.lanes.bits else 1
    return _total(nest, reduction, reduction.axes, lanes)


def _combine(emit: Emit, reduction: Reduce, first: Value, second: Value) -> Value:
    result = getattr(emit, reduction.combine)(first, second)
    assert isinstance(result, Value)
    return result


def _total(nest: NestEmitter, reduction: Reduce, axes: Sequence[Axis], lanes: int) -> Value:
    """Loops over the outer reduced axes around the blocks of the innermost one."""
    identity = nest.emit.constant(reduction.identity, reduction.dtype, lanes)
    return _outer(nest, reduction, axes, identity)


def _outer(nest: NestEmitter, reduction: Reduce, axes: Sequence[Axis], total: Value) -> Value:
    emit = nest.emit
    nest.prepare_value(reduction.body, set())
    if len(axes) == 1:
        if reduction.form == "chain":
            return _rounds(nest, reduction, emit.index(0), nest.number(axes[0].extent), total)
        return _blocks(nest, reduction, total)
    extent = nest.number(axes[0].extent)
    with emit.loop(0, extent, carried=(total,)) as loop, nest.inside(axes[0], loop.index):
        loop.next(_outer(nest, reduction, axes[1:], loop.values[0]))
    return loop.results[0]


def _blocks(nest: NestEmitter, reduction: Reduce, total: Value) -> Value:
    """Each block alone from the identity on, then joined to the total."""
    emit = nest.emit
    axis = reduction.axes[-1]
    extent = nest.number(axis.extent)
    step = LANES if reduction.form == "row" else 1
    block = emit.multiply(nest.number(reduction.block), step)
    identity = emit.constant(reduction.identity, reduction.dtype, total.lanes)
    known = isinstance(extent.number, int) and isinstance(block.number, int)
    if known and int(extent.number or 0) <= int(block.number or 0):
        block_total = _rounds(nest, reduction, emit.index(0), extent, identity)
        return _combine(emit, reduction, total, block_total)
    # Known sizes leave a stop that is known too for all blocks but the last; one loop serves both.
    count = nest.quotient(emit.subtract(emit.add(extent, block), 1), block)
    with emit.loop(0, count, carried=(total,)) as loop:
        start = emit.multiply(loop.index, block)
        stop = emit.minimum(emit.add(start, block), extent)
        with nest.scope():
            block_total = _rounds(nest, reduction, start, stop, identity)
        loop.next(_combine(emit, reduction, loop.values[0], block_total))
    return loop.results[0]


def _rounds(
    nest: NestEmitter, reduction: Reduce, start: Value, stop: Value, running: Value
) -> Value:
    """The rounds of the innermost axis in [start, stop)."""
    emit, axis = nest.emit, reduction.axes[-1]
    if reduction.form != "row":
        with emit.loop(start, stop, carried=(running,)) as loop, nest.inside(axis, loop.index):
            value = emit.broadcast(nest.value(reduction.body), running.lanes)
            loop.next(_combine(emit, reduction, loop.values[0], value))
        return loop.results[0]
    return _row(nest, reduction, start, stop, running)


def _row(nest: NestEmitter, reduction: Reduce, start: Value, stop: Value, running: Value) -> Value:
    """Rounds of `LANES` elements, the last one masked: lanes past the end take the identity."""
    emit = nest.emit
    count = emit.subtract(stop, start) if start.number != 0 else stop
    if isinstance(count.number, int):
        whole = count.number // LANES * LANES
        if whole:
            with emit.loop(start, whole, LANES, carried=(running,), nonempty=True) as loop:
                loop.next(_round(nest, reduction, loop.index, None, loop.values[0]))
            running = loop.results[0]
        if count.number > whole:
            mask = emit.mask_below(count.number - whole, LANES)
            running = _round(nest, reduction, emit.index(whole), mask, running)
        return running
    rest = emit.bit_and(count, LANES - 1)
    end = emit.subtract(stop, rest)
    with emit.loop(start, end, LANES, carried=(running,)) as loop:
        loop.next(_round(nest, reduction, loop.index, None, loop.values[0]))
    with emit.if_(emit.less(end, stop), carried=loop.results) as branch:
        mask = emit.mask_below(rest, LANES)
        branch.next(_round(nest, reduction, end, mask, branch.values[0]))
    return branch.results[0]


def _round(
    nest: NestEmitter, reduction: Reduce, place: Value, mask: Value | None, running: Value
) -> Value:
    emit, axis = nest.emit, reduction.axes[-1]
    with nest.across(axis, place, LANES, mask, True):
        value = emit.broadcast(nest.value(reduction.body), LANES)
        if mask is not None:
            identity = emit.constant(reduction.identity, reduction.dtype, LANES)
            value = emit.where(mask, value, identity)
        return _combine(emit, reduction, running, value)


def _tree(nest: NestEmitter, reduction: Reduce, running: Value) -> Value:
    """Join the lanes: the first half with the second half, until one is left."""
    half = LANES // 2
    while half:
        first = nest.emit.shuffle(running, None, range(half))
        second = nest.emit.shuffle(running, None, range(half, 2 * half))
        running = _combine(nest.emit, reduction, first, second)
        half //= 2
    return running


class _Direct:
    """Applies primitives to values in registers; what `beats` needs."""

    def __init__(self, emit: Emit) -> None:
        self.emit = emit

    def apply(self, name: str, *operands: Value, dtype: DType | None = None) -> Value:
        result = getattr(self.emit, name)(*operands)
        assert isinstance(result, Value)
        return result


def extreme(nest: NestEmitter, reduction: Extreme) -> Value:
    """The position of the first largest or smallest element."""
    if reduction.across:
        return _extreme_across(nest, reduction)
    emit, axis = nest.emit, reduction.axis
    lanes = nest.lanes.count if nest.lanes and reduction.bits & nest.lanes.bits else 1
    nest.prepare_value(reduction.body, set())
    with nest.inside(axis, emit.index(0)):
        first = emit.broadcast(nest.value(reduction.body), lanes)
    position = emit.constant(0, dtypes.int64, lanes)
    extent = nest.number(axis.extent)
    with emit.loop(1, extent, carried=(first, position)) as loop, nest.inside(axis, loop.index):
        standing, best = loop.values
        here = emit.broadcast(nest.value(reduction.body), lanes)
        better = beats(_Direct(emit), here, standing, reduction.largest)
        loop.next(
            emit.where(better, here, standing),
            emit.where(better, emit.broadcast(loop.index, lanes), best),
        )
    return loop.results[1]


def _extreme_across(nest: NestEmitter, reduction: Extreme) -> Value:
    """As `extreme`, of a long row: each lane has its own, then they are compared in pairs."""
    emit, axis, body = nest.emit, reduction.axis, reduction.body
    nest.prepare_value(body, set())
    width = _EXTREME_LANES
    with nest.across(axis, emit.index(0), width, None, True):
        first = emit.broadcast(nest.value(body), width)
    count = emit.iota(width)

    def round_at(place: Value, mask: Value | None, state: Sequence[Value]) -> tuple[Value, Value]:
        standing, best = state
        with nest.across(axis, place, width, mask, True):
            here = emit.broadcast(nest.value(body), width)
            better = beats(_Direct(emit), here, standing, reduction.largest)
            if mask is not None:
                better = emit.bit_and(better, mask)
            position = emit.add(count, emit.broadcast(place, width))
            return emit.where(better, here, standing), emit.where(better, position, best)

    extent = nest.number(axis.extent)
    rest = emit.bit_and(extent, width - 1)
    whole = emit.subtract(extent, rest)
    with emit.loop(width, whole, width, carried=(first, count)) as loop:
        loop.next(*round_at(loop.index, None, loop.values))
    with emit.if_(emit.less(whole, extent), carried=loop.results) as branch:
        branch.next(*round_at(whole, emit.mask_below(rest, width), branch.values))
    value, position = branch.results
    half = width // 2
    while half:
        low, high = range(half), range(half, 2 * half)
        a, b = (emit.shuffle(value, None, part) for part in (low, high))
        i, j = (emit.shuffle(position, None, part) for part in (low, high))
        earlier = emit.less(j, i)
        stays = beats(_Direct(emit), a, b, reduction.largest)
        tied = emit.bit_and(earlier, emit.logical_not(stays))
        takes = emit.bit_or(beats(_Direct(emit), b, a, reduction.largest), tied)
        value, position = emit.where(takes, b, a), emit.where(takes, j, i)
        half //= 2
    return position
