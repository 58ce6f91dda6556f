"""Call by call: the schedule of the plain and the cold tier, and of what the hot tier does not
fuse.

Comes in: a graph. Goes out: a `Schedule` with one step a call (a few for calls that need partial
results). Guaranteed: the values of `graph.interpret`, in the order of operations that `order`
fixes. In the cold tier movements that keep elements on a lattice cost no step: their consumer reads
through them; numbers are handed over at run time, so that few kernels serve all shapes. In the
plain tier every call has a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from avalon import dtype as dtypes
from avalon.errors import GraphError
from avalon.graph.graph import Graph
from avalon.graph.node import Call, Constant, Input, Node
from avalon.graph.primitive import Elementwise
from avalon.schedule import order, templates
from avalon.schedule.arrange import (
    choose_units,
    cost_of,
    generic,
    join_loops,
    mark_wide,
    set_abreast,
    set_streams,
    sized,
    work_of,
)
from avalon.schedule.bodies import LOOPS
from avalon.schedule.concatenation import add_concatenation
from avalon.schedule.costs import cost_of_call
from avalon.schedule.donation import held_by
from avalon.schedule.index import Affine, Axis, SplitAxis, variable
from avalon.schedule.loops import (
    Coordinate,
    Expression,
    Extreme,
    Inside,
    Load,
    Nest,
    Number,
    Reduce,
    Stage,
    Store,
)
from avalon.schedule.pull import SMALL_REDUCTION, Puller, lowering_of, storage
from avalon.schedule.pull_values import beats
from avalon.schedule.split import add_split, splits
from avalon.schedule.steps import LibraryStep, Operand, Schedule, Step, Temporary, Value
from avalon.shape import size_of
from avalon.size import hint, is_open

_DEEPEST_VIEW = 16
_LANES_ACROSS = 8  # rows from which on a running sum takes several at once, though not neighbours

# Movements that a consumer can read through: their index maps are linear.
LINEAR = frozenset(
    (
        "reshape",
        "transpose",
        "broadcast",
        "reverse",
        "slice",
        "diagonal",
        "window",
        "copy",
        "transfer",
    )
)

RUNNING_TOTALS = frozenset(("cumulative_sum", "cumulative_product"))


def schedule_calls(
    graph: Graph, tier: str, inside: Callable[[Graph], CallScheduler] | None = None
) -> Schedule:
    """The schedule of a graph without dead nodes, call by call; `inside` schedules the bodies of
    loops, if not the same way.
    """
    return CallScheduler(graph, tier, inside).run()


class CallScheduler:
    """Walks a graph once. `ready`: nodes that have a buffer, or share one (`schedule.aliases`)."""

    def __init__(
        self, graph: Graph, tier: str, inside: Callable[[Graph], CallScheduler] | None = None
    ) -> None:
        self.graph = graph
        self.tier = tier
        self.inside = inside
        self.reads_through = tier != "plain"
        self.generic = tier != "hot"
        self.sized = any(is_open(extent) for node in graph.nodes for extent in node.shape)
        self.small = SMALL_REDUCTION if tier != "plain" else 1
        self.schedule = Schedule()
        self.ready: set[Node] = {node for node in graph.inputs if not node.scalar}
        self.complex_parts = 1

    def fresh(self, graph: Graph) -> CallScheduler:
        """A scheduler for a graph inside a call."""
        return CallScheduler(graph, self.tier) if self.inside is None else self.inside(graph)

    def run(self) -> Schedule:
        depths: dict[Node, int] = {}  # of views on views, which readers follow one by one
        for node in live_calls(self.graph):
            depth = 1 + depths.get(node.operands[0], 0) if node.operands else 0
            if self.reads_through and self.is_view(node) and depth < _DEEPEST_VIEW:
                depths[node] = depth
            else:
                self.compute(node)
        for output in self.graph.outputs:
            self.materialize(output)
        return self.schedule

    def is_view(self, node: Call) -> bool:
        """Whether consumers read through a call instead of having it computed."""
        return node.primitive.kind is not Elementwise and lowering_of(node.primitive) in LINEAR

    def source(self, node: Node) -> Node:
        """The node whose buffer a node is known to share before anything is scheduled."""
        return node

    def stored(self, node: Node) -> bool:
        return node in self.ready

    def materialize(self, node: Node) -> Value:
        """Give a node a buffer, if it has none; return whose buffer it is."""
        if node not in self.ready:
            if isinstance(node, Call):
                self.compute(node)
            else:
                self.add_map(node, node)
        found: Value = node
        while isinstance(found, Node) and found in self.schedule.aliases:
            found = self.schedule.aliases[found]
        return found

    def compute(self, node: Call) -> None:
        """Append the steps of a call, and mark it ready."""
        name = lowering_of(node.primitive)
        if name in ("reshape", "copy", "transfer") and self.shares_buffer(node):
            return
        special = SPECIAL.get(name)
        if self.reads_through and splits(node):
            special = add_split
        if 0 not in node.shape:
            if special is not None:
                special(self, node)
            elif not (self.generic and node.primitive.kind is Elementwise and self.add_flat(node)):
                self.add_map(node, node)
        self.ready.add(node)

    def add_flat(self, node: Call) -> bool:
        """Append the step of an elementwise call whose operands lie like its result, or are one
        number, from a template: most calls of the cold tier are so, and need no new nest then.
        """
        described = templates.describe(node, self.ready, self.reads_through)
        if described is None:
            return False
        key, keys, constants = described
        template = templates.find(key)
        elements = size_of(node.shape)
        if template is not None:
            step = template.step(node, [*keys, node], elements, constants)
            if step is not None:
                self.schedule.steps.append(step)
                return True
        before = len(self.schedule.steps)
        self.add_map(node, node)
        last = self.schedule.steps[-1]
        if len(self.schedule.steps) == before + 1 and isinstance(last, Step):
            templates.keep(key, last, keys, constants, node, elements)
        return True

    def shares_buffer(self, node: Call) -> bool:
        """Let a call that moves nothing be another name of its operand's buffer."""
        source = node.operands[0]
        if isinstance(source, Constant) or 0 in node.shape:
            return False
        if isinstance(source, Call) and source not in self.ready and self.is_view(source):
            return False
        if isinstance(source, Input) and source.scalar:
            return False
        self.schedule.aliases[node] = self.materialize(source)
        self.ready.add(node)
        return True

    # Steps of one nest

    def puller(self) -> Puller:
        return Puller(self.stored, split=False, small=self.small)

    def add_map(self, node: Node, target: Value) -> None:
        """One value at each place of the result."""

        def value(pull: Puller, coordinates: tuple[Affine, ...]) -> Expression:
            if isinstance(node, Call):
                return pull.compute(node, coordinates)
            return pull.value(node, coordinates)

        self.add(node, target, target.shape, value)

    def add(
        self, node: Node, target: Value, shape: tuple[int, ...],
        value: Callable[[Puller, tuple[Affine, ...]], Expression],
        place: Callable[[tuple[Affine, ...]], tuple[Affine, ...]] | None = None,
    ) -> None:  # fmt: skip
        """A step that stores `value` at `place` (the same coordinates) for all coordinates of
        `shape`.
        """
        parts = storage(target.dtype)[1]
        for part in range(parts):
            pull = self.puller()
            pull.part = part
            axes = tuple([pull.axis(extent) for extent in shape])
            coordinates = tuple([variable(axis) for axis in axes])
            expression = value(pull, coordinates)
            index = pull.element(target, place(coordinates) if place else coordinates)
            argument = pull.buffer(target)
            store = Store(argument, index, expression)
            stage = Stage(axes, (store,), not needs_scalars(expression))
            self.finish(pull, stage, node, len(axes))

    def finish(
        self,
        pull: Puller,
        stage: Stage,
        node: Node,
        parallel: int,
        check: tuple[str, str] | None = None,
        others: tuple[Node, ...] = (),
    ) -> None:
        """Arrange a stage and append its step. The first `parallel` axes may become units."""
        nest = Nest((), (stage,), pull.kinds)
        elements = size_of([axis.extent for axis in stage.axes])
        cost = sum(cost_of(store.value, cost_of_call, set()) for store in stage.stores)
        joined = join_loops(nest) if parallel == len(stage.axes) else nest
        if not check and parallel:
            joined = choose_units(joined, cost, parallel)
        nest = set_abreast(mark_wide(joined))
        work, numbers = work_of(nest), None
        if check is None:
            if self.generic:
                nest, numbers = generic(nest)
            elif self.sized:
                nest, numbers = sized(nest)
            else:
                set_streams(nest, pull.keys)
        written = frozenset(store.argument for store in stage.stores)
        self.schedule.steps.append(
            Step(nest, pull.keys, written, (node, *others), numbers, work, elements * cost, check)
        )

    def operand(self, node: Node) -> Operand:
        """A strided window on a buffer for kernels that are not nests."""
        if self.reads_through and isinstance(node, Call) and node not in self.ready:
            window = window_on(node, self.stored)
            if window is not None:
                value = window.value
                while isinstance(value, Node) and value in self.schedule.aliases:
                    value = self.schedule.aliases[value]
                return Operand(value, window.strides, window.offset)
        value = self.materialize(node)
        return Operand(value, Operand.whole(node).strides)


