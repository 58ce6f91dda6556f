"""Algebra that keeps every bit: calls that give an operand back, or that two calls make one.

Goes out: `RULES`, for `apply_rules`. Guaranteed: no rule changes NaN, an infinity, the sign of a
zero or a rounding. So `x - 0.0 = x` is here and `x + 0.0 = x` is not (-0.0 + 0.0 is 0.0), nor are
`x * 0`, `x - x` or `power(x, 1)` (the power kernel may round). `stop_gradient` goes too: rewrite
after gradients are made.
"""

from __future__ import annotations

import math

from avalon import ops
from avalon.graph.node import Call, Constant, Node
from avalon.rewrite.pattern import Rule, constant_value, is_number, operand_call, rule

# --- arithmetic ---------------------------------------------------------------------------------


@rule(ops.multiply)
def multiply_by_one(call: Call) -> Node | None:
    """x * 1 = 1 * x = x"""
    a, b = call.operands
    if is_number(b, 1):
        return a
    return b if is_number(a, 1) else None


@rule(ops.divide)
def divide_by_one(call: Call) -> Node | None:
    """x / 1 = x"""
    a, b = call.operands
    return a if is_number(b, 1) else None


@rule(ops.divide)
def divide_by_power_of_two(call: Call) -> Node | None:
    """x / 2**k = x * 2**-k, for floats: both round the same exact value"""
    a, b = call.operands
    value = constant_value(b)
    if not call.dtype.is_floating_point or not isinstance(value, (int, float)):
        return None
    mantissa, exponent = math.frexp(value)
    if abs(mantissa) != 0.5 or abs(exponent) > 12:  # the inverse is normal in every float type
        return None
    return ops.multiply(a, call.constant(1 / value))


@rule(ops.add)
def add_nothing(call: Call) -> Node | None:
    """x + -0.0 = -0.0 + x = x for floats, x + 0 = 0 + x = x for integers"""
    a, b = call.operands
    nothing = -0.0 if call.dtype.is_floating_point else 0
    if is_number(b, nothing):
        return a
    return b if is_number(a, nothing) else None


@rule(ops.subtract)
def subtract_nothing(call: Call) -> Node | None:
    """x - 0.0 = x"""
    a, b = call.operands
    return a if is_number(b, 0) else None


@rule(ops.negative, ops.logical_not, ops.bit_not)
def undone(call: Call) -> Node | None:
    """-(-x) = x, not (not x) = x, ~(~x) = x"""
    inner = operand_call(call, call.primitive)
    return inner.operands[0] if inner else None


@rule(ops.absolute)
def absolute_of_sign(call: Call) -> Node | None:
    """|-x| = |x|, ||x|| = |x| for floats"""
    if not call.dtype.is_floating_point:
        return None
    inner = operand_call(call, ops.absolute)
    if inner is not None:
        return inner
    inner = operand_call(call, ops.negative)
    return ops.absolute(inner.operands[0]) if inner else None


@rule(ops.maximum, ops.minimum, ops.bit_and, ops.bit_or)
def same_twice(call: Call) -> Node | None:
    """max(x, x) = min(x, x) = x & x = x | x = x"""
    a, b = call.operands
    return a if a is b else None


# --- choice and conversion ----------------------------------------------------------------------


@rule(ops.where)
def where_same(call: Call) -> Node | None:
    """where(c, a, a) = a"""
    _, a, b = call.operands
    return a if a is b else None


@rule(ops.where)
def where_constant(call: Call) -> Node | None:
    """where(true, a, b) = a, where(false, a, b) = b"""
    condition, a, b = call.operands
    if not isinstance(condition, Constant):
        return None
    return a if condition.value else b


@rule(ops.where)
def where_not(call: Call) -> Node | None:
    """where(not c, a, b) = where(c, b, a)"""
    inner = operand_call(call, ops.logical_not)
    return ops.where(inner.operands[0], call.operands[2], call.operands[1]) if inner else None


@rule(ops.cast, ops.bitcast)
def cast_to_same(call: Call) -> Node | None:
    """cast(x, x's dtype) = x"""
    (x,) = call.operands
    return x if x.dtype is call.dtype else None


