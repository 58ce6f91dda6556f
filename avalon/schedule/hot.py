"""The schedule of the hot tier: groups of calls become one nest each, with all sizes known.

Comes in: a graph. Goes out: a `Schedule`. Guaranteed: the bits of the other tiers: fusion changes
where values are computed, never how.
"""

from __future__ import annotations

from itertools import product

from avalon.dtype import DType
from avalon.graph.graph import Graph
from avalon.graph.node import Call, Node
from avalon.schedule.calls import CallScheduler, needs_scalars
from avalon.schedule.fusion import Decision, stored_type
from avalon.schedule.groups import Group, group_calls
from avalon.schedule.index import ZERO, Affine, Axis, SplitAxis, address, constant, variable
from avalon.schedule.loops import Expression, Stage, Store
from avalon.schedule.pull import Guards, Puller, storage
from avalon.schedule.steps import Schedule

_PHASES = 4  # steps of an inner loop that are written out, at most


def schedule_hot(graph: Graph) -> Schedule:
    """The schedule of a graph, fused."""
    return HotScheduler(graph).run()


class HotScheduler(CallScheduler):
    """Appends the steps of one group after the other."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph, "hot")
        self.decision = Decision(graph)
        self.ready |= self.decision.stored
        self.schedule.aliases.update(self.decision.aliases)
        self.needed: set[Node] = {self.source(node) for node in graph.outputs}
        self.narrow: dict[Node, DType] = {}

    def source(self, node: Node) -> Node:
        """The node whose buffer a node shares."""
        while node in self.decision.aliases:
            node = self.decision.aliases[node]
        return node

    def run(self) -> Schedule:
        groups = group_calls(self.decision)
        for group in groups:
            self.needed |= group.reads
        self.store_narrow(groups)
        for group in groups:
            if group.special:
                self.compute(group.members[0])
            else:
                self.add_group(group)
        for output in self.graph.outputs:
            self.materialize(self.source(output))
        return self.schedule

    def store_narrow(self, groups: list[Group]) -> None:
        """Keep what only nests of this program read in the smallest type that holds it."""
        kept = {self.source(node) for node in self.graph.outputs}
        for group in groups:
            if group.special:
                kept |= group.reads
        for group in groups:
            for member in group.members:
                dtype = stored_type(member)
                if dtype is not member.dtype and member not in kept and not group.special:
                    self.narrow[member] = self.schedule.narrow[member] = dtype

    def puller(self) -> Puller:
        pull = super().puller()
        pull.narrow = self.narrow
        return pull

    def add_group(self, group: Group) -> None:
        """One nest that stores the members that others need."""
        stored = [member for member in group.members if member in self.needed]
        if not stored or 0 in stored[0].shape:
            return
        for part in range(storage(stored[0].dtype)[1]):
            dimensions = [Dimension(extent) for extent in stored[0].shape]
            split = True
            while True:
                try:
                    self.build(group, stored, dimensions, part, split)
                    break
                except SplitAxis as wanted:
                    split = any(dimension.cut(wanted) for dimension in dimensions)

    def build(
        self, group: Group, stored: list[Call], dimensions: list[Dimension], part: int, split: bool
    ) -> None:
        pull = GroupPuller(self, group, split)
        pull.part = part
        axes: list[Axis] = []
        places = []
        for dimension in dimensions:
            places.append(dimension.places(pull, axes))
        stores = []
        for home in product(*places):
            pull.home = home
            for member in stored:
                value = pull.cast_stored(pull.member(member), self.narrow.get(member, member.dtype))
                stores.append(Store(pull.buffer(member), pull.element(member, home), value))
        lanes = not any(needs_scalars(store.value) for store in stores)
        stage = Stage(tuple(axes), tuple(stores), lanes)
        self.finish(pull, stage, stored[0], len(axes), others=tuple(stored[1:]))


class Dimension:
    """An axis of a result as loops, outermost first: extents, and which are written out."""

    def __init__(self, extent: int) -> None:
        self.loops: list[tuple[int, bool]] = [(extent, False)]
        self.axes: list[Axis | None] = []

    def cut(self, wanted: SplitAxis) -> bool:
        """Cut the loop of an axis in two, if it is one of this dimension."""
        for place, axis in enumerate(self.axes):
            if axis is wanted.axis:
                outer = self.loops[place][0] // wanted.inner
                phases = wanted.phases and wanted.inner <= _PHASES
                self.loops[place : place + 1] = [(outer, False), (wanted.inner, phases)]
                return True
        return False

    def places(self, pull: Puller, axes: list[Axis]) -> list[Affine]:
        """The coordinates of this dimension, one for each step that is written out; appends its
        loops.
        """
        found = [ZERO]
        self.axes = []
        for extent, phases in self.loops:
            if phases:
                self.axes.append(None)
                steps = [constant(step) for step in range(extent)]
            else:
                axis = pull.axis(extent)
                self.axes.append(axis)
                axes.append(axis)
                steps = [variable(axis)]
            found = [place.times(extent).add(step) for place in found for step in steps]
        return found


class GroupPuller(Puller):
    """Computes members of a group where they are wanted at the element being computed."""

    def __init__(self, scheduler: HotScheduler, group: Group, split: bool) -> None:
        super().__init__(scheduler.stored, split=split, small=scheduler.small)
        self.members = set(group.members)
        self.narrow = scheduler.narrow
        self.home: tuple[Affine, ...] = ()

    def flat(self, node: Node, element: Affine, guards: Guards) -> Expression:
        if node in self.members and element == address(self.home, node.shape):
            assert isinstance(node, Call)
            return self.member(node)
        return super().flat(node, element, guards)

    def member(self, node: Call) -> Expression:
        """The value of a member at the element that is being computed."""
        key = ("member", node, self.home)
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = self.compute(node, self.home)
        return found
