"""Apply rewrite rules to a whole graph until none applies.

Comes in: a graph and rules. Goes out: the same graph, rewritten; how often each rule applied.
Guaranteed: time in proportion to the graph: a worklist holds the calls to look at, a call is looked
at again only when one of its operands was replaced. The nodes that a rule makes say what they
replaced.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable

from avalon.graph.graph import Graph
from avalon.graph.node import Call, Node
from avalon.graph.primitive import Primitive
from avalon.rewrite.pattern import Rule


def apply_rules(
    graph: Graph, rules: Iterable[Rule], disabled: Collection[str] = ()
) -> Counter[str]:
    """Rewrite `graph` in place; returns how often each rule was applied.

    Args:
        disabled: names of rules to leave out.

    >>> from avalon import ops
    >>> from avalon.dtype import float32
    >>> from avalon.rewrite import RULES
    >>> graph = Graph()
    >>> x = graph.input((3,), float32)
    >>> graph.outputs = [ops.negative(ops.negative(x))]
    >>> apply_rules(graph, RULES)
    Counter({'undone': 1})
    >>> graph.outputs
    [<input: float32 (3,)>]
    """
    by_primitive: dict[Primitive, list[Rule]] = {}
    for candidate in rules:
        if candidate.name not in disabled:
            for primitive in candidate.primitives:
                by_primitive.setdefault(primitive, []).append(candidate)

    applied: Counter[str] = Counter()
    waiting = deque(
        node for node in graph.nodes if isinstance(node, Call) and node.primitive in by_primitive
    )
    queued: set[Node] = set(waiting)
    gone: set[Node] = set()
    outer = graph.note, graph.source
    while waiting:
        call = waiting.popleft()
        queued.discard(call)
        if call in gone:
            continue
        ahead = call.previous
        graph.source = call.source
        with graph.before(call):
            name, replacement = _first_that_applies(by_primitive[call.primitive], call)
        if replacement is None:
            continue
        applied[name] += 1
        made = _nodes_between(ahead, call)
        for node in made:
            node.note = f"{name}: {call.note or call.what()}"
        users = graph.users(call)
        graph.replace(call, replacement)
        gone.add(call)
        for node in (*made, *users):
            if (
                isinstance(node, Call)
                and node.primitive in by_primitive
                and node not in queued
                and node not in gone
            ):
                queued.add(node)
                waiting.append(node)
    graph.note, graph.source = outer
    return applied


def _first_that_applies(rules: list[Rule], call: Call) -> tuple[str, Node | None]:
    for candidate in rules:
        replacement = candidate.apply(call)
        if replacement is not None:
            return candidate.name, replacement
    return "", None


def _nodes_between(ahead: Node | None, call: Node) -> list[Node]:
    """The nodes that were put in front of `call` since `ahead` was right in front of it."""
    made: list[Node] = []
    node = call.previous
    while node is not None and node is not ahead:
        made.append(node)
        node = node.previous
    made.reverse()
    return made
