"""Which values get a buffer: the first decision of the hot tier.

Comes in: a graph. Goes out: the set of nodes that are stored; every other node is computed inside
the kernels that read it. Guaranteed: outputs, and what calls with kernels of their own read and
write, are stored; a value is computed again for each reader only where that costs less than storing
it.
"""

from __future__ import annotations

from math import ceil, prod

from avalon import dtype as dtypes
from avalon.dtype import DType
from avalon.graph.graph import Graph
from avalon.graph.node import Call, Constant, Input, Node
from avalon.graph.primitive import Elementwise, Movement, Reduction
from avalon.schedule import order
from avalon.schedule.bodies import LOOPS
from avalon.schedule.calls import LINEAR, SPECIAL, live_calls, totals_rows, window_on
from avalon.schedule.concatenation import nested
from avalon.schedule.costs import cost_of_call
from avalon.schedule.pull import RULES, SMALL_REDUCTION, lowering_of
from avalon.schedule.pull_products import MOST, is_short_product
from avalon.schedule.pull_values import places_one
from avalon.schedule.split import splits
from avalon.shape import size_of
from avalon.size import few, hint
from avalon.switches import Switch, declare

# Calls that read whole buffers, as they lie.
WHOLE = frozenset(("argsort", *LOOPS))
_STORING = 6  # operations that writing and reading an element back may cost
_NEAR = 4  # operations that are done again rather than read, if what they start from is read
_SMALL = 16  # how many times smaller a value is that costs nothing to read
_LARGEST = 200  # calls that one kernel takes in
_TRIVIAL = 2  # operations that are never worth a buffer
_NUMBER = 16  # operations on numbers that every kernel does for itself, once a chunk
_BYTE = 127  # largest position that a byte holds
_DEEPEST = 40  # calls in a row that one kernel takes in
_REDUCTIONS = frozenset(
    ("reduce_sum", "reduce_product", "reduce_max", "reduce_min", "argmax", "argmin")
)


FUSE_ELEMENTWISE = declare(
    "fuse elementwise", "fusion", "elementwise calls are computed in the kernels that read them"
)
FUSE_REDUCTIONS = declare(
    "fuse reductions", "fusion", "reductions compute what they reduce, and their readers them"
)
FUSE_MOVEMENTS = declare(
    "fuse movements", "fusion", "readers look through transposes, slices, pads and the like"
)
FUSE_LOOKUPS = declare(
    "fuse lookups", "fusion", "gathers, counters and random bits are computed where they are read"
)
SHARE_BUFFERS = declare(
    "share buffers", "memory", "a stored reshape lies in the buffer of what it reshapes"
)
NARROW = declare("narrow positions", "memory", "small positions lie in buffers of bytes")

