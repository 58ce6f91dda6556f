"""What a rewrite rule is: the primitive whose calls it looks at, and what it puts in their place.

Comes in: a function of one Call. Goes out: a `Rule` with a name, which is a switch too.
The function returns the node that computes the same (an operand, an older node, or new calls made
with ordinary operations, which land in front of the call), or None if the rule does not apply.

    @rule(transpose)
    def transpose_of_transpose(call):
        '''transpose(transpose(x, p), q) = transpose(x, q after p)'''
        ...

Guaranteed: rules keep every bit of the result: NaN, infinities, signed zeros and rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from avalon.graph.node import Call, Constant, Node
from avalon.graph.primitive import Primitive
from avalon.switches import declare as declare_switch


class Rule(NamedTuple):
    """A rewrite rule.

    Attributes:
        name: what it is called in `disabled=` and in notes.
        primitives: the primitives whose calls it may replace.
        apply: from a call to its replacement, or None.
    """

    name: str
    primitives: tuple[Primitive, ...]
    apply: Callable[[Call], Node | None]


def rule(*primitives: Primitive) -> Callable[[Callable[[Call], Node | None]], Rule]:
    """Make a rewrite rule of a function; its docstring states the algebra."""

    def declare(function: Callable[[Call], Node | None]) -> Rule:
        lines = (function.__doc__ or "").strip().splitlines()
        declare_switch(function.__name__, "rule", lines[0] if lines else "")
        return Rule(function.__name__, primitives, function)

    return declare


def operand_call(call: Call, primitive: Primitive, position: int = 0) -> Call | None:
    """The call's operand, if it is itself a call of `primitive`."""
    operand = call.operands[position]
    return operand if isinstance(operand, Call) and operand.primitive is primitive else None


def constant_value(node: Node) -> Any:
    """The number of a constant; None for every other node."""
    return node.value if isinstance(node, Constant) else None


def is_number(node: Node, value: float) -> bool:
    """Whether a node is a constant of this value and, for a zero, of this sign."""
    found = constant_value(node)
    if found is None or isinstance(found, complex) or found != value:
        return False
    return value != 0 or str(float(found)) == str(float(value))
