"""The schedule of the hot tier: groups of calls become one nest each, with all sizes known.

Comes in: a graph. Goes out: a `Schedule`. Guaranteed: the bits of the other tiers: fusion changes
where values are computed, never how.
"""

from __future__ import annotations

from itertools import product

from avalon.dtype import DType
from avalon.graph.graph import Graph
from avalon.graph.node import Call, Node
from avalon.schedule.arrange import (
    cost_of,
    join_loops,
    mark_wide,
    set_abreast,
    set_streams,
    sized,
    work_of,
)
from avalon.schedule.calls import CallScheduler, needs_scalars
from avalon.schedule.costs import cost_of_call
from avalon.schedule.epilogue import FUSE_EPILOGUES, fuse_epilogues
from avalon.schedule.fusion import Decision, stored_type
from avalon.schedule.groups import Group, Rows, group_calls
from avalon.schedule.index import (
    ZERO,
    Affine,
    Axis,
    SplitAxis,
    address,
    combine,
    constant,
    variable,
)
from avalon.schedule.loops import Expression, Load, Nest, Stage, Store, loads_of
from avalon.schedule.pull import Guards, Puller, storage
from avalon.schedule.steps import Schedule, Step
from avalon.shape import contiguous_strides, size_of
from avalon.size import hint, is_open
from avalon.switches import declare

SPLIT_AXES = declare(
    "split axes", "fusion", "loops are cut so that a fused reshape needs no division"
)

_STRIP = 16  # lanes that go down together where a transpose is read
_FAR = 128  # bytes between what neighbouring lanes read
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

    def fresh(self, graph: Graph) -> CallScheduler:
        return HotScheduler(graph)

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
            elif group.rows is not None:
                self.add_rows(group, group.rows)
            else:
                self.add_group(group)
        for output in self.graph.outputs:
            self.materialize(self.source(output))
        if FUSE_EPILOGUES.on:
            fuse_epilogues(self.schedule, self.graph.outputs)
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
        if group.apart:
            self.schedule.swept_again += hint(size_of(stored[0].shape))
        for part in range(storage(stored[0].dtype)[1]):
            dimensions = [Dimension(extent) for extent in stored[0].shape]
            split = SPLIT_AXES.on
            while True:
                try:
                    self.build(group, stored, dimensions, part, split)
                    break
                except SplitAxis as wanted:
                    split = any(dimension.cut(wanted) for dimension in dimensions)

    def build(
        self, group: Group, stored: list[Call], dimensions: list[Dimension], part: int, split: bool,
        strips: bool = False,
    ) -> None:  # fmt: skip
        """Append the step of a group. With `strips` the innermost loop was cut in strips, which go
        down the axis in front of it one after the other.
        """
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
        if lanes and not strips and reads_turned(axes, stores):
            # The innermost loop, which may be a part of a dimension that was cut before.
            strip = SplitAxis(axes[-1], _STRIP, phases=False)
            next(d for d in reversed(dimensions) if d.cut(strip))
            self.build(group, stored, dimensions, part, split, strips=True)
            return
        if strips:
            axes[-3:-1] = [axes[-2], axes[-3]]
        stage = Stage(tuple(axes), tuple(stores), lanes)
        self.finish(pull, stage, stored[0], len(axes), others=tuple(stored[1:]))

    def add_rows(self, group: Group, rows: Rows) -> None:
        """One nest that runs several groups one after the other on each row."""
        pull = RowPuller(self, group, rows)
        stages = []
        count = len(rows.lead)
        cost = 0
        for part in rows.groups:
            stored = [member for member in part.members if member in self.needed | pull.read]
            if not stored:
                continue
            axes = tuple(pull.axis(extent) for extent in stored[0].shape[count:])
            pull.begin(part, tuple(variable(axis) for axis in axes))
            stores = []
            for member in stored:
                dtype = self.narrow.get(member, member.dtype)
                value = pull.cast_stored(pull.member(member), dtype)
                private = pull.private.get(member)
                if private is None:
                    stores.append(
                        Store(pull.buffer(member), pull.element(member, pull.home), value)
                    )
                else:
                    place = address(pull.home[count:], member.shape[count:])
                    stores.append(Store(private, place, value))
            lanes = bool(axes) and not any(needs_scalars(store.value) for store in stores)
            stages.append(Stage(axes, tuple(stores), lanes))
            each = sum(cost_of(store.value, cost_of_call, set()) for store in stores)
            cost += each * size_of(stored[0].shape)
        nest = Nest(pull.lead, tuple(stages), pull.kinds, locals=pull.locals)
        nest = set_abreast(mark_wide(join_loops(nest)))
        work, numbers = work_of(nest), None
        if self.sized:
            nest, numbers = sized(nest)
        else:
            set_streams(nest, pull.keys)
        written = frozenset(
            store.argument for stage in stages for store in stage.stores if store.argument >= 0
        )
        self.schedule.steps.append(
            Step(nest, pull.keys, written, tuple(group.members), numbers, work, cost)
        )