Kind = tuple[tuple[int, ...], int]


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
        self._size: dict[Node, int] = {}  # calls in front, those on several paths counted often
        self._depth: dict[Node, int] = {}
        self._level: dict[Node, int] = {}  # calls with loops of their own that come before
        self._numbers: dict[Node, float] = {}  # operations that make a number of arguments
        self._keep_apart()
        self._must_store()
        self._weigh()
        self._share()

    def depth(self, node: Call) -> int:
        """Calls in a row from the stored values that a stored call reads to itself."""
        waiting = [self._depth.get(x, 0) for x in node.operands if x not in self.stored]
        return 1 + max(waiting, default=0)

    def is_special(self, node: Node) -> bool:
        """Whether a call has steps of its own."""
        return isinstance(node, Call) and has_own_steps(node)

    def _keep_apart(self) -> None:
        """Store what a switch that is off does not let into other kernels."""
        for node in self.calls:
            if not _switch_of(node).on:
                self.stored.add(node)
                if node.primitive.kind is Reduction:
                    self.stored.update(x for x in node.operands if isinstance(x, Call))

    def _must_store(self) -> None:
        for node in self.graph.outputs:
            self._store(node)
        in_parts = nested(self.calls, self.graph.outputs)
        for node in self.calls:
            if not has_own_steps(node) or node in in_parts:
                continue
            self.stored.add(node)
            name = lowering_of(node.primitive)
            strided = name in ("contract", "convolve")
            if strided or name in WHOLE or totals_rows(node):
                for operand in node.operands:
                    self._store_base(operand, strided)

    def _store(self, node: Node, only_read: bool = False) -> None:
        """Store a node, or, if it only renames another's elements, that one: an input too, if the
        node is `only_read`.
        """
        while (
            SHARE_BUFFERS.on
            and isinstance(node, Call)
            and node not in self.stored
            and node.primitive.kind is not Elementwise
            and lowering_of(node.primitive) in ("reshape", "copy", "transfer")
            and (isinstance(node.operands[0], Call) or (only_read and _is_memory(node.operands[0])))
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
        """Store what a window that a kernel reads through looks into: the value farthest back from
        which the operand's elements lie at strides.
        """
        bases = [node]
        last = node
        while strided and isinstance(last, Call) and lowering_of(last.primitive) in LINEAR:
            last = last.operands[0]
            bases.append(last)
        for base in reversed(bases[1:]):
            if is_a_number(base) or window_on(node, {base}.__contains__) is None:
                continue
            if base is not last:
                self._store(base)
            elif isinstance(base, Call):
                self.stored.add(base)
            return
        self._store(node, only_read=True)

    def _weigh(self) -> None:
        """Store what would be computed too often, or is too long for one kernel."""
        for node in self.calls:
            self._measure(node)
        # How often a value is wanted, for each kind of kernel that wants it: kernels of one shape
        # that wait for equally many others are likely to become one, which computes it once.
        wanted: dict[Node, dict[Kind, float]] = {}
        nested: set[Node] = set()  # computed inside another reduction
        for node in reversed(self.calls):
            size = hint(size_of(node.shape)) or 1
            by_kind = wanted.get(node, {})
            ratio = sum(by_kind.values()) / size
            is_free = node in self.stored or node in self.aliases or node in self._numbers
            if not is_free and ratio > 0:
                large = is_large_reduction(node)
                if large and (ratio > 1.001 or node in nested):
                    self.stored.add(node)
                elif (
                    ratio > 1.001
                    and self._cost(node) > _TRIVIAL
                    and self._cost(node) * (ratio - 1) > _STORING
                    and not self._is_near(node)
                ):
                    self.stored.add(self._best_place(node))
            if node in self.stored:
                by_kind = {(node.shape, self._level[node]): float(size)}
            deep = is_large_reduction(node) or (node not in self.stored and node in nested)
            for operand, pulls in zip(node.operands, pulls_of(node), strict=True):
                known = wanted.setdefault(operand, {})
                for kind, count in by_kind.items():
                    known[kind] = max(known.get(kind, 0.0), count * pulls)
                if deep:
                    nested.add(operand)

    def _is_near(self, node: Call) -> bool:
        """Whether a node follows by a few operations from one stored value and from small ones, as
        what is normalized does from what it was: reading that one costs no more than reading the
        node, and it need not be written.
        """
        large: set[Node] = set()
        seen: set[Node] = {node}
        pending: list[Node] = [node]
        spent = 0.0
        while pending:
            current = pending.pop()
            if hint(size_of(current.shape)) * _SMALL <= hint(size_of(node.shape)):
                continue
            if current in self.stored or not isinstance(current, Call):
                large.add(current)
                continue
            if current.primitive.kind is not Elementwise and not _only_spreads(current):
                return False
            spent += self._own(current)
            pending += [operand for operand in current.operands if operand not in seen]
            seen.update(current.operands)
        return spent <= _NEAR and len(large) == 1 and self._bytes(*large) <= self._bytes(node)

    def _best_place(self, node: Call) -> Node:
        """What to store so that `node` is cheap for all its readers: itself, or something smaller
        from which it follows by a few operations.
        """
        best: Node = node
        spent: float = 0
        current: Node = node
        while isinstance(current, Call) and spent <= _STORING:
            if self._bytes(current) < self._bytes(best) or _only_moves(best):
                best = current
            spent += self._own(current)
            costs = [self._cost(x) if isinstance(x, Call) else 0.0 for x in current.operands]
            if is_large_reduction(current) or not costs or pulls_of(current)[0] > 1:
                break
            heaviest = max(range(len(costs)), key=costs.__getitem__)
            spent += sum(costs) - costs[heaviest]
            current = current.operands[heaviest]
            if current in self.stored or self.is_special(current):
                break
        return best

    def _bytes(self, node: Node) -> int:
        return hint(size_of(node.shape)) * stored_type(node).itemsize

    def _own(self, node: Call) -> float:
        """Operations of one element of a call, without its operands."""
        if node.primitive.kind is Elementwise:
            return float(cost_of_call(node.primitive.name))
        name = lowering_of(node.primitive)
        if name == "random_bits":
            return 150.0
        if name == "contract":
            return 2.0 * MOST
        return 4.0 if name in ("take", "gather") else 0.0

    def _cost(self, node: Node) -> float:
        """Operations of one element of a node, all that it is computed from counted once."""
        total, seen, pending = 1.0, {node}, [node]
        while pending and len(seen) < _LARGEST:
            current = pending.pop()
            if not isinstance(current, Call):
                continue
            total += self._own(current)
            for operand, pulls in zip(current.operands, pulls_of(current), strict=True):
                if operand in self.stored or not isinstance(operand, Call):
                    total += 0.5 * max(pulls, 1)
                elif operand not in seen and not is_large_reduction(current):
                    seen.add(operand)
                    if pulls > 1:
                        total += pulls * (1 + self._own(operand))
                    pending.append(operand)
        return total

    def _measure(self, node: Call) -> None:
        """Note how long the chain of calls is that ends here, and store what is too long for a
        kernel.
        """
        depth, size, level = 0, 1, 0
        for operand in node.operands:
            own_loops = is_large_reduction(operand) or self.is_special(operand)
            level = max(level, self._level.get(operand, 0) + own_loops)
            if operand not in self.stored:
                depth = max(depth, self._depth.get(operand, 0))
                size += self._size.get(operand, 0)
        self._level[node] = level
        if depth >= _DEEPEST or (size > _LARGEST and node.primitive.kind is Elementwise):
            self.stored.add(node)
            depth, size = -1, 0
        self._depth[node], self._size[node] = depth + 1, size
        self._note_number(node)

    def _note_number(self, node: Call) -> None:
        """Note a number that follows from the program's arguments by a few operations: a learning
        rate times a decay. A launch that only made it would cost more, and all would wait for it.
        """
        if node.shape or node.primitive.kind is not Elementwise:
            return
        if all(is_a_number(operand) or operand in self._numbers for operand in node.operands):
            made = self._own(node) + sum(self._numbers.get(x, 0) for x in set(node.operands))
            if made <= _NUMBER:
                self._numbers[node] = made

    def _share(self) -> None:
        """An alias of what turned out not to be stored as a call is stored itself."""
        for node, source in list(self.aliases.items()):
            if not (source in self.stored or source in self.aliases or _is_memory(source)):
                self.stored.add(node)
                del self.aliases[node]


def stored_type(node: Node) -> DType:
    """The type in which a value lies in a buffer that only this program reads: positions along
    short axes fit into a byte.
    """
    if not isinstance(node, Call) or node.primitive.name not in ("argmax", "argmin"):
        return node.dtype
    if not NARROW.on:
        return node.dtype
    extent = node.operands[0].shape[node.parameters["axis"]]
    return dtypes.int8 if few(extent, _BYTE) else node.dtype


def _switch_of(node: Call) -> Switch:
    """What lets a call into the kernels that read it."""
    if node.primitive.kind is Elementwise:
        return FUSE_ELEMENTWISE
    if node.primitive.kind is Reduction:
        return FUSE_REDUCTIONS
    return FUSE_MOVEMENTS if node.primitive.kind is Movement else FUSE_LOOKUPS


def is_a_number(node: Node) -> bool:
    """Whether a node is a number in the program's text or among its arguments, not in memory."""
    return isinstance(node, Constant) or (isinstance(node, Input) and node.scalar)


def _is_memory(node: Node) -> bool:
    """Whether a node is an array that the program is handed."""
    return isinstance(node, Input) and not node.scalar


def _only_spreads(node: Call) -> bool:
    """Whether a call gives its operand's elements where they are, or to whole axes."""
    return lowering_of(node.primitive) in ("reshape", "broadcast", "copy")


def _only_moves(node: Node) -> bool:
    return isinstance(node, Call) and node.primitive.kind is Movement


def has_own_steps(node: Call) -> bool:
    """Whether a call has steps of its own, so that its value must be stored."""
    if node.primitive.kind is Elementwise:
        return False
    name = lowering_of(node.primitive)
    if name in ("scatter", "scatter_add"):
        return not places_one(node)
    if splits(node):
        return True
    if is_short_product(node):
        return False
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
    return not few(prod(plan.extents), SMALL_REDUCTION) or len(plan.groups) > 1


def pulls_of(node: Call) -> list[float]:
    """How many elements of each operand one element of a call reads."""
    count = len(node.operands)
    if node.primitive.kind is Elementwise:
        return [1.0] * count
    name = lowering_of(node.primitive)
    if is_short_product(node):
        return [float(node.operands[0].shape[2])] * count
    if name in _REDUCTIONS:
        (x,) = node.operands
        return [(hint(size_of(x.shape)) or 1) / (hint(size_of(node.shape)) or 1)]
    if name == "concatenate":
        whole = hint(size_of(node.shape)) or 1
        return [hint(size_of(x.shape)) / whole for x in node.operands]
    if name in ("fold_window", "assign_window"):
        taps = prod(
            ceil(size / stride)
            for size, stride in zip(
                node.parameters["sizes"], node.parameters["strides"], strict=True
            )
        )
        return [float(taps)] if count == 1 else [1.0, float(taps)]
    return [1.0] * count
