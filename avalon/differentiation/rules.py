"""The gradient of one call, traced once: which values it reads, and the calls that compute it.

Comes in: a primitive, the shapes and dtypes of its operands, and which operands need a cotangent.
Goes out: a `Gradient`, cached, that says which operands must be kept for it and that can be applied
to values or to tensors. Guaranteed: nothing is kept or computed that the needed cotangents do not
read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avalon.dtype import DType
from avalon.errors import AutogradError
from avalon.graph.graph import Graph
from avalon.graph.node import Call, Constant, Node
from avalon.graph.primitive import Movement, Primitive
from avalon.shape import Shape

_CAPACITY = 20_000


class Gradient:
    """A gradient rule, traced for given shapes.

    Attributes:
        reads: positions of the operands whose values it needs.
        reads_output: True if it needs the call's own result.
        keeps: True if it reads more than a movement's starts: then what it reads is given back
            after a walk, and it cannot be walked again.
        steps: (primitive, slots, parameters, shape, dtype, None) for a call, (None, (), {}, shape,
            dtype, value) for a constant. Slots count the cotangent, the result, the operands, and
            then the steps.
        results: the slot of each operand's cotangent, or None.
    """

    __slots__ = ("keeps", "reads", "reads_output", "results", "steps")

    def __init__(
        self,
        primitive: Primitive,
        kinds: Sequence[tuple[Shape, DType]],
        result: tuple[Shape, DType],
        parameters: dict[str, Any],
        needed: Sequence[bool],
    ) -> None:
        graph = Graph(f"gradient of {primitive.name}")
        cotangent = graph.input(*result, "g")
        output = graph.input(*result, "y")
        operands = [graph.input(*kind) for kind in kinds]
        made = primitive.cotangents(cotangent, output, operands, parameters)
        if len(made) != len(operands):
            raise AutogradError(
                f"[{primitive.name}] its gradient rule gives {len(made)} cotangents for "
                f"{len(operands)} operands"
            )
        wanted = [node if need else None for node, need in zip(made, needed, strict=True)]
        used = _reachable(node for node in wanted if node is not None)
        self.reads = tuple(position for position, node in enumerate(operands) if id(node) in used)
        self.reads_output = id(output) in used
        self.keeps = primitive.kind is not Movement and (bool(self.reads) or self.reads_output)
        self._trace(graph, [cotangent, output, *operands], wanted, used)

    def _trace(
        self,
        graph: Graph,
        inputs: Sequence[Node],
        wanted: Sequence[Node | None],
        used: set[int],
    ) -> None:
        slots = {id(node): slot for slot, node in enumerate(inputs)}
        self.steps: list[tuple[Any, ...]] = []
        for node in graph.nodes:
            if id(node) not in used or id(node) in slots:
                continue
            slots[id(node)] = len(slots)
            if isinstance(node, Call):
                places = tuple(slots[id(operand)] for operand in node.operands)
                self.steps.append(
                    (node.primitive, places, node.parameters, node.shape, node.dtype, None)
                )
            elif isinstance(node, Constant):
                self.steps.append((None, (), {}, node.shape, node.dtype, node.value))
        self.results = tuple(None if node is None else slots[id(node)] for node in wanted)

    def apply(self, cotangent: Any, output: Any, operands: Sequence[Any]) -> list[Any]:
        """The operands' cotangents (None where none was needed); what is not read may be None."""
        known = [cotangent, output, *operands]
        for primitive, places, parameters, shape, dtype, value in self.steps:
            if primitive is None:
                known.append(cotangent.constant(value, shape, dtype))
            else:
                arguments = tuple([known[place] for place in places])
                known.append(cotangent.apply(primitive, arguments, parameters))
        return [None if slot is None else known[slot] for slot in self.results]


def _reachable(nodes: Any) -> set[int]:
    seen: set[int] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            if isinstance(node, Call):
                waiting.extend(node.operands)
    return seen


_cache: dict[Any, Gradient] = {}


def gradient_of(
    primitive: Primitive,
    operands: Sequence[Any],
    result: Any,
    parameters: dict[str, Any],
    needed: tuple[bool, ...],
) -> Gradient:
    """The gradient of the call `primitive(*operands, **parameters)`, from the cache if seen."""
    key: Any = (
        primitive,
        needed,
        result.dtype,
        tuple([(operand.shape, operand.dtype) for operand in operands]),
        *parameters.items(),
    )
    try:
        found = _cache.get(key)
    except TypeError:  # a parameter that has no hash
        found, key = None, None
    if found is None:
        kinds = [(operand.shape, operand.dtype) for operand in operands]
        found = Gradient(primitive, kinds, (result.shape, result.dtype), parameters, needed)
        if key is not None:
            if len(_cache) >= _CAPACITY:
                _cache.clear()
            _cache[key] = found
    return found