def reads_turned(axes: list[Axis], stores: list[Store]) -> bool:
    """Whether neighbouring results come from far apart, while those of the next outer axis come
    from neighbours: then strips of few lanes should go down that axis, for all that one reads in a
    line of the cache is still there for the next.
    """
    if len(axes) < 2 or any(is_open(axis.extent) for axis in axes):
        return False
    outer, inner = axes[-2:]
    if inner.extent % _STRIP or inner.extent == _STRIP or outer.extent < _STRIP:
        return False
    return any(
        load.index.coefficient(outer) == 1
        and load.index.coefficient(inner) * load.dtype.itemsize >= _FAR
        for load in loads_of(store.value for store in stores)
    )


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

    def is_here(self, node: Node, element: Affine) -> bool:
        """Whether it is this element of a member that is being computed."""
        return node in self.members and element == address(self.home, node.shape)

    def flat(self, node: Node, element: Affine, guards: Guards) -> Expression:
        if self.is_here(node, element):
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


class RowPuller(GroupPuller):
    """Builds the stages of one nest over rows. Values that no other kernel reads lie in private
    memory, one row of them.

    Attributes:
        lead: the axes of the units.
        read: members that a later stage reads.
        private: members in private memory, and their (negative) arguments.
    """

    def __init__(self, scheduler: HotScheduler, group: Group, rows: Rows) -> None:
        super().__init__(scheduler, group, split=False)
        self.lead = tuple(self.axis(extent) for extent in rows.lead)
        self.rows = tuple(variable(axis) for axis in self.lead)
        self.read: set[Node] = set()
        self.private: dict[Node, int] = {}
        self.locals: list[tuple[DType, int]] = []
        own: dict[Node, Group] = {m: part for part in rows.groups for m in part.members}
        for part in rows.groups:
            for probe in part.probes:
                self.read |= {leaf for leaf in probe.elements if own.get(leaf, part) is not part}
        for member in own:
            if member in self.read and member not in scheduler.needed:
                dtype = self.narrow.get(member, member.dtype)
                self.locals.append((dtype, size_of(member.shape[len(self.lead) :])))
                self.private[member] = -len(self.locals)

    def begin(self, part: Group, rest: tuple[Affine, ...]) -> None:
        """Go on with another stage."""
        # What an earlier stage has computed is read back, not computed once more.
        self._memo.clear()
        self.members = set(part.members)
        self.home = (*self.rows, *rest)

    def flat(self, node: Node, element: Affine, guards: Guards) -> Expression:
        private = self.private.get(node)
        if private is None or node in self.members:
            return super().flat(node, element, guards)
        strides = contiguous_strides(node.shape)[: len(self.lead)]
        inside = element.add(combine(self.rows, strides).times(-1))
        dtype = self.locals[-private - 1][0]
        return self.cast(Load(private, dtype, inside, guards), node.dtype)