def live_calls(graph: Graph) -> list[Call]:
    """The calls that an output depends on, in order."""
    wanted: set[Node] = set(graph.outputs)
    found: list[Call] = []
    for node in reversed(graph.nodes):
        if isinstance(node, Call) and node in wanted:
            found.append(node)
            wanted.update(node.operands)
    found.reverse()
    return found


def window_on(node: Node, stored: Callable[[Node], bool]) -> Operand | None:
    """The node as strides over a buffer, if its elements lie so."""
    pull = Puller(stored, split=False)
    axes = tuple(pull.axis(extent) for extent in node.shape)
    try:
        found = pull.value(node, tuple(variable(axis) for axis in axes))
    except SplitAxis:
        return None
    if not isinstance(found, Load) or found.guards or storage(node.dtype)[1] != 1:
        return None
    if not all(isinstance(v, Axis) for v in found.index.terms):
        return None
    strides = tuple(found.index.coefficient(axis) for axis in axes)
    return Operand(pull.keys[found.argument], strides, found.index.offset)


def totals_rows(node: Call) -> bool:
    """Whether a call is a running sum or product of rows whose elements are neighbours: it has a
    kernel of its own. Along other axes a nest has neighbours for its lanes.
    """
    if node.primitive.kind is Elementwise or lowering_of(node.primitive) not in RUNNING_TOTALS:
        return False
    axis = node.parameters["axis"]
    is_number = not (node.dtype.is_complex or node.dtype is dtypes.bool_)
    return is_number and bool(node.shape) and size_of(node.shape[axis + 1 :]) == 1


