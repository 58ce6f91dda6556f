"""Long reductions to few results, in two steps that many threads share.

Comes in: a reduction of many elements to so few results that one thread a result would leave the
others idle (the mean of a loss, the norm of a gradient). Goes out: a step that reduces each block
of `order` alone, all blocks side by side, and a step that joins the blocks. Guaranteed: the order
of `order`, and so the bits of the one nest that goes through block by block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalon.graph.node import Call
from avalon.graph.primitive import Reduction
from avalon.schedule import order
from avalon.schedule.index import ZERO, Affine, variable
from avalon.schedule.loops import Expression, Load, Number, Reduce
from avalon.schedule.pull import Puller
from avalon.schedule.pull_values import spread
from avalon.schedule.steps import Temporary
from avalon.shape import size_of
from avalon.size import is_open
from avalon.switches import declare

if TYPE_CHECKING:
    from avalon.schedule.calls import CallScheduler

SPLIT_REDUCTIONS = declare(
    "split reductions", "fusion", "the blocks of a long reduction to few results run side by side"
)

_FEW = 8  # results
_LONG = 1 << 17  # elements of each

REDUCTIONS = frozenset(("reduce_sum", "reduce_product", "reduce_max", "reduce_min"))


def splits(node: Call) -> bool:
    """Whether a call is such a reduction."""
    if not SPLIT_REDUCTIONS.on or node.primitive.kind is not Reduction:
        return False
    if node.primitive.name not in REDUCTIONS:
        return False
    (x,) = node.operands
    results = size_of(node.shape)
    if is_open(size_of(x.shape)):
        return False  # nobody knows whether it is long
    if not 0 < results <= _FEW or size_of(x.shape) < results * _LONG or x.dtype.is_complex:
        return False
    return _blocks(order.order_of(x.shape, node.parameters["axes"])) > 1


def _lanes(plan: order.Order) -> int:
    return order.LANES if plan.form == "row" else 1


def _blocks(plan: order.Order) -> int:
    """The number of blocks of the innermost reduced axis."""
    rounds = -(-plan.extents[-1] // _lanes(plan))
    return -(-rounds // plan.block)


def add_split(scheduler: CallScheduler, node: Call) -> None:
    """Append both steps."""
    (x,) = node.operands
    plan = order.order_of(x.shape, node.parameters["axes"])
    identity, combine = order.identity_and_combine(node.primitive, node.dtype)
    wide = order.accumulator(node.dtype, combine)
    counts = (*plan.extents[:-1], _blocks(plan))
    lanes = order.LANES if plan.form == "row" else 0
    blocks = Temporary((*counts, *node.shape, *([lanes] if lanes else [])), wide)

    def block(pull: Puller, at: tuple[Affine, ...]) -> Expression:
        """One block of one result, from the identity on: of one lane, if there are lanes."""
        outer, results = at[: len(counts)], iter(at[len(counts) :])
        axes = node.parameters["axes"]
        source = [ZERO if axis in axes else next(results) for axis in range(x.ndim)]
        round_ = pull.axis(plan.block)
        element = outer[-1].times(plan.block).add(variable(round_))
        if lanes:
            element = element.times(lanes).add(next(results))
        for group, place in zip(plan.groups, (*outer[:-1], element), strict=True):
            spread(source, group, x.shape, place, False)
        inside = pull.inside(element, 0, plan.extents[-1])
        guards = () if isinstance(inside, bool) else (inside,)
        value = pull.cast(pull.value(x, tuple(source), guards), wide)
        value = pull.choose(guards, value, Number(identity, wide))
        return Reduce(combine, identity, "chain", (round_,), plan.block, value)

    def total(pull: Puller, at: tuple[Affine, ...]) -> Expression:
        """The blocks one after the other, then the lanes in a tree."""
        loops = tuple(pull.axis(count) for count in counts)
        place = (*(variable(loop) for loop in loops), *at)
        lane = pull.axis(max(lanes, 1))
        if lanes:
            place = (*place, variable(lane))
        here = Load(pull.buffer(blocks), wide, pull.element(blocks, place), ())
        joined = Reduce(combine, identity, "chain", loops, 1, here)
        if lanes:
            joined = Reduce(combine, identity, "row", (lane,), 1, joined)
        return pull.cast(joined, node.dtype)

    scheduler.add(node, blocks, blocks.shape, block)
    scheduler.add(node, node, node.shape, total)
