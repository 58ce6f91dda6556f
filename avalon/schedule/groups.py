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
from avalon.schedule.index import Affine, address, combine, variable
from avalon.schedule.loops import Expression
from avalon.schedule.pull import Guards, Puller, lowering_of
from avalon.shape import contiguous_strides, size_of
from avalon.size import hint, is_open
from avalon.switches import declare

SHARE_KERNELS = declare(
    "share kernels", "fusion", "one kernel computes several results of one shape"
)
FUSE_ROWS = declare(
    "fuse rows", "fusion", "rows are reduced and gone on with in one kernel: softmax, normalisation"
)

_MEMBERS = 12  # calls that one kernel stores
_FEW_ELEMENTS = 64  # of all results of a kernel that is run as early as it can
_READS = 24  # buffers that one kernel reads
_FAR = 1000  # groups that are looked at for a dependence
_STAGES = 12  # groups that one kernel runs one after the other
_LONGEST_ROW = 1 << 16  # elements of a row that stays in the second cache
_LONG_SWEEP = 1 << 14  # elements from which on few rows are too long for the threads that they keep
_FEW_ROWS = 8  # rows that are too few for all threads
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
    inputs: set[Node] = field(default_factory=set)  # what it reads that is no smaller than it
    depth: int = 0  # calls in a row
    probes: list[Probe] = field(default_factory=list)
    rows: Rows | None = None  # the groups that this one runs one after the other, row by row
    apart: bool = False  # sweeps rows once more, for their length is not known


@dataclass
class Rows:
    """Groups that walk through the same rows: `lead` are the axes, in front in each, that count
    them.
    """

    lead: tuple[int, ...]
    groups: list[Group]


class Probe(Puller):
    """Pulls a call once to see which stored values it reads, where, and whether only at its own
    place.

    Attributes:
        aligned: for each stored value, whether it is read only where the result is written.
        elements: where each stored value is read.
        kept: for each reduction, the extents in front of the first axis that it reduces.
    """

    def __init__(self, decision: Decision, root: Call) -> None:
        super().__init__(
            lambda node: node in decision.stored or (isinstance(node, Input) and not node.scalar),
            split=False,
        )
        self.root = root
        self.aligned: dict[Node, bool] = {}
        self.elements: dict[Node, list[Affine]] = {}
        self.kept: list[tuple[int, ...]] = []
        self.home = tuple(variable(self.axis(extent)) for extent in root.shape)
        self.place = address(self.home, root.shape)
        if is_large_reduction(root):
            self.note_reduction(root)
        self.compute(root, self.home)

    def note_reduction(self, node: Call) -> None:
        axes = node.parameters.get("axes") or (node.parameters["axis"],)
        self.kept.append(node.operands[0].shape[: min(axes)])

    def _value(self, node: Node, coordinates: tuple[Affine, ...], guards: Guards) -> Expression:
        if isinstance(node, Call) and not self.stored(node) and is_large_reduction(node):
            self.note_reduction(node)
        return super()._value(node, coordinates, guards)

    def flat(self, node: Node, element: Affine, guards: Guards) -> Expression:
        aligned = node.shape == self.root.shape and element == self.place
        self.aligned[node] = self.aligned.get(node, True) and aligned
        self.elements.setdefault(node, []).append(element)
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
            loops = bool(probe.kept)
            # What is worth reading once for several results: the gates of a recurrent cell are
            # parts of one value.
            size = hint(size_of(node.shape))
            close = {x for x in probe.aligned if loops or hint(size_of(x.shape)) >= size}
            depth = decision.depth(node)
            near = [g for g in recent.get(node.shape, []) if g.depth + depth <= _DEEPEST]
            joined = _find_group(near, reads, probe, loops, close, home)
            if joined is not None:
                joined.members.append(node)
                joined.depth += depth
                joined.probes.append(probe)
                joined.reads |= {leaf for leaf in reads if home.get(leaf) is not joined}
                joined.inputs |= close
                home[node] = joined
                continue
            group = Group(len(groups), [node], reads, loops, False, close, depth, [probe])
            if 0 not in node.shape:
                recent.setdefault(node.shape, []).append(group)
                del recent[node.shape][:-_RECENT]
        groups.append(group)
        home[node] = group
    if FUSE_ROWS.on:
        groups = join_rows(in_order(groups, home), home)
    return in_order(groups, home)


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
    for group in reversed(candidates if SHARE_KERNELS.on else []):
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
        if not reaches(outside, group, home):
            return group
    return None