def needs_scalars(expression: Expression) -> bool:
    """Whether an expression holds a reduction that itself runs across lanes (or has no lanes),
    be it in an address.
    """
    pending, seen = [expression], set()
    while pending:
        e = pending.pop()
        if id(e) in seen:
            continue
        seen.add(id(e))
        if (isinstance(e, Reduce) and e.form == "row") or (isinstance(e, Extreme) and e.across):
            return True
        pending.extend(held_by(e))
    return False


# --- calls of several steps ---------------------------------------------------------------------


def _widened(node: Call) -> bool:
    """Whether a running sum needs a wider type between its steps."""
    return node.dtype in (dtypes.float16, dtypes.bfloat16)


def _narrowed(scheduler: CallScheduler, node: Call, wide: Temporary) -> None:
    """Round a temporary to the type of the call."""

    def value(pull: Puller, coordinates: tuple[Affine, ...]) -> Expression:
        argument = pull.buffer(wide)
        return pull.cast(
            Load(argument, wide.dtype, pull.element(wide, coordinates), ()), node.dtype
        )

    scheduler.add(node, node, node.shape, value)


def _scan_axes(shape: tuple[int, ...], axis: int) -> tuple[list[int], int]:
    """The order of loops with `axis` sequential: others first, the last one innermost as lanes; and
    how many stand in front of `axis`.
    """
    others = [a for a in range(len(shape)) if a != axis and shape[a] != 1]
    if others and (others[-1] > axis or hint(shape[others[-1]]) >= _LANES_ACROSS):
        return [*others[:-1], axis, others[-1]], len(others) - 1
    return [*others, axis], len(others)


