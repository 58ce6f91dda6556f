"""From a loop nest to the text of a kernel.

Comes in: a `Nest` and a target. Goes out: a `Kernel`. Guaranteed: the last loop of a stage with
`lanes` is vectorised, its tail masked; a value is computed in the outermost loop that knows its
axes; a neighbour becomes a vector load, an invariant a broadcast, everything else a gather; numbers
that are slots are read from the kernel's arguments, so that one text serves every size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from typing import Any

from avalon import dtype as dtypes
from avalon.codegen.emit import Emit, Pointer, Value
from avalon.codegen.lanes import Lanes, lane_parts
from avalon.codegen.measures import operations, widest_item
from avalon.codegen.reduction import extreme, reduce
from avalon.codegen.target import Target
from avalon.graph.primitive import lookup
from avalon.runtime.plan import Kernel
from avalon.schedule.arrange import PIECE
from avalon.schedule.index import Affine, Axis, Dynamic, Quotient, Slot
from avalon.schedule.loops import (
    Apply,
    Coordinate,
    Expression,
    Extreme,
    Inside,
    Load,
    Nest,
    Number,
    Reduce,
    Scalar,
    Stage,
    Store,
    loads_of,
)

_LINE = 64  # private buffers start at cache lines
_MUCH = 12  # elementary operations of a body that takes long to build twice


def build(nest: Nest, target: Target, prefix: str = "loops") -> Kernel:
    """The kernel of a nest; equal nests give kernels of equal names."""
    described = str(nest)
    name = f"{prefix}_{sha256(described.encode()).hexdigest()[:16]}"
    emitter = NestEmitter(nest, name, target)
    text = emitter.text()
    return Kernel(name, text, emitter.scratch, described)


class NestEmitter:
    """Writes one nest. `emit` is open inside the loops whose axes are in `open` (a set of bits)."""

    def __init__(self, nest: Nest, symbol: str, target: Target) -> None:
        self.nest = nest
        self.target = target
        self.emit = Emit(symbol, target)
        self.open = 0
        self.lanes: Lanes | None = None
        self.places: dict[
            int, Value
        ] = {}  # axis number -> its value, the first lane's if vectorised
        self.known: list[dict[int, Value]] = [{}]
        self.index_dtype = dtypes.int64 if nest.wide else dtypes.int32
        self.rows: dict[Any, set[int]] = {}  # what is read with gaps, and which phases of it
        self.row_values: dict[Any, Value] = {}
        self.streams = False  # whether stores go past the caches
        self.scratch = 0
        self._private: list[int] = []
        for dtype, size in nest.locals:
            self._private.append(self.scratch)
            self.scratch += -(-size * dtype.itemsize // _LINE) * _LINE

    def text(self) -> str:
        nest, emit = self.nest, self.emit
        if nest.cut and not nest.units and len(nest.stages) == 1:
            # The pieces lie side by side: one loop runs through all of them.
            self.body(self.span(emit.begin, emit.end))
            return emit.finish()
        with emit.loop(emit.begin, emit.end) as units:
            left: Value = units.index
            span = None
            if nest.cut:
                extent, cut = self.number(nest.stages[0].axes[0].extent), self.number(nest.cut)
                pieces = self.quotient(emit.subtract(emit.add(extent, cut), 1), cut)
                piece = self.remainder(left, pieces) if nest.units else left
                left = self.quotient(left, pieces)
                span = self.span(piece, emit.add(piece, 1))
            for axis in reversed(nest.units):
                if axis is nest.units[0]:
                    self.places[axis.number] = left
                else:
                    extent = self.number(axis.extent)
                    self.places[axis.number] = self.remainder(left, extent)
                    left = self.quotient(left, extent)
                self.open |= axis.bits
            self.body(span)
        return emit.finish()

    def span(self, first: Value, last: Value) -> tuple[Value, Value]:
        """Where the pieces from `first` up to `last` begin and end on the axis that is cut."""
        emit, cut = self.emit, self.number(self.nest.cut)
        extent = self.number(self.nest.stages[0].axes[0].extent)
        return emit.multiply(first, cut), emit.minimum(emit.multiply(last, cut), extent)

    def body(self, span: tuple[Value, Value] | None) -> None:
        """All stages, the outermost loop of each within `span`."""
        with self.scope():
            for stage in self.nest.stages:
                with self.scope():
                    self.stage(stage, 0, span)

    # Loops

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Values found inside are forgotten outside."""
        self.known.append({})
        yield
        self.known.pop()

    @contextmanager
    def inside(self, axis: Axis, place: Value, lanes: Lanes | None = None) -> Iterator[None]:
        """Within the loop of `axis`, which now stands at `place`."""
        outer_lanes = self.lanes
        self.places[axis.number] = place
        self.open |= axis.bits
        if lanes is not None:
            self.lanes = lanes
        with self.scope():
            yield
        self.lanes = outer_lanes
        self.open &= ~axis.bits

    def across(
        self, axis: Axis, place: Value, count: int, mask: Value | None, aligned: bool
    ) -> AbstractContextManager[None]:
        """Within a strip of `count` lanes of `axis`, of which the first is at `place`; `aligned` if
        that is a multiple of `count`.
        """
        return self.inside(axis, place, Lanes(axis.bits, axis, count, mask, aligned))

    def stage(self, stage: Stage, level: int, span: tuple[Value, Value] | None) -> None:
        """The loops of a stage from `level` on; `span` bounds the first."""
        emit = self.emit
        self.prepare(stage)
        if level == len(stage.axes):
            # All values come before the first store: a result may lie in the memory of an operand.
            self.rows, self.row_values = self.shared_rows(stage), {}
            self.streams = stage.streams
            for store in stage.stores:
                self.value(store.value)
            for stores in self.woven(stage):
                if len(stores) == 1:
                    self.store(stores[0])
                else:
                    self.store_woven(stores)
            return
        axis = stage.axes[level]
        start, stop = span or (emit.index(0), self.number(axis.extent))
        if not (stage.lanes and level == len(stage.axes) - 1):
            with emit.loop(start, stop) as loop, self.inside(axis, loop.index):
                self.stage(stage, level + 1, None)
            return
        width = self.width(stage)
        even = isinstance(axis.extent, int) and axis.extent % width == 0
        once = self.target.has_masks and operations(stage) >= _MUCH
        for place, mask in self.strips(start, stop, width, even, once):
            with self.across(axis, place, width, mask, span is None or PIECE % width == 0):
                self.stage(stage, level + 1, None)

    def strips(
        self, start: Value, stop: Value, width: int, even: bool, once: bool
    ) -> Iterator[tuple[Value, Value | None]]:
        """The strips of a vectorised loop: whole vectors in a loop, then the masked rest; yields
        the first element and the mask, and the caller writes the body for each. `even` promises
        that no rest is left. A long body of unknown extent is written `once`, masked throughout.
        """
        emit = self.emit
        count = emit.subtract(stop, start) if start.number != 0 else stop
        if isinstance(count.number, int):
            whole = count.number // width * width
            if whole:
                with emit.loop(start, whole, width, nonempty=True) as loop:
                    yield loop.index, None
            if count.number > whole:
                yield emit.index(whole), emit.mask_below(count.number - whole, width)
            return
        if even:
            with emit.loop(start, stop, width) as loop:
                yield loop.index, None
            return
        if once:
            with emit.loop(start, stop, width) as loop:
                yield loop.index, emit.mask_below(emit.subtract(stop, loop.index), width)
            return
        rest = emit.bit_and(count, width - 1)
        whole_end = emit.subtract(stop, rest)
        with emit.loop(start, whole_end, width) as loop:
            yield loop.index, None
        with emit.if_(emit.less(whole_end, stop)):
            yield whole_end, emit.mask_below(rest, width)

    def width(self, stage: Stage) -> int:
        """Lanes of a stage's vectors: the widest type in it fills a register, but for positions,
        which are wide yet few.
        """
        itemsize = 1
        for store in stage.stores:
            widest = widest_item(store.value, set())
            if widest == 8 and not self.is_wide(store):
                widest = 4
            itemsize = max(itemsize, widest)
        width = max(2, 4 * self.target.lanes // itemsize)
        extent = stage.axes[-1].extent
        while isinstance(extent, int) and extent <= width // 2 and width > 2:
            width //= 2  # a short axis leaves the rest of a wide vector idle
        return width * stage.abreast

    def is_wide(self, store: Store) -> bool:
        """Whether the result itself has elements of 8 bytes."""
        return store.value.dtype.itemsize == 8

    def prepare(self, stage: Stage) -> None:
        """Compute everything that depends on open axes only, in front of the loops that follow."""
        seen: set[int] = set()
        for store in stage.stores:
            self.prepare_form(store.index, seen)
            for guard in store.guards:
                self.prepare_form(guard.form, seen)
            self.prepare_value(store.value, seen)

    def prepare_value(self, expression: Expression, seen: set[int]) -> None:
        if id(expression) in seen:
            return
        seen.add(id(expression))
        if not expression.bits & ~self.open:
            if not isinstance(expression, Number | Scalar):
                self.value(expression)
            return
        if isinstance(expression, Apply):
            for operand in expression.operands:
                self.prepare_value(operand, seen)
        elif isinstance(expression, Load):
            self.prepare_form(expression.index, seen)
            for guard in expression.guards:
                self.prepare_form(guard.form, seen)
        elif isinstance(expression, Reduce | Extreme):
            self.prepare_value(expression.body, seen)
        elif isinstance(expression, Inside | Coordinate):
            self.prepare_form(expression.form, seen)

    def prepare_form(self, form: Affine, seen: set[int]) -> None:
        for variable in form.terms:
            if isinstance(variable, Dynamic):
                self.prepare_value(variable.expression, seen)
            elif isinstance(variable, Quotient):
                self.prepare_form(variable.source, seen)

    # Index arithmetic

    def number(self, number: Any) -> Value:
        """A number of the nest: known, or an argument."""
        if isinstance(number, Slot):
            return self.emit.integer(number.position)
        return self.emit.index(number)

    def quotient(self, value: Value, divisor: Value) -> Value:
        """value / divisor of a value that is not negative."""
        if isinstance(value.number, int) and isinstance(divisor.number, int):
            return self.emit.constant(value.number // divisor.number, value.dtype, value.lanes)
        return self.emit.binary("udiv", value, divisor)

    def remainder(self, value: Value, divisor: Value) -> Value:
        if isinstance(value.number, int) and isinstance(divisor.number, int):
            return self.emit.constant(value.number % divisor.number, value.dtype, value.lanes)
        return self.emit.binary("urem", value, divisor)

    def lane_bits(self) -> int:
        return self.lanes.bits if self.lanes is not None else 0

    def scalar_form(self, form: Affine) -> Value:
        """The form at the first lane, without variables that follow no step from lane to lane."""
        emit = self.emit
        _, parts = lane_parts(form, self.lanes)
        terms = []
        for variable, coefficient in form.terms.items():
            if isinstance(variable, Axis):
                place = self.places[variable.number]
            elif (variable, coefficient) in parts:
                continue
            else:
                place = self.variable(variable, False)
            terms.append(emit.multiply(place, self.number(coefficient)))
        terms.sort(key=lambda term: term.depth)  # so that outer loops hold the partial sums
        total = self.number(form.offset)
        for term in terms:
            total = emit.add(total, term)
        return total

    def vector_form(self, form: Affine) -> Value:
        """The form in every lane."""
        emit, lanes = self.emit, self.lanes
        assert lanes is not None
        step, parts = lane_parts(form, lanes)
        total = self.index_vector(self.scalar_form(form))
        if not (isinstance(step, int) and step == 0):
            steps = emit.multiply(
                emit.iota(lanes.count, self.index_dtype), self.index_vector(self.number(step))
            )
            total = emit.add(total, steps)
        for variable, coefficient in parts:
            scaled = emit.multiply(
                self.variable(variable, True), self.index_vector(self.number(coefficient))
            )
            total = emit.add(total, scaled)
        return total

    def index_vector(self, value: Value) -> Value:
        """An index in all lanes, in the type of index vectors."""
        assert self.lanes is not None
        return self.emit.broadcast(self.emit.cast(value, self.index_dtype), self.lanes.count)

    def variable(self, variable: Quotient | Dynamic, in_lanes: bool) -> Value:
        """An index vector, or a scalar int64: the variable at the first lane."""
        emit = self.emit
        if isinstance(variable, Dynamic):
            index = self.value(variable.expression)
            limit = emit.constant(0, dtypes.int64, index.lanes)
            index = emit.maximum(index, limit)
            top = emit.broadcast(self.number(variable.limit), index.lanes)
            index = emit.minimum(index, top)
            if in_lanes:
                assert self.lanes is not None
                index = emit.broadcast(emit.cast(index, self.index_dtype), self.lanes.count)
            return index
        divisor = self.number(variable.divisor)
        if in_lanes:
            source = self.vector_form(variable.source)
            divisor = self.index_vector(divisor)
        else:
            source = self.scalar_form(variable.source)
        if variable.remainder:
            return self.remainder(source, divisor)
        return self.quotient(source, divisor)

    def form(self, form: Affine) -> Value:
        """The form as a scalar, or as a vector where it differs from lane to lane."""
        if form.bits & self.lane_bits():
            return self.vector_form(form)
        return self.scalar_form(form)

    def guard(self, guard: Inside) -> Value:
        """Whether a guard holds: one unsigned comparison."""
        emit = self.emit
        form = self.form(guard.form)
        low, high = self.number(guard.low), self.number(guard.high)
        span = emit.subtract(high, low)
        if form.lanes > 1:
            low, span = self.index_vector(low), self.index_vector(span)
        return emit.compare("ult", emit.subtract(form, low), span)

    def mask(self, guards: Sequence[Inside], lanes: int) -> Value | None:
        """The lanes in which all guards hold and that are not past the end."""
        emit = self.emit
        mask = self.lanes.mask if self.lanes is not None and lanes > 1 else None
        for guard in guards:
            holds = emit.broadcast(self.guard(guard), lanes)
            mask = holds if mask is None else emit.bit_and(mask, holds)
        return mask

    # Memory

    def buffer(self, argument: int) -> Pointer:
        if argument >= 0:
            return self.emit.pointer(argument)
        return self.emit.offset(self.emit.scratch, self._private[-argument - 1])

    def load(self, load: Load) -> Value:
        emit, buffer = self.emit, self.buffer(load.argument)
        if not load.bits & self.lane_bits():
            index = self.scalar_form(load.index)
            holds = self.mask(load.guards, 1)
            if holds is None:
                return emit.load(buffer, index, load.dtype)
            # Where a guard fails the first element is read in place of one outside, and dropped.
            index = emit.where(holds, index, emit.index(0))
            value = emit.load(buffer, index, load.dtype)
            return emit.where(holds, value, emit.constant(0, load.dtype))
        assert self.lanes is not None
        mask = self.mask(load.guards, self.lanes.count)
        step, parts = lane_parts(load.index, self.lanes)
        if not parts and isinstance(step, int):
            if step == 0 and not load.guards:
                return emit.load(buffer, self.scalar_form(load.index), load.dtype)
            if step == 1:
                index = self.first_element(load)
                return emit.load(buffer, index, load.dtype, self.lanes.count, mask)
            if step == -1:
                return self.load_backwards(load, buffer, mask)
            strided = self.target.has_masks and load.dtype.itemsize >= 4
            if 2 <= step <= 4 and strided:
                return self.load_strided(load, buffer, step, mask)
        return emit.gather(buffer, self.vector_form(load.index), load.dtype, mask)

    def first_element(self, load: Load) -> Value:
        """Where the first lane reads; the buffer's start where guards switch all lanes off, for
        lanes that are off slow machines down where no memory is.
        """
        index = self.scalar_form(load.index)
        for guard in load.guards:
            if not guard.bits & self.lane_bits():
                index = self.emit.where(self.guard(guard), index, self.emit.index(0))
        return index

    def load_backwards(self, load: Load, buffer: Pointer, mask: Value | None) -> Value:
        """A row of neighbours, turned around."""
        emit, lanes = self.emit, self.lanes
        assert lanes is not None
        turned = range(lanes.count - 1, -1, -1)
        start = emit.subtract(self.first_element(load), lanes.count - 1)
        mask = mask and emit.shuffle(mask, None, turned)
        row = emit.load(buffer, start, load.dtype, lanes.count, mask)
        return emit.shuffle(row, None, turned)

    def load_strided(self, load: Load, buffer: Pointer, step: int, mask: Value | None) -> Value:
        """Every `step`-th of a row of neighbours: cheaper than a gather."""
        emit, lanes = self.emit, self.lanes
        assert lanes is not None
        wide = lanes.count * step
        spread = mask and emit.shuffle(mask, None, [lane // step for lane in range(wide)])
        phase = load.index.offset % step if isinstance(load.index.offset, int) else 0
        key = (load.argument, load.index.plus(-phase), load.guards)
        if self.rows.get(key) == set(range(step)):
            # All phases of the row are wanted, so it is read once, and all of it exists.
            row = self.row_values.get(key)
            if row is None:
                row = emit.load(buffer, self.scalar_form(key[1]), load.dtype, wide, spread)
                self.row_values[key] = row
            return emit.shuffle(row, None, range(phase, wide, step))
        wanted = emit.constants([lane % step == 0 for lane in range(wide)], dtypes.bool_)
        if spread is not None:
            wanted = emit.bit_and(wanted, spread)
        row = emit.load(buffer, self.first_element(load), load.dtype, wide, wanted)
        return emit.shuffle(row, None, range(0, wide, step))

    def shared_rows(self, stage: Stage) -> dict[Any, set[int]]:
        """For rows that are read with a stride, by buffer and place: which phases of it."""
        rows: dict[Any, set[int]] = {}
        if self.lanes is None or isinstance(stage.axes[-1].extent, Slot):
            return rows
        for load in loads_of(store.value for store in stage.stores):
            step, offset = load.index.coefficient(self.lanes.axis), load.index.offset
            if isinstance(step, int) and step > 1 and isinstance(offset, int):
                phase = offset % step
                key = (load.argument, load.index.plus(-phase), load.guards)
                rows.setdefault(key, set()).add(phase)
        return rows

    def woven(self, stage: Stage) -> list[list[Store]]:
        """The stores, those together that fill the gaps between each other's elements."""
        if self.lanes is None or isinstance(stage.axes[-1].extent, Slot):
            return [[store] for store in stage.stores]
        groups: dict[Any, list[Store]] = {}
        for number, store in enumerate(stage.stores):
            step = store.index.coefficient(self.lanes.axis)
            offset = store.index.offset
            key: Any = number
            if isinstance(step, int) and isinstance(offset, int) and step > 1 and not store.guards:
                key = (store.argument, store.index.plus(-(offset % step)))
            groups.setdefault(key, []).append(store)
        result = []
        for stores in groups.values():
            step = stores[0].index.coefficient(self.lanes.axis)
            complete = len(stores) > 1 and len(stores) == step and step & (step - 1) == 0
            if complete:
                stores.sort(key=lambda store: int(store.index.offset))
            result.extend([stores] if complete else [[store] for store in stores])
        return result

    def store_woven(self, stores: list[Store]) -> None:
        """Stores whose elements take turns, as one store of neighbours."""
        emit, lanes = self.emit, self.lanes
        assert lanes is not None
        count = len(stores)
        values = [emit.broadcast(self.value(store.value), lanes.count) for store in stores]
        # Weaving two and two: the first half of the stores with the second, and so on.
        while len(values) > 1:
            half, width = len(values) // 2, values[0].lanes
            turns = [lane // 2 + lane % 2 * width for lane in range(2 * width)]
            values = [emit.shuffle(values[i], values[i + half], turns) for i in range(half)]
        mask = lanes.mask
        if mask is not None:
            mask = emit.shuffle(mask, None, [lane // count for lane in range(count * lanes.count)])
        index = self.scalar_form(stores[0].index)
        emit.store(self.buffer(stores[0].argument), index, values[0], mask)

    def store(self, store: Store) -> None:
        emit, buffer = self.emit, self.buffer(store.argument)
        value = self.value(store.value)
        if store.check is not None:
            self.check(store, value)
        if self.lanes is None:
            emit.store(buffer, self.scalar_form(store.index), value, self.mask(store.guards, 1))
            return
        value = emit.broadcast(value, self.lanes.count)
        mask = self.mask(store.guards, self.lanes.count)
        step, parts = lane_parts(store.index, self.lanes)
        if step == 1 and not parts:
            streams = self.streams and mask is None and self.starts_line(store)
            emit.store(buffer, self.scalar_form(store.index), value, mask, streams=streams)
        else:
            emit.scatter(buffer, self.vector_form(store.index), value, mask)

    def starts_line(self, store: Store) -> bool:
        """Whether the lanes of a store always begin where a vector does, counted from the start of
        a buffer that begins with a line.
        """
        assert self.lanes is not None
        count = self.lanes.count
        others = [c for v, c in store.index.terms.items() if v is not self.lanes.axis]
        numbers = [store.index.offset, *others]
        known = all(isinstance(number, int) and number % count == 0 for number in numbers)
        return known and self.lanes.aligned and store.argument >= 0

    def check(self, store: Store, value: Value) -> None:
        """Report a value outside [0, bound), unless an earlier check failed already."""
        emit = self.emit
        assert store.check is not None
        number, bound = (self.number(part) for part in store.check)
        wide = emit.cast(value, dtypes.int64)
        status = emit.pointer([kind for kind, _ in self.nest.arguments].index("status"))
        with emit.if_(emit.compare("uge", wide, bound)):
            clear = emit.equal(emit.load(status, 0, dtypes.int64), 0)
            with emit.if_(clear):
                emit.store(status, 1, wide)
                emit.store(status, 0, emit.add(number, 1))

    # Values

    def value(self, expression: Expression) -> Value:
        """The value of an expression here: a scalar, or a vector where it differs from lane to
        lane.
        """
        for known in reversed(self.known):
            found = known.get(id(expression))
            if found is not None:
                return found
        found = self.compute(expression)
        self.known[-1][id(expression)] = found
        return found

    def compute(self, expression: Expression) -> Value:
        emit = self.emit
        if isinstance(expression, Number):
            return emit.constant(expression.value, expression.dtype)
        if isinstance(expression, Scalar):
            return emit.scalar(expression.argument, expression.dtype)
        if isinstance(expression, Load):
            return self.load(expression)
        if isinstance(expression, Coordinate):
            return emit.cast(self.form(expression.form), dtypes.int64)
        if isinstance(expression, Inside):
            return self.guard(expression)
        if isinstance(expression, Reduce):
            return reduce(self, expression)
        if isinstance(expression, Extreme):
            return extreme(self, expression)
        assert isinstance(expression, Apply)
        operands = [self.value(operand) for operand in expression.operands]
        lanes = max(operand.lanes for operand in operands)
        operands = [emit.broadcast(operand, lanes) for operand in operands]
        own = expression.name == "fma"  # no primitive: sums of products are built of it
        lower = Emit.fma if own else lookup(expression.name).rules["lower"]
        result = lower(emit, *operands, **expression.parameters)
        assert isinstance(result, Value)
        return result
