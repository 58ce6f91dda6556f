"""Masks that backward passes apply: read from what is kept anyway, and where it is smallest.

Goes out: `RULES`, for `apply_rules`. Guaranteed: no rule changes a bit. So a relu between a
convolution and a pooling needs neither its own operand nor the convolution's result in the backward
pass: the pooled values tell which gradients pass.
"""

from __future__ import annotations

from avalon import ops
from avalon.graph.node import Call, Node
from avalon.ops.choice import Choice, called, choice_of, is_zero, picked_extreme
from avalon.rewrite.pattern import Rule, operand_call, rule


@rule(ops.where)
def mask_of_relu(call: Call) -> Node | None:
    """where(x <= 0, 0, g) = where(y <= 0, 0, g) with y = where(x <= 0, 0, x), if y exists: what
    follows the relu keeps y, so that nobody need keep x
    """
    mask = _closed(call)
    if mask is None or call.operands[2] is mask.operands[0]:
        return None
    x, limit = mask.operands
    for y in call.graph.users(mask):
        assert isinstance(y, Call)
        if y.order < call.order and _closed(y) is mask and y.operands[2] is x:
            return ops.where(ops.less_equal(y, limit), *call.operands[1:])
    return None


@rule(ops.where)
def mask_of_winners(call: Call) -> Node | None:
    """where(x <= 0, 0, d) = d with where(y <= 0, 0, g) for g, where y are the largest elements of
    x's windows and d folds g to where they stand: all other elements of d are 0 as they are
    """
    mask, fold = _closed(call), operand_call(call, ops.fold_window, 2)
    spread = called(_unshaped(fold.operands[0]), "where") if fold else None
    choice = choice_of(spread.operands[0]) if spread else None
    if mask is None or fold is None or spread is None or choice is None:
        return None
    x, limit = mask.operands
    chosen, gradient, none = spread.operands
    if not (_looks_at(choice, x, fold) and is_zero(none)):
        return None
    broadcast, winners = called(gradient, "broadcast"), _winners(choice, chosen, call)
    if broadcast is None or winners is None:
        return None
    row = broadcast.operands[0]
    if row.shape != (*spread.shape[: choice.axis], 1, *spread.shape[choice.axis + 1 :]):
        return None
    closed = ops.less_equal(winners, limit.constant(0, shape=winners.shape))
    passed = ops.where(ops.reshape(closed, shape=row.shape), row.constant(0), row)
    again = ops.where(chosen, ops.broadcast(passed, shape=spread.shape), none)
    return ops.fold_window(ops.reshape(again, shape=fold.operands[0].shape), **fold.parameters)


def _closed(call: Call) -> Call | None:
    """The mask of where(x <= 0, 0, ...)."""
    mask = operand_call(call, ops.less_equal)
    shuts = call.primitive is ops.where and is_zero(call.operands[1])
    return mask if mask is not None and shuts and is_zero(mask.operands[1]) else None


def _unshaped(node: Node) -> Node:
    """What a reshape shapes anew."""
    shaped = called(node, "reshape")
    return shaped.operands[0] if shaped else node


def _looks_at(choice: Choice, x: Node, fold: Call) -> bool:
    """Whether the places are those of the largest elements of x's windows, of the fold's own."""
    place = called(choice.place, "argmax")
    windows = called(_unshaped(place.operands[0]), "window") if place else None
    if windows is None or windows.operands[0] is not x:
        return False
    return {**windows.parameters, "shape": x.shape} == fold.parameters


def _winners(choice: Choice, chosen: Node, call: Call) -> Call | None:
    """The sum that picks the largest elements by the same mask, if it comes before `call`."""
    for masked in call.graph.users(chosen):
        for total in call.graph.users(masked):
            assert isinstance(total, Call)
            if total.order < call.order and picked_extreme(total) is choice.place:
                return total
    return None


RULES: tuple[Rule, ...] = (mask_of_relu, mask_of_winners)