def _cumulative(scheduler: CallScheduler, node: Call) -> None:
    if totals_rows(node):
        _whole(scheduler, node)
        return
    (x,) = node.operands
    axis, extent = node.parameters["axis"] if x.shape else 0, size_of(x.shape[-1:])
    name = node.primitive.name
    _, combine = order.identity_and_combine(node.primitive, x.dtype)
    is_index = name.startswith("cumulative_arg")
    target: Value = node
    wide = node.dtype
    if _widened(node):
        wide = order.accumulator(node.dtype, combine)
        target = Temporary(node.shape, wide)
    pull = scheduler.puller()
    loops = [pull.axis(n) for n in node.shape]
    places = [variable(loop) for loop in loops]
    coordinates = list(places)
    back = -1
    if node.shape:
        extent = node.shape[axis]
        if node.parameters.get("reverse"):
            coordinates[axis] = places[axis].times(-1).plus(extent - 1)
            back = 1
    at = tuple(coordinates)
    here = pull.value(x, at)
    argument = pull.buffer(target)
    index = pull.element(target, at)
    if is_index:
        value = _running_extreme(pull, node, places, at, argument, here)
    else:
        value = pull.cast(here, wide)
        if extent > 1:
            step = _stride(node.shape, axis)
            later = Inside(places[axis], 1, extent)
            before = Load(argument, wide, index.plus(back * step), (later,))
            value = pull.choose((later,), pull.apply(combine, before, value), value)
    order_of_loops, parallel = _scan_axes(node.shape, axis)
    stage_axes = tuple(loops[a] for a in order_of_loops if node.shape)
    lanes = bool(stage_axes) and order_of_loops[-1] != axis and not needs_scalars(value)
    stage = Stage(stage_axes, (Store(argument, index, value),), lanes)
    scheduler.finish(pull, stage, node, parallel)
    if isinstance(target, Temporary):
        _narrowed(scheduler, node, target)


def _stride(shape: tuple[int, ...], axis: int) -> int:
    return size_of(shape[axis + 1 :])


def _running_extreme(
    pull: Puller, node: Call, places: list[Affine], at: tuple[Affine, ...], argument: int,
    here: Expression,
) -> Expression:  # fmt: skip
    """The index of the running extreme: the last among equals, the last NaN once there is one."""
    (x,) = node.operands
    zero = Number(0, dtypes.int64)
    axis = node.parameters["axis"]
    if not node.shape or node.shape[axis] == 1:
        return zero
    extent = node.shape[axis]
    later = Inside(places[axis], 1, extent)
    index = pull.element(node, at)
    before = Load(argument, dtypes.int64, index.plus(-_stride(node.shape, axis)), (later,))
    best_place = pull.dynamic(before, extent)
    best = pull.value(x, (*at[:axis], best_place, *at[axis + 1 :]))
    # The standing one stays only if it beats what is here.
    stays = beats(pull, best, here, node.primitive.name == "cumulative_argmax")
    chosen = pull.apply("where", stays, before, Coordinate(places[axis]))
    return pull.choose((later,), chosen, zero)


def _scatter(scheduler: CallScheduler, node: Call) -> None:
    """Copy the base, then write or add the updates one after the other."""
    base, _, updates = node.operands
    adds = node.primitive.name in ("put_add", "scatter_add")
    target: Value = node
    if adds and _widened(node):
        target = Temporary(node.shape, order.accumulator(node.dtype, "add"))
    wide = target.dtype
    scheduler.add(
        node, target, node.shape, lambda pull, at: pull.cast_stored(pull.value(base, at), wide)
    )
    if 0 not in updates.shape:
        for part in range(storage(node.dtype)[1]):
            _write_updates(scheduler, node, target, adds, part)
    if isinstance(target, Temporary):
        _narrowed(scheduler, node, target)


