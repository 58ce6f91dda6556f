"""A nest that reads windows of a convolution's result, written into the convolution's kernel.

Comes in: an `Epilogue` whose walk has windows. Goes out: what a kernel calls with boxes of finished
elements that lie in its own memory, see `contraction_boxes`. Guaranteed: the nest's own
instructions on the same values, so the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from avalon.codegen.emit import Emit, Pointer, Value
from avalon.codegen.epilogue import FusedEmitter
from avalon.codegen.loops import loads_of
from avalon.codegen.target import Target
from avalon.dtype import DType
from avalon.schedule.arrange import Mapper
from avalon.schedule.epilogue import Epilogue
from avalon.schedule.index import Affine, Axis
from avalon.schedule.loops import Expression, Load, Stage
from avalon.schedule.windows import coordinates
from avalon.shape import Shape, contiguous_strides, size_of

_CHANNEL = 2  # the axis of a convolution's result [G, N, O, *P]


class WindowEmitter(FusedEmitter):
    """Writes rounds of a nest, the elements of whose windows lie in a kernel's memory.

    Attributes:
        steps, extents: how far apart windows are along the three axes of positions, and how many.
        stores: the types of what the nest stores.
        crossing: the loop that walks channels one by one, if one does and everything else that the
            nest reads lies well for lanes along it.
    """

    def __init__(self, epilogue: Epilogue, shape: Shape, target: Target) -> None:
        super().__init__(epilogue, target)
        walk = epilogue.walk
        missing = (1,) * (6 - len(shape))
        self.shape = shape
        self.steps = (*missing, *walk.steps[3:])
        self.extents = (*missing, *walk.extents[3:])
        self.stores = [store.value.dtype for store in self.only.stores]
        self.crossing = self._crossing()
        self.keeps = epilogue.keeps
        self.local = self.only
        self.lanes_step = 1
        self.memory: Pointer | None = None
        self.spans = 1

    def _crossing(self) -> Axis | None:
        for loop, group in zip(self.axes, self.epilogue.walk.groups, strict=True):
            if group and group[-1] == _CHANNEL:
                forms = [
                    load.index
                    for load in loads_of(store.value for store in self.only.stores)
                    if load.argument != self.epilogue.argument
                ]
                lies_well = all(form.coefficient(loop) in (0, 1) for form in forms)
                forms += [store.index for store in self.only.stores]
                is_plain = all(isinstance(term, Axis) for form in forms for term in form.terms)
                return loop if lies_well and is_plain else None
        return None

    @property
    def can_cross(self) -> bool:
        """Whether lanes may run along channels."""
        return self.crossing is not None

    @property
    def joined(self) -> int:
        """How many axes of positions, the last ones, each store walks as if they were one."""
        count = 1
        while count < 3 and all(
            self._moves(store.index)[-count - 1]
            == self._moves(store.index)[-count] * self.extents[-count]
            for store in self.only.stores
        ):
            count += 1
        return count

    def _moves(self, form: Affine) -> list[int]:
        """How far an index goes for a step along each of the three axes of positions."""
        moves = [0] * len(self.shape)
        for loop, group in zip(self.axes, self.epilogue.walk.groups, strict=True):
            strides = contiguous_strides([self.epilogue.walk.extents[axis] for axis in group])
            for axis, stride in zip(group, strides, strict=True):
                moves[axis] = form.coefficient(loop) * stride
        return [0] * (6 - len(self.shape)) + moves[3:]

    def begin(self, strides: Sequence[int], crosses: bool) -> None:
        """Say how far apart positions lie in the kernel's memory, along their three axes, and
        whether lanes run along channels (neighbours there) or along the last axis.
        """
        lanes = self.crossing if crosses else self.axes[-1]
        assert lanes is not None
        self.lanes_step = 1 if crosses else self.steps[-1] * strides[-1]
        missing = 6 - len(self.shape)

        def place(offset: int) -> int:
            inside = coordinates(self.shape, offset)[3:]
            return sum(i * s for i, s in zip(inside, strides[missing:], strict=True))

        local = _Local(self.epilogue.argument, lanes, self.lanes_step, place)
        self.local = local.stage(self.only)

    def write_row(
        self, emit: Emit, memory: Pointer, dtype: DType, place: Value, index: tuple[Value, ...],
        count: int, mask: Value | None,
    ) -> None:  # fmt: skip
        """Compute and store `count` rounds along the last axis from `index` on; the first one's
        window begins at element `place` of the memory.
        """
        self._turn_to(emit, index)
        lanes = self.axes[-1]
        self._begin_at(memory, dtype, place, lanes)
        with self.across(lanes, self.places[lanes.number], count, mask, False):
            self.stage(self.local, len(self.local.axes), None)

    def values_across(
        self, emit: Emit, memory: Pointer, dtype: DType, place: Value, index: tuple[Value, ...],
        count: int, mask: Value | None,
    ) -> list[Value]:  # fmt: skip
        """What the nest would store in `count` rounds along the channels from `index` on."""
        lanes = self.crossing
        assert lanes is not None
        self._turn_to(emit, index)
        self._begin_at(memory, dtype, place, lanes)
        with self.across(lanes, self.places[lanes.number], count, mask, False):
            self.rows, self.row_values = {}, {}
            return [
                emit.broadcast(self.value(store.value), count) for store in self.local.stores
            ]

    def store_values(
        self, emit: Emit, values: Sequence[Value], index: tuple[Value, ...], mask: Value | None
    ) -> None:
        """Store such values, of rounds along the last axis from `index` on."""
        self._turn_to(emit, index)
        lanes = self.axes[-1]
        with self.across(lanes, self.places[lanes.number], values[0].lanes, mask, False):
            for store, value in zip(self.only.stores, values, strict=True):
                self.known[-1][id(store.value)] = value
                self.store(store)

    def write_sums(
        self, emit: Emit, partial: Pointer, spans: int, index: tuple[Value, ...], count: int,
        mask: Value | None,
    ) -> None:  # fmt: skip
        """As `write_row`, where an element is the sum of those of `spans` row-major arrays."""
        self._turn_to(emit, index)
        lanes = self.axes[-1]
        self.memory, self.spans = partial, spans
        with self.across(lanes, self.places[lanes.number], count, mask, False):
            self.stage(self.only, len(self.only.axes), None)

    def load(self, load: Load) -> Value:
        if load.argument != self.epilogue.argument or self.spans == 1:
            return super().load(load)
        emit, first = self.emit, self.memory
        assert first is not None
        total = super().load(load)
        with emit.loop(1, self.spans, carried=(total,), nonempty=True) as span:
            moved = emit.multiply(span.index, size_of(self.shape))
            self.memory = emit.offset(first, moved, load.dtype)
            span.next(emit.add(span.values[0], super().load(load)))
        self.memory = first
        return span.results[0]

    def shared_rows(self, stage: Stage) -> dict[Any, set[int]]:
        return super().shared_rows(stage) if self.spans == 1 else {}

    def _turn_to(self, emit: Emit, index: tuple[Value, ...]) -> None:
        self.emit = emit
        self.turn_to((*index[:3], *index[9 - len(self.shape) :]))

    def _begin_at(self, memory: Pointer, dtype: DType, place: Value, lanes: Axis) -> None:
        """Point to where the round 0 of the lanes would find its window."""
        emit = self.emit
        back = emit.multiply(self.places[lanes.number], self.lanes_step)
        self.memory = emit.offset(memory, emit.subtract(place, back), dtype)

    def buffer(self, argument: int) -> Pointer:
        if argument == self.epilogue.argument:
            assert self.memory is not None
            return self.memory
        return super().buffer(argument)


class _Local(Mapper):
    """Lets loads of one argument read a kernel's memory instead."""

    def __init__(self, argument: int, lanes: Axis, step: int, place: Callable[[int], int]) -> None:
        super().__init__()
        self.argument, self.lanes, self.step, self.place = argument, lanes, step, place

    def _expression(self, e: Expression) -> Expression:
        if isinstance(e, Load) and e.argument == self.argument:
            index = Affine({self.lanes: self.step}, self.place(e.index.offset))
            return Load(e.argument, e.dtype, index, ())
        return super()._expression(e)
