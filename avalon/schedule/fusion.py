"""Which values get a buffer: the first decision of the hot tier.

Comes in: a graph. Goes out: the set of nodes that are stored; every other node is computed inside the
kernels that read it. Guaranteed: outputs, and what calls with kernels of their own read and write, are
stored; a value is computed again for each reader only where that costs less than storing it.
"""

from __future__ import annotations

from math import ceil, prod

from avalon.graph.graph import Graph
from avalon.graph.node import Call, Constant, Input, Node
from avalon.graph.primitive import Elementwise, Reduction
from avalon.schedule import order
from avalon.schedule.calls import LINEAR, SPECIAL, live_calls, window_on
from avalon.schedule.costs import cost_of_call
from avalon.schedule.pull import RULES, SMALL_REDUCTION, lowering_of, places_one
from avalon.shape import size_of

_STORING = 6  # operations that writing and reading an element back may cost
_LARGEST = 200  # operations of one element that are computed again for a second reader at all
_DEEPEST = 40  # calls in a row that one kernel takes in
_REDUCTIONS = frozenset(
    ("reduce_sum", "reduce_product", "reduce_max", "reduce_min", "argmax", "argmin")
)


class Decision:
    """Which nodes of a graph are stored, and how the rest is read.

    Attributes:
        calls: the calls that some output needs, in order.
        stored: the calls that get a buffer.
        aliases: reshapes that are stored as their operand, and that operand.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.calls = live_calls(graph)
        self.stored: set[Node] = set()
        self.aliases: dict[Node, Node] = {}
        self._full: dict[Node, float] = {}
        self._depth: dict[Node, int] = {}
        self._must_store()
        self._weigh()
        self._share()

    def is_special(self, node: Node) -> bool:
        """Whether a call has steps of its own."""
        return isinstance(node, Call) and has_own_steps(node)

    def _must_store(self) -> None:
        for node in self.graph.outputs:
            self._store(node)
        for node in self.calls:
            if not has_own_steps(node):
                continue
            self.stored.add(node)
            if lowering_of(node.primitive) in ("contract", "convolve", "argsort"):
                for operand in node.operands:
                    self._store_base(operand, lowering_of(node.primitive) != "argsort")

    def _store(self, node: Node) -> None:
        """Store a node, or, if it only renames another's elements, that one."""
        while (
            isinstance(node, Call)
            and node.primitive.kind is not Elementwise
            and lowering_of(node.primitive) in ("reshape", "copy", "transfer")
            and isinstance(node.operands[0], Call)
            and not self._is_view(node.operands[0])
            and 0 not in node.shape
        ):
            self.aliases[node] = node.operands[0]
            node = node.operands[0]
        if isinstance(node, Call):
            self.stored.add(node)

    def _is_view(self, node: Node) -> bool:
        return (
            isinstance(node, Call)
            and node.primitive.kind is not Elementwise
            and lowering_of(node.primitive) in LINEAR - {"reshape", "copy", "transfer"}
        )

    def _store_base(self, node: Node, strided: bool) -> None:
        """Store what a window that a kernel reads through looks into."""
        base = node
        while isinstance(base, Call) and lowering_of(base.primitive) in LINEAR and strided:
            base = base.operands[0]
        if base is not node and window_on(node, lambda n: n is base) is not None:
            if isinstance(base, Call):
                self.stored.add(base)
            if not isinstance(base, Constant) and not (isinstance(base, Input) and base.scalar):
                return
        self._store(node)

    def _weigh(self) -> None:
        """Store what would be computed too often, or is too long for one kernel."""
        for node in self.calls:
            self._measure(node)
        evaluations: dict[Node, float] = {}
        nested: set[Node] = set()  # computed inside another reduction
        for node in reversed(self.calls):
            size = size_of(node.shape) or 1
            wanted = evaluations.get(node, 0.0)
            ratio = wanted / size
            if node not in self.stored and node not in self.aliases:
                full = self._full[node]
                large = is_large_reduction(node)
                again = full * (ratio - 1)
                if (large and (ratio > 1.001 or node in nested)) or (
                    ratio > 1.001 and again > _STORING and full > 1
                ):
                    self.stored.add(node)
            inside = node not in self.stored
            each = wanted if inside else float(size)
            deep = is_large_reduction(node) or (inside and node in nested)
            for operand, pulls in zip(node.operands, pulls_of(node), strict=True):
                evaluations[operand] = evaluations.get(operand, 0.0) + each * pulls
                if deep:
                    nested.add(operand)

    def _measure(self, node: Call) -> None:
        """How many operations one element takes if nothing before it is stored."""
        own: float = (
            cost_of_call(node.primitive.name) if node.primitive.kind is Elementwise else 0
        )
        name = lowering_of(node.primitive)
        if name == "random_bits":
            own = 150
        elif name in ("take", "gather"):
            own = 4
        depth = 0
        for operand, pulls in zip(node.operands, pulls_of(node), strict=True):
            known = self._full.get(operand, 1.0) if operand not in self.stored else 1.0
            own += known * pulls + (pulls if node.primitive.kind is Reduction else 0)
            if operand not in self.stored:
                depth = max(depth, self._depth.get(operand, 0))
        self._depth[node] = depth + 1
        self._full[node] = own
        if is_large_reduction(node):
            return
        if own > _LARGEST and node not in self.aliases and name != "random_bits":
            heaviest = max(node.operands, key=lambda x: self._full.get(x, 1.0), default=None)
            if heaviest is not None and isinstance(heaviest, Call) and pulls_of(node)[0] > 1:
                self._store(heaviest)
        if depth + 1 > _DEEPEST and node.primitive.kind is Elementwise:
            self.stored.add(node)
            self._depth[node] = 0
            self._full[node] = 1.0

    def _share(self) -> None:
        """An alias of what turned out not to be stored as a call is stored itself."""
        for node, source in list(self.aliases.items()):
            if source not in self.stored and source not in self.aliases:
                self.stored.add(node)
                del self.aliases[node]


def has_own_steps(node: Call) -> bool:
    """Whether a call has steps of its own, so that its value must be stored."""
    if node.primitive.kind is Elementwise:
        return False
    name = lowering_of(node.primitive)
    if name in ("scatter", "scatter_add"):
        return not places_one(node)
    return (name in SPECIAL and name != "scatter") or name not in RULES


def is_large_reduction(node: Node) -> bool:
    """Whether a call is a loop of its own, not a handful of elements."""
    if not isinstance(node, Call) or node.primitive.name not in _REDUCTIONS:
        return False
    (x,) = node.operands
    if 0 in x.shape:
        return False
    if node.primitive.name in ("argmax", "argmin"):
        return x.shape[node.parameters["axis"]] > SMALL_REDUCTION
    plan = order.order_of(x.shape, node.parameters["axes"])
    return prod(plan.extents) > SMALL_REDUCTION or len(plan.groups) > 1


def pulls_of(node: Call) -> list[float]:
    """How many elements of each operand one element of a call reads."""
    count = len(node.operands)
    if node.primitive.kind is Elementwise:
        return [1.0] * count
    name = lowering_of(node.primitive)
    if name in _REDUCTIONS:
        (x,) = node.operands
        return [(size_of(x.shape) or 1) / (size_of(node.shape) or 1)]
    if name in ("fold_window", "assign_window"):
        taps = prod(
            ceil(size / stride)
            for size, stride in zip(
                node.parameters["sizes"], node.parameters["strides"], strict=True
            )
        )
        return [float(taps)] if count == 1 else [1.0, float(taps)]
    return [1.0] * count
