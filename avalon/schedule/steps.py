"""What a schedule is: steps, each of which becomes one launch, over nodes and temporaries.

Comes in: nothing but what schedulers put in. Goes out: to `codegen.assemble`, which makes a `Plan`
of it. Guaranteed: steps are in an order in which they can run; each names what it reads and writes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from avalon.dtype import DType
from avalon.graph.graph import Graph
from avalon.graph.node import Call, Node
from avalon.schedule.loops import Nest
from avalon.shape import Shape, contiguous_strides


@dataclass(eq=False)
class Temporary:
    """A buffer that no node has: partial results of a call."""

    shape: Shape
    dtype: DType


Value = Node | Temporary


@dataclass(frozen=True)
class Operand:
    """A strided window on a buffer: strides and offset in elements."""

    value: Value
    strides: tuple[int, ...]
    offset: int = 0

    @staticmethod
    def whole(value: Value) -> Operand:
        return Operand(value, contiguous_strides(value.shape))


@dataclass
class Step:
    """One nest. `keys` says what each argument of the nest is: a node or temporary (a buffer),
    ("scalar", input), ("status",). `numbers` are those of a nest that serves every shape, None if
    the nest knows its own. `work`: units; `cost`: elementary operations.
    """

    nest: Nest
    keys: list[Any]
    written: frozenset[int]
    nodes: tuple[Node, ...]
    numbers: list[int] | None
    work: int
    cost: int
    check: tuple[str, str] | None = None  # message and source line
    window: bool = False  # writes elements that no other step writes, though they share a result


@dataclass
class LibraryStep:
    """A call with a kernel of its own: contractions and sorts. `epilogue` is the nest that is
    computed inside it (see `epilogue.py`).
    """

    call: Call
    operands: tuple[Operand, ...]
    result: Operand
    generic: bool
    epilogue: Any = None


@dataclass
class Part:
    """The steps of a graph inside a call, and where they leave each of its outputs."""

    graph: Graph
    steps: list[AnyStep]
    outputs: list[Value]


@dataclass
class LoopStep:
    """A call that holds graphs: a loop or a branch, by the name of its primitive.

    `results` are the nodes that stand for its results, by their numbers. `before` copies the first
    carried values to `initial`, in the loop's memory; `after` copies the last ones from `final`.
    """

    call: Call
    operands: tuple[Value, ...]
    results: dict[int, Node]
    parts: dict[str, Part] = field(default_factory=dict)
    before: list[Step] = field(default_factory=list)
    after: list[Step] = field(default_factory=list)
    initial: list[Temporary] = field(default_factory=list)
    final: list[Temporary] = field(default_factory=list)


AnyStep = Step | LibraryStep | LoopStep


@dataclass
class Schedule:
    """All steps of a graph, and which buffer each output is.

    `aliases` maps nodes that share the buffer of another node (reshapes) to that node; `narrow`
    the nodes that lie in a buffer of a smaller type than theirs to that type; `swept_again` counts
    the elements of rows that one kernel would have kept in the cache if it had known their length.
    """

    steps: list[AnyStep] = field(default_factory=list)
    aliases: dict[Node, Value] = field(default_factory=dict)
    narrow: dict[Node, DType] = field(default_factory=dict)
    swept_again: int = 0