@rule(ops.cast)
def cast_there_and_back(call: Call) -> Node | None:
    """cast(cast(x, wider), x's dtype) = x, where wider holds every value of x's dtype"""
    inner = operand_call(call, ops.cast)
    if inner is None:
        return None
    x, wider = inner.operands[0], inner.dtype
    holds = (
        x.dtype.kind == wider.kind
        and x.dtype.itemsize < wider.itemsize
        and x.dtype.kind in ("float", "signed", "unsigned")
    )
    return x if holds and x.dtype is call.dtype else None


@rule(ops.bitcast)
def bitcast_of_bitcast(call: Call) -> Node | None:
    """bitcast(bitcast(x, s), t) = bitcast(x, t)"""
    inner = operand_call(call, ops.bitcast)
    return ops.bitcast(inner.operands[0], dtype=call.dtype) if inner else None


@rule(ops.stop_gradient)
def stop_gradient_of_value(call: Call) -> Node | None:
    """stop_gradient(x) = x, as a value"""
    return call.operands[0]


# --- movement -----------------------------------------------------------------------------------


@rule(ops.transpose)
def transpose_of_nothing(call: Call) -> Node | None:
    """transpose(x, (0, 1, ...)) = x"""
    order = call.parameters["permutation"]
    return call.operands[0] if order == tuple(range(len(order))) else None


@rule(ops.transpose)
def transpose_of_transpose(call: Call) -> Node | None:
    """transpose(transpose(x, p), q) = transpose(x, p after q)"""
    inner = operand_call(call, ops.transpose)
    if inner is None:
        return None
    order = inner.parameters["permutation"]
    combined = tuple(order[axis] for axis in call.parameters["permutation"])
    return ops.transpose(inner.operands[0], permutation=combined)


@rule(ops.transpose)
def transpose_of_product(call: Call) -> Node | None:
    """(a b)' = b' a', if nothing else reads a b: the same sums in the same order. So the gradient
    of a weight is computed as the weight lies.
    """
    product: Node = call.operands[0]
    path = [product]
    if isinstance(product, Call) and product.primitive is ops.reshape:
        if product.operands[0].shape != (1, *product.shape):
            return None
        product = product.operands[0]
        path.append(product)
    if not isinstance(product, Call) or product.primitive is not ops.contract:
        return None
    swapped = (0, 2, 1) if len(path) == 1 else (1, 0)
    if call.parameters["permutation"] != swapped:
        return None
    graph = call.graph
    if any(len(graph.users(node)) > 1 or node in graph.outputs for node in path):
        return None
    a, b = (ops.transpose(operand, permutation=(0, 2, 1)) for operand in product.operands)
    return ops.reshape(ops.contract(b, a), shape=call.shape)


@rule(ops.reshape, ops.broadcast)
def shape_kept(call: Call) -> Node | None:
    """reshape(x, x's shape) = broadcast(x, x's shape) = x"""
    (x,) = call.operands
    return x if x.shape == call.shape else None


@rule(ops.reshape, ops.broadcast)
def shape_twice(call: Call) -> Node | None:
    """reshape(reshape(x, s), t) = reshape(x, t), and so for broadcast"""
    inner = operand_call(call, call.primitive)
    return call.primitive(inner.operands[0], shape=call.shape) if inner else None


@rule(ops.slice)
def slice_of_everything(call: Call) -> Node | None:
    """slice(x, all of it) = x"""
    return call.operands[0] if call.shape == call.operands[0].shape else None


@rule(ops.slice)
def slice_of_slice(call: Call) -> Node | None:
    """slice(slice(x, a), b) = slice(x, a then b), if the starts are known"""
    inner = operand_call(call, ops.slice)
    if inner is None or len(call.operands) > 1 or len(inner.operands) > 1:
        return None
    outer, first = call.parameters, inner.parameters
    starts = tuple(
        a + b * step
        for a, b, step in zip(first["starts"], outer["starts"], first["steps"], strict=True)
    )
    steps = tuple(a * b for a, b in zip(first["steps"], outer["steps"], strict=True))
    return ops.slice(inner.operands[0], starts=starts, sizes=call.shape, steps=steps)