def _write_updates(
    scheduler: CallScheduler, node: Call, target: Value, adds: bool, part: int
) -> None:
    base, indices, updates = node.operands
    pull = scheduler.puller()
    pull.part = part
    loops = [pull.axis(n) for n in updates.shape]
    at = tuple(variable(loop) for loop in loops)
    if node.primitive.name.startswith("put"):
        sequential = list(range(indices.ndim))
        index = pull.value(indices, at[: indices.ndim])
        where = (pull.dynamic(index, base.shape[0]), *at[indices.ndim :])
    else:
        axis = node.parameters["axis"]
        sequential = [axis]
        index = pull.value(indices, at)
        where = (*at[:axis], pull.dynamic(index, base.shape[axis]), *at[axis + 1 :])
    value = pull.cast_stored(pull.value(updates, at), target.dtype)
    place = pull.element(target, where)
    argument = pull.buffer(target)
    if adds:
        pinned = sum(loops[axis].bits for axis in sequential)
        value = pull.apply("add", Load(argument, target.dtype, place, (), pinned), value)
    others = [a for a in range(len(loops)) if a not in sequential and updates.shape[a] != 1]
    lanes = bool(others) and others[-1] == len(loops) - 1
    lanes = lanes and not (needs_scalars(value) or needs_scalars(index))
    front = others[:-1] if lanes else others
    order_of_loops = [*front, *sequential, *others[len(front) :]]
    stage_axes = [loops[a] for a in order_of_loops]
    stage = Stage(tuple(stage_axes), (Store(argument, place, value),), lanes)
    scheduler.finish(pull, stage, node, len(front))


def _check(scheduler: CallScheduler, node: Call) -> None:
    """The indices themselves, each checked; on one thread, so that the first failure counts."""
    (indices,) = node.operands
    pull = scheduler.puller()
    loops = tuple(pull.axis(n) for n in node.shape)
    at = tuple(variable(loop) for loop in loops)
    value = pull.value(indices, at)
    argument = pull.buffer(node)
    store = Store(argument, pull.element(node, at), value, check=(0, node.parameters["size"]))
    source = ":".join(map(str, node.source)) if node.source else ""
    pull.argument(("status",), "status", dtypes.int64)
    stage = Stage(loops, (store,), False)
    scheduler.finish(pull, stage, node, len(loops), (node.parameters["message"], source))


def _whole(scheduler: CallScheduler, node: Call) -> None:
    """A kernel of its own on whole buffers."""
    operands = tuple(Operand.whole(scheduler.materialize(operand)) for operand in node.operands)
    scheduler.schedule.steps.append(
        LibraryStep(node, operands, Operand.whole(node), scheduler.generic)
    )


def _library(scheduler: CallScheduler, node: Call) -> None:
    operands = tuple(scheduler.operand(operand) for operand in node.operands)
    result = Operand.whole(node)
    serves_all = scheduler.generic or not _is_specialised(node, operands, result)
    scheduler.schedule.steps.append(LibraryStep(node, operands, result, serves_all))


def _is_specialised(node: Call, operands: Sequence[Operand], result: Operand) -> bool:
    """Whether a contraction gets a kernel of its own: what its innermost loops walk is known, while
    rows, columns and what is summed may be any number. A convolution's channels must be known, but
    for those of the sum, and so must its positions.
    """
    first, second = node.operands
    known = [*operands[0].strides[1:], *operands[1].strides[1:]]
    if lowering_of(node.primitive) == "contract":
        known.append(result.strides[-1])
    else:
        known += [*result.strides[1:], first.shape[0], second.shape[1]]
        known += [*first.shape[3:], *second.shape[3:], *node.shape[3:]]
    return not any(map(is_open, known))


def _host_call(scheduler: CallScheduler, node: Call) -> None:
    raise GraphError(
        f"[host_call] {node.parameters['function_key']!r} runs in Python and cannot be part of a "
        "native program; cut the graph there: compute its operands first, then what reads it"
    )


SPECIAL: dict[str, Callable[[CallScheduler, Call], None]] = {
    "concatenate": add_concatenation,
    "check_index": _check,
    "argsort": _whole,
    "contract": _library,
    "convolve": _library,
    "host_call": _host_call,
    **LOOPS,
}
for _name in ("cumulative_sum", "cumulative_product", "cumulative_argmax", "cumulative_argmin"):
    SPECIAL[_name] = _cumulative
for _name in ("put", "put_add", "scatter", "scatter_add"):
    SPECIAL[_name] = _scatter
