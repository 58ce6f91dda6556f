"""The graph: an ordered list of nodes, inputs, outputs, and the verbs that edit it.

Comes in: calls recorded by tracing or written by hand. Goes out: what autograd, the rewriter and
the scheduler read and edit. Guaranteed: operands come before their users; every call has the shape
and dtype that its primitive's rule gives; nothing here is recursive and every verb takes time in
proportion to what it touches, so that 100,000 nodes work.

Nodes are references that survive edits: they stay the same objects wherever others are inserted or
removed, and `current` tells what took the place of one that was replaced.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from avalon.dtype import DType
from avalon.errors import GraphError
from avalon.graph.node import Call, Constant, Input, Node, Source
from avalon.graph.primitive import Primitive, lookup
from avalon.graph.show import show
from avalon.graph.signature import Signature, signature
from avalon.shape import Shape

# Nodes are linked in order and carry labels that grow along it, with gaps, so that an insertion
# renumbers nothing and two nodes can be compared without a search.
_GAP = 1 << 60


class Graph:
    """A program over values: nodes in an order in which they can be computed.

    Attributes:
        inputs: what comes from outside, in the order in which it is handed over.
        outputs: the nodes that the program puts out; assign a list.
        note: why the nodes that are made next exist.
        source: where the nodes that are made next come from.

    >>> from avalon import ops
    >>> from avalon.dtype import float32
    >>> graph = Graph("softened")
    >>> x = graph.input((3,), float32, "x")
    >>> graph.outputs = [ops.tanh(x) * 0.5]
    >>> print(graph)
    def softened(graph):
        x = graph.input((3,), float32, 'x')                   # float32 (3,)
        v1 = ops.tanh(x)                                      # float32 (3,)
        v2 = graph.constant(0.5, (3,), float32)               # float32 (3,)
        v3 = ops.multiply(v1, v2)                             # float32 (3,)
        graph.outputs = [v3]
    <BLANKLINE>
    """

    __slots__ = (
        "__weakref__",
        "_count",
        "_cursor",
        "_end",
        "_first",
        "_listed",
        "_replaced",
        "_users",
        "inputs",
        "name",
        "note",
        "outputs",
        "source",
    )

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self.inputs: list[Input] = []
        self.outputs: list[Node] = []
        self.note = ""
        self.source: Source = None
        self._first: Node | None = None
        self._end: Node | None = None
        self._count = 0
        self._listed: list[Node] | None = []  # the nodes as a list, or None after an edit
        self._cursor: Node | None = None  # new nodes go before this one, at the end if None
        self._users: dict[Node, dict[Node, None]] | None = None  # made when first asked for
        self._replaced: dict[Node, Node] = {}

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return (
            f"<graph {self.name}: {len(self.inputs)} inputs, {self._count} nodes, "
            f"{len(self.outputs)} outputs>"
        )

    def __str__(self) -> str:
        """The graph as Python that rebuilds it."""
        return show(self)

    @property
    def nodes(self) -> list[Node]:
        """All nodes, operands before users. Read it; change the graph by its verbs."""
        if self._listed is None:
            self._listed = []
            node = self._first
            while node is not None:
                self._listed.append(node)
                node = node.next
        return self._listed

    # --- making nodes ---------------------------------------------------------------------------

    def input(self, shape: Shape, dtype: DType, name: str = "", scalar: bool = False) -> Input:
        """Append an input."""
        node = Input(self, shape, dtype, self.note, self.source)
        node.name = name or f"x{len(self.inputs)}"
        node.scalar = scalar
        self.inputs.append(node)
        self._place(node)
        return node

    def constant(self, value: Any, shape: Shape, dtype: DType) -> Constant:
        """Append a constant: `value` in every element of `shape`."""
        node = Constant(self, shape, dtype, self.note, self.source)
        node.value = value
        self._place(node)
        return node

    def call(
        self, primitive: Primitive, operands: Sequence[Node], parameters: dict[str, Any]
    ) -> Call:
        """Append a call; its shape and dtype come from the primitive's rule."""
        shape, dtype = primitive.infer(operands, parameters)
        return self.known_call(primitive, tuple(operands), parameters, shape, dtype)

    def call_several(
        self, primitive: Primitive, operands: Sequence[Node], parameters: dict[str, Any]
    ) -> tuple[Call, ...]:
        """Append a call of several results and a `result` for each, which are returned."""
        bundle = self.call(primitive, operands, parameters)
        project = lookup("result")
        return tuple(
            self.known_call(project, (bundle,), {"index": index}, shape, dtype)
            for index, (shape, dtype) in enumerate(bundle.results)
        )

    def known_call(
        self,
        primitive: Primitive,
        operands: tuple[Node, ...],
        parameters: dict[str, Any],
        shape: Shape,
        dtype: DType,
    ) -> Call:
        """Append a call whose shape and dtype the rule gave before."""
        node = Call(self, shape, dtype, self.note, self.source)
        node.primitive = primitive
        node.operands = operands
        node.parameters = parameters
        self._place(node)
        if self._users is not None:
            for operand in operands:
                self._users.setdefault(operand, {})[node] = None
        return node

    def append(self, primitive: Primitive, *operands: Node, **parameters: Any) -> Call:
        """Append a call: `graph.append(add, a, b)`."""
        return self.call(primitive, operands, parameters)

    def insert_before(
        self, node: Node, primitive: Primitive, *operands: Node, **parameters: Any
    ) -> Call:
        """Insert a call in front of `node`.

        Raises:
            GraphError: if an operand comes at or after `node`.
        """
        late = next((operand for operand in operands if operand.order >= node.order), None)
        if late is not None:
            raise GraphError(
                f"[insert_before] an operand of {primitive.name} with shape {late.shape} is "
                "computed at or after the node in front of which the call should be"
            )
        with self.before(node):
            return self.call(primitive, operands, parameters)

    @contextmanager
    def before(self, node: Node) -> Iterator[None]:
        """Inside the `with` block, new nodes go in front of `node` instead of to the end."""
        outer, self._cursor = self._cursor, node
        try:
            yield
        finally:
            self._cursor = outer

    def _place(self, node: Node) -> None:
        """Link a new node in: at the end, or in front of the cursor."""
        self._count += 1
        following = self._cursor
        if following is None:
            ahead = self._end
            node.order = _GAP if ahead is None else ahead.order + _GAP
            self._end = node
            if self._listed is not None:
                self._listed.append(node)
        else:
            ahead = following.previous
            node.order = self._label_between(ahead, following)
            following.previous = node
            self._listed = None
        node.previous, node.next = ahead, following
        if ahead is None:
            self._first = node
        else:
            ahead.next = node

    def _label_between(self, ahead: Node | None, following: Node) -> int:
        """A free label, nearer to `ahead`: one insertion after the other in one place is usual."""
        gap = following.order - (0 if ahead is None else ahead.order)
        if gap < 2:
            for position, node in enumerate(self.nodes, 1):
                node.order = position * _GAP
            gap = _GAP
        return following.order - gap + max(1, gap >> 5)

    def _unlink(self, node: Node) -> None:
        self._count -= 1
        self._listed = None
        if node.previous is None:
            self._first = node.next
        else:
            node.previous.next = node.next
        if node.next is None:
            self._end = node.previous
        else:
            node.next.previous = node.previous
        if isinstance(node, Input):
            self.inputs.remove(node)

    # --- looking --------------------------------------------------------------------------------

    def users(self, node: Node) -> list[Node]:
        """The calls that have `node` as an operand."""
        return list(self._user_table().get(node, ()))

    def _user_table(self) -> dict[Node, dict[Node, None]]:
        if self._users is None:
            self._users = {}
            for node in self.nodes:
                if isinstance(node, Call):
                    for operand in node.operands:
                        self._users.setdefault(operand, {})[node] = None
        return self._users

    def current(self, node: Node) -> Node:
        """What stands for `node` now: itself, or what it was replaced by."""
        while node in self._replaced:
            node = self._replaced[node]
        return node

    def signature(self) -> Signature:
        """The key of the graph's structure. All nodes count: drop dead code first."""
        return signature(self.nodes, self.inputs, self.outputs)

    # --- editing --------------------------------------------------------------------------------

    def replace(self, old: Node, new: Node) -> None:
        """Let `new` stand for `old` in the outputs and in every call after `new`.

        `old` leaves the graph unless a call before `new` (one that `new` was made from) uses it.

        Raises:
            GraphError: if shape or dtype differ.
        """
        if old is new:
            return
        if old.shape != new.shape or old.dtype is not new.dtype:
            raise GraphError(
                f"[replace] {new.dtype.name} {new.shape} cannot stand for "
                f"{old.dtype.name} {old.shape}"
            )
        table = self._user_table()
        uses = table.get(old, {})
        moved = [user for user in uses if user.order > new.order]
        for user in moved:
            del uses[user]
            assert isinstance(user, Call)
            user.operands = tuple(new if operand is old else operand for operand in user.operands)
            table.setdefault(new, {})[user] = None
        if old in self.outputs:
            self.outputs = [new if node is old else node for node in self.outputs]
        self._replaced[old] = new
        if not uses and not isinstance(old, Input):
            self.remove(old)

    def remove(self, node: Node) -> None:
        """Take a node out of the graph.

        Raises:
            GraphError: if something uses it, or it is an output.
        """
        users = self._user_table().get(node)
        if users or node in self.outputs:
            used_by = next(iter(users)) if users else None
            name = used_by.primitive.name if isinstance(used_by, Call) else "the outputs"
            raise GraphError(
                f"[remove] the node is used by {name}; replace it there first, or use "
                "remove_dead_code to drop everything that no output needs"
            )
        table = self._user_table()
        if isinstance(node, Call):
            for operand in node.operands:
                table.get(operand, {}).pop(node, None)
        self._unlink(node)

    def keep_only(self, kept: Collection[Node]) -> None:
        """Drop every node that is not in the set `kept`, which must hold all operands of its
        members and the outputs.
        """
        for node in self.nodes:
            if node not in kept:
                self._unlink(node)
        self._users = None

    def inline(self, body: Graph, operands: Sequence[Node]) -> list[Node]:
        """Append a copy of all calls of `body`, with `operands` for its inputs; returns the nodes
        that stand for its outputs.

        Raises:
            GraphError: if the operands do not fit the inputs.
        """
        given = [(node.shape, node.dtype) for node in operands]
        wanted = [(node.shape, node.dtype) for node in body.inputs]
        if given != wanted:
            raise GraphError(
                f"[inline] {body.name} takes {_list(wanted)}; {_list(given)} were given"
            )
        copies: dict[Node, Node] = dict(zip(body.inputs, operands, strict=True))
        outer = self.note, self.source
        for node in body.nodes:
            self.note, self.source = node.note, node.source
            if isinstance(node, Constant):
                copies[node] = self.constant(node.value, node.shape, node.dtype)
            elif isinstance(node, Call):
                arguments = tuple(copies[operand] for operand in node.operands)
                copies[node] = self.known_call(
                    node.primitive, arguments, node.parameters, node.shape, node.dtype
                )
        self.note, self.source = outer
        return [copies[node] for node in body.outputs]

    def copy(self) -> Graph:
        """A graph of the same structure, names and notes, of new nodes."""
        twin = Graph(self.name)
        for node in self.inputs:
            twin.note, twin.source = node.note, node.source
            twin.input(node.shape, node.dtype, node.name, node.scalar)
        twin.note, twin.source = self.note, self.source
        twin.outputs = twin.inline(self, twin.inputs)
        return twin


def _list(types: Sequence[tuple[Shape, DType]]) -> str:
    return ", ".join(f"{dtype.name} {shape}" for shape, dtype in types) or "nothing"
