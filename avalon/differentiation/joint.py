"""A body and its gradient in one graph, and where to cut it between forward and backward.

Comes in: a body. Goes out: a `Joint`: a graph that computes the body's outputs, and from cotangents
of these the cotangents of its inputs. Guaranteed: what the cotangents need of the values is either
kept from the forward round or follows from what is kept by a few cheap operations.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from avalon import ops
from avalon.differentiation.reverse import gradients
from avalon.graph.body import Body
from avalon.graph.graph import Graph
from avalon.graph.node import Call, Constant, Input, Node
from avalon.graph.primitive import Movement

_CAPACITY = 500

# What is rather computed again than kept, if it follows from one kept value.
_CHEAP = frozenset(
    (
        ops.add, ops.subtract, ops.multiply, ops.negative, ops.absolute, ops.maximum, ops.minimum,
        ops.where, ops.less, ops.less_equal, ops.equal, ops.not_equal, ops.logical_not,
        ops.bit_and, ops.bit_or, ops.bit_not, ops.cast, ops.stop_gradient,
    )
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Joint:
    """Values and cotangents of a body.

    Attributes:
        graph: its inputs are the body's, then the seeds.
        outputs: the body's outputs.
        seeds: for each output the input that is its cotangent; None where it is not floating.
        gradients: for each of the body's inputs its cotangent, or None.
    """

    graph: Graph
    outputs: tuple[Node, ...]
    seeds: tuple[Input | None, ...]
    gradients: tuple[Node | None, ...]


_joints: OrderedDict[Body, Joint] = OrderedDict()


def joint_of(body: Body) -> Joint:
    """The joint of a body, by the gradient rules of its calls."""
    found = _joints.get(body)
    if found is None:
        graph = body.graph.copy()
        given = list(graph.inputs)
        seeds = tuple(
            graph.input(node.shape, node.dtype, f"g{number}")
            if node.dtype.is_floating_point
            else None
            for number, node in enumerate(graph.outputs)
        )
        floats = [k for k, seed in enumerate(seeds) if seed is not None]
        made = gradients(
            graph, [graph.outputs[k] for k in floats], given, [seeds[k] for k in floats]
        )
        found = _joints[body] = Joint(graph, tuple(graph.outputs), seeds, tuple(made))
        if len(_joints) > _CAPACITY:
            _joints.popitem(last=False)
    return found


def depending(graph: Graph, sources: Iterable[Node]) -> set[Node]:
    """The nodes that depend on `sources`, those included."""
    found = set(sources)
    for node in graph.nodes:
        if isinstance(node, Call) and not found.isdisjoint(node.operands):
            found.add(node)
    return found


class Keeping:
    """Which values of a round are kept for the backward round.

    `given` are nodes that the backward round has anyway (elements of sequences, what is the same in
    every round). With `sparing`, only the carried values are kept and the rest is computed again.
    """

    def __init__(self, given: Iterable[Node], sparing: bool) -> None:
        self.given = set(given)
        self.sparing = sparing
        self._leaves: dict[Node, frozenset[Node]] = {}

    def kept(self, node: Node) -> bool:
        """Whether a value is kept itself, not computed from others."""
        return node in self.leaves(node)

    def leaves(self, node: Node) -> frozenset[Node]:
        """The kept values that a value follows from."""
        waiting = [node]
        while waiting:
            current = waiting[-1]
            if current in self._leaves:
                waiting.pop()
                continue
            unknown = [
                x for x in self._followed(current) if x not in self._leaves and x is not current
            ]
            if unknown:
                waiting.extend(unknown)
                continue
            self._leaves[current] = self._decide(current)
            waiting.pop()
        return self._leaves[node]

    def _followed(self, node: Node) -> tuple[Node, ...]:
        """The operands of a value that may be computed again."""
        if not isinstance(node, Call) or node in self.given:
            return ()
        cheap = node.primitive in _CHEAP or node.primitive.kind is Movement
        return node.operands if cheap or self.sparing else ()

    def _decide(self, node: Node) -> frozenset[Node]:
        if node in self.given or isinstance(node, Constant):
            return frozenset()
        followed = self._followed(node)
        if not followed:
            again = self.sparing and isinstance(node, Call)
            return frozenset() if again else frozenset((node,))
        leaves = frozenset().union(*(self._leaves[x] for x in followed))
        return leaves if self.sparing or len(leaves) <= 1 else frozenset((node,))