@rule(ops.slice)
def slice_of_concatenate(call: Call) -> Node | None:
    """slice(concatenate(.., x, ..), within x's part) = slice(x)"""
    inner = operand_call(call, ops.concatenate)
    if inner is None or len(call.operands) > 1 or 0 in call.shape:
        return None
    axis = inner.parameters["axis"]
    starts, steps = call.parameters["starts"], call.parameters["steps"]
    first = starts[axis]
    last = first + (call.shape[axis] - 1) * steps[axis]
    begin = 0
    for part in inner.operands:
        end = begin + part.shape[axis]
        if begin <= first and last < end:
            moved = tuple(first - begin if i == axis else start for i, start in enumerate(starts))
            return ops.slice(part, starts=moved, sizes=call.shape, steps=steps)
        begin = end
    return None


@rule(ops.slice)
def slice_of_its_assignment(call: Call) -> Node | None:
    """slice(assign_slice(x, u, place), place) = u"""
    inner = operand_call(call, ops.assign_slice)
    if inner is None or inner.operands[2:] != call.operands[1:]:
        return None
    update, there, here = inner.operands[1], inner.parameters, call.parameters
    same = there["starts"] == here["starts"] and there["steps"] == here["steps"]
    return update if same and update.shape == call.shape else None


@rule(ops.assign_slice)
def assignment_of_everything(call: Call) -> Node | None:
    """assign_slice(x, u, all of x) = u"""
    update = call.operands[1]
    return update if update.shape == call.shape else None


@rule(ops.assign_slice)
def assignment_twice(call: Call) -> Node | None:
    """assign_slice(assign_slice(x, u, place), v, place) = assign_slice(x, v, place)"""
    inner = operand_call(call, ops.assign_slice)
    if inner is None or inner.operands[2:] != call.operands[2:]:
        return None
    same_place = (
        inner.parameters == call.parameters and inner.operands[1].shape == call.operands[1].shape
    )
    if not same_place:
        return None
    base, update, *starts = inner.operands[0], call.operands[1], *call.operands[2:]
    return ops.assign_slice(base, update, *starts, **call.parameters)


@rule(ops.reverse)
def reverse_of_nothing(call: Call) -> Node | None:
    """reverse(x, along axes of at most one element) = x"""
    short = all(call.shape[axis] <= 1 for axis in call.parameters["axes"])
    return call.operands[0] if short else None


@rule(ops.reverse)
def reverse_of_reverse(call: Call) -> Node | None:
    """reverse(reverse(x, a), b) = reverse(x, the axes in just one of a and b)"""
    inner = operand_call(call, ops.reverse)
    if inner is None:
        return None
    axes = set(inner.parameters["axes"]) ^ set(call.parameters["axes"])
    return ops.reverse(inner.operands[0], axes=tuple(sorted(axes)))


@rule(ops.pad)
def pad_of_nothing(call: Call) -> Node | None:
    """pad(x, 0 before and after) = x"""
    amounts = (*call.parameters["low"], *call.parameters["high"])
    return None if any(amounts) else call.operands[0]


@rule(ops.concatenate)
def concatenate_of_one(call: Call) -> Node | None:
    """concatenate(x) = x"""
    return call.operands[0] if len(call.operands) == 1 else None


RULES: tuple[Rule, ...] = (
    multiply_by_one, divide_by_one, divide_by_power_of_two, add_nothing, subtract_nothing,
    undone, absolute_of_sign, same_twice, where_same, where_constant, where_not, cast_to_same,
    cast_there_and_back, bitcast_of_bitcast, stop_gradient_of_value, transpose_of_nothing,
    transpose_of_transpose, transpose_of_product, shape_kept, shape_twice, slice_of_everything,
    slice_of_slice, slice_of_concatenate, slice_of_its_assignment, assignment_of_everything,
    assignment_twice, reverse_of_nothing, reverse_of_reverse, pad_of_nothing, concatenate_of_one,
)  # fmt: skip
