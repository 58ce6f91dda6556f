"""Constant folding: calls whose operands are constants are computed now.

Comes in: a graph. Goes out: the same graph with constants in the place of such calls. Guaranteed:
only what NumPy computes to the same bits as the kernels is folded: exactly rounded arithmetic,
comparisons, choices, conversions, and movements of one repeated number; never `exp` and its like,
and never a result that is NaN.
"""

from __future__ import annotations

import numpy as np

from avalon import ops
from avalon.graph.interpret import evaluate
from avalon.graph.node import Call, Constant, Node
from avalon.rewrite.pattern import Rule, rule

_EXACT = (
    ops.negative, ops.absolute, ops.sqrt, ops.floor, ops.ceil, ops.round, ops.truncate,
    ops.add, ops.subtract, ops.multiply, ops.divide,
    ops.less, ops.less_equal, ops.equal, ops.not_equal,
    ops.logical_not, ops.bit_not, ops.bit_and, ops.bit_or, ops.bit_xor,
    ops.shift_left, ops.shift_right, ops.where, ops.cast,
)  # fmt: skip
_UNIFORM = (ops.reshape, ops.transpose, ops.broadcast, ops.reverse, ops.slice, ops.stop_gradient)


@rule(*_EXACT)
def fold_arithmetic(call: Call) -> Node | None:
    """f(constants) = the constant that f gives"""
    numbers = []
    for operand in call.operands:
        if not isinstance(operand, Constant) or operand.dtype.is_complex:
            return None
        numbers.append(np.asarray(operand.value).astype(operand.dtype.reference))
    if call.dtype.is_complex:
        return None
    value = evaluate(call.primitive, numbers, call.parameters, call.dtype).item()
    if value != value:
        return None
    return call.constant(value)


@rule(*_UNIFORM)
def fold_movements(call: Call) -> Node | None:
    """a movement of one repeated number = the number, repeated in the new shape"""
    source = call.operands[0]
    return call.constant(source.value) if isinstance(source, Constant) else None


@rule(ops.concatenate, ops.pad, ops.assign_slice, ops.assign_diagonal, ops.assign_window)
def fold_joins(call: Call) -> Node | None:
    """arrays of one same number, joined = the number, repeated in the new shape"""
    arrays = call.operands if call.primitive is ops.concatenate else call.operands[:2]
    numbers = {repr(x.value) if isinstance(x, Constant) else None for x in arrays}
    if len(numbers) != 1 or None in numbers:
        return None
    first = arrays[0]
    assert isinstance(first, Constant)
    return call.constant(first.value)


RULES: tuple[Rule, ...] = (fold_arithmetic, fold_movements, fold_joins)
