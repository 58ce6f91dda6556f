"""From a pending graph to buffers: the cache of programs and the choice of tier.

Comes in: what was recorded, what feeds its inputs, and which positions are wanted. Goes out: one
buffer for each of those. Guaranteed: a structure that comes back runs the program that was built
for it, and builds no graph; which values are alive is not part of the key: a program that puts
out a superset of what is wanted serves, and a new one puts out the union, so a structure is built
at most a few times.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any

from avalon.compiler import compile_graph
from avalon.graph.graph import Graph
from avalon.graph.node import Call, Constant, Input, Node
from avalon.runtime.buffer import Buffer
from avalon.settings import settings
from avalon.switches import off
from avalon.tracing.recorded import Recorded

_CAPACITY = 512
_spent = [0.0]  # seconds in which programs were built


class _Program:
    """One build: which nodes it puts out, which of the recorded inputs it reads, why it was
    made.
    """

    def __init__(
        self, recorded: Recorded, positions: Sequence[int], tier: str, reason: str
    ) -> None:
        graph, nodes = recorded.build()
        last = graph.nodes[-1].source
        self.where = f"up to {last[0]}:{last[1]}" if last else "of the library's own"
        self.reason = reason
        self.outputs = {position: place for place, position in enumerate(positions)}
        self.tier = tier
        self.build = (tier, settings.target, off())
        self.inputs = restrict(graph, [nodes[position] for position in positions])
        start = time.perf_counter()
        self.runnable = compile_graph(graph, tier)
        self.seconds = time.perf_counter() - start
        _spent[0] += self.seconds

    def run(
        self, feeds: list[Any], wanted: Sequence[int], donated: Collection[int]
    ) -> list[Buffer]:
        given = [feeds[position] for position in self.inputs]
        free = [place for place, position in enumerate(self.inputs) if position in donated]
        made = self.runnable.run(given, free)
        return [made[self.outputs[position]] for position in wanted]


class _Structure:
    """What is known of one recorded structure: how often it was seen and the programs for it."""

    def __init__(self) -> None:
        self.seen = 0
        self.programs: list[_Program] = []

    def serve(self, recorded: Recorded, wanted: Sequence[int], tier: str | None) -> _Program:
        self.seen += 1
        reason = "a compiled step, grad or fit"
        if settings.tier != "auto":
            tier, reason = settings.tier, "settings.tier"
        elif tier is None:
            tier = "cold" if self.seen == 1 else "hot"
            reason = "first sight" if self.seen == 1 else "came back"
        build = (tier, settings.target, off())
        for program in self.programs:
            if program.build == build and all(position in program.outputs for position in wanted):
                return program
        earlier = {position for program in self.programs for position in program.outputs}
        union = sorted(earlier.union(wanted))
        if any(program.build == build for program in self.programs):
            reason = f"{len(union) - len(earlier)} more of its values were held"
        self.programs = [program for program in self.programs if program.build != build]
        made = _Program(recorded, union, tier, reason)
        self.programs.append(made)
        return made


_structures: OrderedDict[Any, _Structure] = OrderedDict()


def run(
    recorded: Recorded,
    feeds: list[Any],
    wanted: Sequence[int],
    donated: Collection[int],
    tier: str | None = None,
) -> list[Buffer]:
    """Run what was recorded and return the buffers of the positions `wanted`."""
    return program_for(recorded, wanted, tier).run(feeds, wanted, donated)


def program_for(recorded: Recorded, wanted: Sequence[int], tier: str | None = None) -> _Program:
    """The program that puts out at least `wanted`, built if need be. Without a `tier`, a structure
    gets the cold one at first sight and the hot one from the second.
    """
    return _structure_of(recorded.key).serve(recorded, wanted, tier)


def _structure_of(key: list[Any]) -> _Structure:
    whole = tuple(key)
    found = _structures.get(whole)
    if found is None:
        found = _structures[whole] = _Structure()
        while len(_structures) > _CAPACITY:
            _structures.popitem(last=False)
    else:
        _structures.move_to_end(whole)
    return found


def restrict(graph: Graph, outputs: Sequence[Node]) -> list[int]:
    """Drop what `outputs` do not need; which inputs are left, by their old places."""
    graph.outputs = list(outputs)
    needed = _needed(graph.outputs)
    kept = [place for place, node in enumerate(graph.inputs) if node in needed]
    graph.keep_only(needed)
    return kept


def _needed(wanted: Sequence[Node]) -> set[Node]:
    """The nodes that some nodes are computed from, themselves included."""
    needed: set[Node] = set()
    waiting = list(wanted)
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            if isinstance(node, Call):
                waiting.extend(node.operands)
    return needed


def run_nodes(nodes: Sequence[Node], wanted: Sequence[Node], feeds: list[Any]) -> list[Buffer]:
    """Compute some of a recorded graph's nodes, apart from the rest and from all programs."""
    if not wanted:
        return []
    needed = _needed(wanted)
    graph = Graph("part")
    copies: dict[Node, Node] = {}
    given: list[Any] = []
    inputs = iter(feeds)
    for node in nodes:
        feed = next(inputs) if isinstance(node, Input) else None
        if node not in needed:
            continue
        graph.note, graph.source = node.note, node.source
        if isinstance(node, Input):
            copies[node] = graph.input(node.shape, node.dtype, node.name, node.scalar)
            given.append(feed)
        elif isinstance(node, Constant):
            copies[node] = graph.constant(node.value, node.shape, node.dtype)
        elif isinstance(node, Call):
            operands = [copies[operand] for operand in node.operands]
            copies[node] = graph.call(node.primitive, operands, node.parameters)
    graph.outputs = [copies[node] for node in wanted]
    return list(compile_graph(graph, "cold").run(given))


def report() -> list[str]:
    """One line for each program: its tier and reason, how often its structure was seen, its
    cost.
    """
    return [
        f"{program.tier}: {program.reason}; {len(program.runnable.plan.launches)} launches "
        f"{program.where}; seen {structure.seen} times; "
        f"built in {1e3 * program.seconds:.0f} ms"
        for structure in _structures.values()
        for program in structure.programs
    ]


def build_seconds() -> float:
    """How long this process has spent on building programs, passes and scheduling included."""
    return _spent[0]


def clear() -> None:
    """Forget all programs."""
    _structures.clear()