def reaches(starts: set[Group], goal: Group, home: dict[Node, Group]) -> bool:
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


def in_order(groups: list[Group], home: dict[Node, Group]) -> list[Group]:
    """Groups after what they read; otherwise in the order of the graph, checks and their needs
    first, then what is small and needs nothing: large values wait for a learning rate otherwise.
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
    rank = {
        group: 0 if group in urgent else 1 if not waiting[group] and _is_small(group) else 2
        for group in groups
    }
    ready = [(rank[g], g.number) for g in groups if not waiting[g]]
    heapify(ready)
    numbered = {group.number: group for group in groups}
    result: list[Group] = []
    while ready:
        _, number = heappop(ready)
        group = numbered[number]
        result.append(group)
        for reader in readers.get(group, []):
            waiting[reader] -= 1
            if not waiting[reader]:
                heappush(ready, (rank[reader], reader.number))
    return result


def _is_small(group: Group) -> bool:
    """Whether what a group computes takes no room to speak of."""
    return sum(hint(size_of(member.shape)) for member in group.members) <= _FEW_ELEMENTS


# --- rows ---------------------------------------------------------------------------------------


def join_rows(groups: list[Group], home: dict[Node, Group]) -> list[Group]:
    """Join groups that reduce rows and go on with the same rows (softmax, normalisation): one
    kernel then does all of it to a row while the row is in the cache.
    """
    joined: list[Group] = []
    for group in groups:
        into = _rows_to_join(group, home)
        if into is None:
            joined.append(group)
            continue
        if into.rows is None:
            first = Group(into.number, into.members, into.reads, into.loops, probes=into.probes)
            into.rows = Rows(_lead(into, group), [first])
            into.members, into.probes = list(first.members), list(first.probes)
        into.rows.lead = _lead(into, group)
        into.rows.groups.append(group)
        into.members.extend(group.members)
        into.probes.extend(group.probes)
        for member in group.members:
            home[member] = into
        into.reads = {leaf for leaf in into.reads | group.reads if home[leaf] is not into}
    return joined


def _rows_to_join(group: Group, home: dict[Node, Group]) -> Group | None:
    """A group, or several joined, that the group continues row by row."""
    if group.special or 0 in group.members[0].shape or group.members[0].dtype.is_complex:
        return None
    sources = {home[leaf] for leaf in group.reads}
    for into in sources:
        if into.special or into.members[0].dtype.is_complex:
            continue
        lead = _lead(into, group)
        count = size_of(lead)
        parts = [*(into.rows.groups if into.rows else [into]), group]
        if not lead or count < 2 or len(parts) > _STAGES:
            continue
        shapes = [part.members[0].shape for part in parts]
        if any(shape[: len(lead)] != lead for shape in shapes):
            continue
        lengths = [size_of(shape) // count for shape in shapes]
        if any(map(is_open, lengths)):
            group.apart = True
            continue  # private memory has a known size
        longest, count = max(lengths), hint(count)
        if longest > _LONGEST_ROW or (count < _FEW_ROWS and longest * count > _LONG_SWEEP):
            continue
        members = {member for part in parts for member in part.members}
        if not all(_stays_in_row(probe, members, lead) for part in parts for probe in part.probes):
            continue
        others = {home[leaf] for leaf in group.reads} - {into}
        if not reaches(others, into, home):
            return into
    return None


def _lead(into: Group, group: Group) -> tuple[int, ...]:
    """The axes that count the rows of both: those that no reduction in them reduces."""
    kept = [lead for part in (into, group) for probe in part.probes for lead in probe.kept]
    if into.rows is not None:
        kept.append(into.rows.lead)
    return min(kept, key=len, default=())


def _stays_in_row(probe: Probe, members: set[Call], lead: tuple[int, ...]) -> bool:
    """Whether a call reads members only in the row that it computes itself."""
    count = len(lead)
    for leaf, elements in probe.elements.items():
        if leaf not in members:
            continue
        strides = contiguous_strides(leaf.shape)[:count]
        length = size_of(leaf.shape[count:])
        for element in elements:
            row = combine(probe.home[:count], strides)
            inside = element.add(row.times(-1))
            if inside.low < 0 or inside.high >= length:
                return False
    return True
