"""Ready-made steps of elementwise calls for the cold tier.

Comes in: an elementwise call. Goes out: its step, if a call of the same primitive, types and kinds
of operands was scheduled before, whatever its shape. Guaranteed: the step that the long way gives;
it is only found faster (a graph that was never seen must be planned in microseconds a call).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from avalon.graph.node import Call, Constant, Input, Node
from avalon.graph.primitive import Elementwise
from avalon.schedule.arrange import bits_of, cut_of
from avalon.schedule.loops import Nest
from avalon.schedule.pull import lowering_of
from avalon.schedule.steps import Step
from avalon.shape import size_of
from avalon.size import hint

_KEPT = 4096
_LONGEST = 1 << 31  # longer loops count in wider integers
_templates: OrderedDict[Any, Template] = OrderedDict()


@dataclass(frozen=True)
class Template:
    """The nests of a call, whole and cut in pieces, and what one element costs. `order` tells which
    operand (the last: the result) each argument of the nest is.
    """

    nests: dict[bool, Nest]
    order: tuple[int, ...]
    scalars: tuple[bool, ...]
    cost: int

    def step(
        self, node: Call, keys: list[Node], elements: int, constants: list[int]
    ) -> Step | None:
        """The step of a call with `elements` elements, if its nest is known."""
        cut = cut_of(elements, elements, self.cost) if elements > 1 else 0
        nest = self.nests.get(bool(cut))
        if nest is None:
            return None
        chosen: list[Any] = [
            ("scalar", keys[place]) if scalar else keys[place]
            for place, scalar in zip(self.order, self.scalars, strict=True)
        ]
        numbers = [cut, elements, *constants] if cut else [elements, *constants]
        work = -(-elements // cut) if cut else 1
        written = frozenset((self.order.index(len(keys) - 1),))
        return Step(nest, chosen, written, (node,), numbers, work, elements * self.cost)


def describe(
    node: Call, ready: Collection[Node], reads_through: bool
) -> tuple[Any, list[Node], list[int]] | None:
    """What the template of a call depends on, the values that its operands come from, and the bits
    of constants that are handed over; None if an operand does not lie like the result.
    """
    elements = size_of(node.shape)
    if elements < 2 or elements >= _LONGEST or node.dtype.is_complex:
        return None
    kinds: list[Any] = []
    sources: list[Node] = []
    constants: list[int] = []
    for operand in node.operands:
        source, spread = operand, False
        while (
            reads_through
            and isinstance(source, Call)
            and source not in ready
            and source.primitive.kind is not Elementwise
            and lowering_of(source.primitive) in ("broadcast", "reshape", "copy", "transfer")
        ):
            spread = spread or size_of(source.shape) != size_of(source.operands[0].shape)
            source = source.operands[0]
        kind: Any
        if isinstance(source, Constant):
            bits = bits_of(source.value, source.dtype)
            kind = (type(source.value), repr(source.value)) if bits is None else "number"
            if bits is not None and source not in sources:
                constants.append(bits)
        elif isinstance(source, Input) and source.scalar:
            kind = "scalar"
        elif source not in ready:
            return None
        elif size_of(source.shape) == 1:
            kind = "one"
        elif spread:
            return None
        else:
            kind = "all"
        first = sources.index(source) if source in sources else len(sources)
        kinds.append((kind, source.dtype.name, first))
        sources.append(source)
    parameters = tuple(sorted(node.parameters.items())) if node.parameters else ()
    return (node.primitive, node.dtype.name, parameters, tuple(kinds)), sources, constants


def find(key: Any) -> Template | None:
    return _templates.get(key)


def keep(
    key: Any, step: Step, operands: list[Node], constants: list[int], node: Call, elements: int
) -> None:
    """Remember the step of a call for others of its kind, if it is one flat loop."""
    numbers = step.numbers
    # What one element costs is a number, while the others may be formulas that no division undoes.
    cost: int = hint(step.cost) // hint(elements)
    cut = cut_of(elements, elements, cost)
    expected = [cut, elements, *constants] if cut else [elements, *constants]
    if numbers != expected or step.nest.units:
        return
    values = [*operands, node]
    order, scalars = [], []
    for argument in step.keys:
        scalar = isinstance(argument, tuple)
        value = argument[1] if scalar else argument
        if value not in values:
            return
        order.append(values.index(value))
        scalars.append(scalar)
    known = _templates.get(key)
    nests = dict(known.nests) if known is not None else {}
    nests[bool(cut)] = step.nest
    _templates[key] = Template(nests, tuple(order), tuple(scalars), cost)
    if len(_templates) > _KEPT:
        _templates.popitem(last=False)
