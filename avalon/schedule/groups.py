"""Which stored values are computed by one kernel: the second decision of the hot tier.

Comes in: a `Decision`. Goes out: groups in an order in which they can run, each the calls that one
nest stores, or one call that has steps of its own. Guaranteed: members of a group have one shape
and read each other only at the very element that is being computed; groups have no circular
dependence; checks come as early as they can.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from avalon.graph.node import Call, Input, Node
from avalon.schedule.fusion import Decision, is_large_reduction
from avalon.schedule.index import Affine, address, variable
from avalon.schedule.loops import Expression
from avalon.schedule.pull import Guards, Puller, lowering_of
from avalon.shape import size_of

_MEMBERS = 12  # calls that one kernel stores
_READS = 24  # buffers that one kernel reads
_FAR = 1000  # groups that are looked at for a dependence
_RECENT = 6  # groups of a shape that a call may join
_DEEPEST = 120  # calls in a row that one kernel computes: whoever reads it follows them recursively


@dataclass(eq=False)
class Group:
    """Calls that one nest computes. `reads`: stored calls that it needs from other groups."""

    number: int
    members: list[Call]
    reads: set[Node]
    loops: bool = False  # holds a reduction that is a loop of its own
    special: bool = False
    inputs: set[Node] = field(default_factory=set)  # what it reads that is as large as its result
    depth: int = 0  # calls in a row


class Probe(Puller):
    """Pulls a call once to see which stored values it reads, and whether only at its own place."""

    def __init__(self, decision: Decision, root: Call) -> None:
        super().__init__(
            lambda node: node in decision.stored or (isinstance(node, Input) and not node.scalar),
            split=False,
        )
        self.root = root
        self.aligned: dict[Node, bool] = {}
        self.home = tuple(variable(self.axis(extent)) for extent in root.shape)
        self.loops = False
        self.place = address(self.home, root.shape)
        self.compute(root, self.home)

    def _value(self, node: Node, coordinates: tuple[Affine, ...], guards: Guards) -> Expression:
        if not self.stored(node) and is_large_reduction(node):
            self.loops = True
        return super()._value(node, coordinates, guards)

    def flat(self, node: Node, element: Affine, guards: Guards) -> Expression:
        aligned = node.shape == self.root.shape and element == self.place
        self.aligned[node] = self.aligned.get(node, True) and aligned
        return super().flat(node, element, guards)


def group_calls(decision: Decision) -> list[Group]:
    """The groups of a graph, in order."""
    groups: list[Group] = []
    home: dict[Node, Group] = {}
    recent: dict[tuple[int, ...], list[Group]] = {}
    for node in decision.calls:
        if node not in decision.stored:
            continue
        if decision.is_special(node):
            group = Group(len(groups), [node], _reads_of_special(decision, node), special=True)
        else:
            probe = Probe(decision, node)
            reads: set[Node] = {leaf for leaf in probe.aligned if isinstance(leaf, Call)}
            loops = probe.loops or is_large_reduction(node)
            size = size_of(node.shape)
            close = {leaf for leaf in probe.aligned if loops or size_of(leaf.shape) == size}
            depth = decision.depth(node)
            near = [g for g in recent.get(node.shape, []) if g.depth + depth <= _DEEPEST]
            joined = _find_group(near, reads, probe, loops, close, home)
            if joined is not None:
                joined.members.append(node)
                joined.depth += depth
                joined.reads |= {leaf for leaf in reads if home.get(leaf) is not joined}
                joined.inputs |= close
                home[node] = joined
                continue
            group = Group(len(groups), [node], reads, loops, False, close, depth)
            if 0 not in node.shape:
                recent.setdefault(node.shape, []).append(group)
                del recent[node.shape][:-_RECENT]
        groups.append(group)
        home[node] = group
    return _in_order(groups, home)


def _reads_of_special(decision: Decision, node: Call) -> set[Node]:
    """The stored calls behind the operands of a call with steps of its own."""
    found: set[Node] = set()
    pending = list(node.operands)
    seen: set[Node] = set()
    while pending:
        operand = pending.pop()
        if operand in seen or not isinstance(operand, Call):
            continue
        seen.add(operand)
        if operand in decision.stored:
            found.add(operand)
        else:
            pending.extend(operand.operands)
    return found


def _find_group(
    candidates: list[Group], reads: set[Node], probe: Probe, loops: bool, close: set[Node],
    home: dict[Node, Group],
) -> Group | None:  # fmt: skip
    """A group that the call may join, and gains from joining."""
    for group in reversed(candidates):
        if len(group.members) >= _MEMBERS:
            continue
        if len(group.inputs | close) > _READS:
            continue
        inside = [leaf for leaf in reads if home[leaf] is group]
        if not all(probe.aligned[leaf] for leaf in inside):
            continue
        if group.loops != loops and not (group.loops and inside):
            continue
        if not inside and not (group.inputs & close):
            continue
        outside = {home[leaf] for leaf in reads if home[leaf] is not group}
        if not _reaches(outside, group, home):
            return group
    return None


def _reaches(starts: set[Group], goal: Group, home: dict[Node, Group]) -> bool:
    """Whether one of `starts` needs `goal`, directly or through others; also said of what would
    take too long to find out.
    """
    pending, seen = list(starts), set(starts)
    while pending:
        if len(seen) > _FAR:
            return True
        group = pending.pop()
        if group is goal:
            return True
        for leaf in group.reads:
            before = home[leaf]
            if before not in seen:
                seen.add(before)
                pending.append(before)
    return False


def _in_order(groups: list[Group], home: dict[Node, Group]) -> list[Group]:
    """Groups after what they read; otherwise in the order of the graph, checks and their needs
    first.
    """
    checks = [
        group
        for group in groups
        if group.special and lowering_of(group.members[0].primitive) == "check_index"
    ]
    urgent: set[Group] = set()
    while checks:
        group = checks.pop()
        if group not in urgent:
            urgent.add(group)
            checks.extend(home[leaf] for leaf in group.reads)
    waiting: dict[Group, int] = {}
    readers: dict[Group, list[Group]] = {}
    for group in groups:
        before = {home[leaf] for leaf in group.reads} - {group}
        waiting[group] = len(before)
        for other in before:
            readers.setdefault(other, []).append(group)
    ready = [(g not in urgent, g.number) for g in groups if not waiting[g]]
    heapify(ready)
    result: list[Group] = []
    while ready:
        _, number = heappop(ready)
        group = groups[number]
        result.append(group)
        for reader in readers.get(group, []):
            waiting[reader] -= 1
            if not waiting[reader]:
                heappush(ready, (reader not in urgent, reader.number))
    return result
