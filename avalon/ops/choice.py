"""How calls say "the element at a place": a mask that is true at one place of each row.

Comes in: nodes. Goes out: the calls that such a pattern is made of, or None where it is another.
Guaranteed: nothing is changed; what is recognised is the pattern itself, whoever recorded it.
"""

from __future__ import annotations

from typing import NamedTuple

from avalon.graph.node import Call, Constant, Node


class Choice(NamedTuple):
    """A mask that holds where the position along `axis` is `place` (without that axis)."""

    place: Node
    axis: int


def called(node: Node, name: str) -> Call | None:
    """The node, if it is a call of the primitive of this name."""
    return node if isinstance(node, Call) and node.primitive.name == name else None


def choice_of(mask: Node) -> Choice | None:
    """What equal(iota along an axis, a place for each row) chooses."""
    compared = called(mask, "equal")
    if compared is None:
        return None
    positions = called(compared.operands[0], "iota")
    spread = called(compared.operands[1], "broadcast")
    lone = called(spread.operands[0], "reshape") if spread is not None else None
    if positions is None or lone is None:
        return None
    axis, place = positions.parameters["axis"], lone.operands[0]
    rows = mask.shape[:axis] + mask.shape[axis + 1 :]
    kept = (*mask.shape[:axis], 1, *mask.shape[axis + 1 :])
    return Choice(place, axis) if (place.shape, lone.shape) == (rows, kept) else None


def is_zero(node: Node) -> bool:
    """Whether a node is the constant 0, not -0.0."""
    return isinstance(node, Constant) and str(node.value) in ("0", "0.0")


def picked_extreme(total: Call) -> Call | None:
    """The argmax or argmin whose element of its own operand a sum picks:
    reduce_sum(where(position is argmax(x), x, 0)).
    """
    masked = called(total.operands[0], "where")
    if total.primitive.name != "reduce_sum" or masked is None or not is_zero(masked.operands[2]):
        return None
    choice = choice_of(masked.operands[0])
    if choice is None or total.parameters["axes"] != (choice.axis,):
        return None
    found = called(choice.place, "argmax") or called(choice.place, "argmin")
    if found is None or found.parameters["axis"] != choice.axis:
        return None
    return found if found.operands[0] is masked.operands[1] else None
