"""What a nest's expressions ask of a kernel: the widest element type, the amount of arithmetic.

Comes in: expressions. Goes out: numbers that choose how a loop is vectorised. Guaranteed: shared
parts of an expression are looked at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from avalon import dtype as dtypes
from avalon.schedule.costs import cost_of_call
from avalon.schedule.loops import Apply, Expression, Extreme, Reduce, Stage


def widest_item(expression: Expression, seen: set[int]) -> int:
    """Bytes of the widest element type in an expression."""
    if id(expression) in seen:
        return 1
    seen.add(id(expression))
    widest = expression.dtype.itemsize
    if expression.dtype in (dtypes.float16, dtypes.bfloat16):
        widest = 4  # computed in float32
    children: Sequence[Expression] = ()
    if isinstance(expression, Apply):
        children = expression.operands
    elif isinstance(expression, Reduce | Extreme):
        children = (expression.body,)
    for child in children:
        widest = max(widest, widest_item(child, seen))
    return widest


def operations(stage: Stage) -> int:
    """Elementary operations in the body of a stage's innermost loop, reductions left out."""
    pending, seen, total = [store.value for store in stage.stores], set[int](), 0
    while pending:
        expression = pending.pop()
        if isinstance(expression, Apply) and id(expression) not in seen:
            seen.add(id(expression))
            total += cost_of_call(expression.name)
            pending.extend(expression.operands)
    return total
