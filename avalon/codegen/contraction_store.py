"""Finished sums on their way to y, or to the work that is fused to a contraction.

Comes in: a `Problem`, the slot of y, and what is done with its elements. Goes out: instructions
that take runs of sums out of private memory. Guaranteed: an element is rounded to y's dtype once,
before anything else is done with it; lanes run along y's last axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from avalon import dtype as dtypes
from avalon.codegen.contraction_problem import Problem, known
from avalon.codegen.emit import Emit, Pointer, Value
from avalon.dtype import DType

_SPREAD = 4  # longest step between neighbours of y that are stored without a scatter

# (emit, value, index of the first lane's element, lane axis, mask of the lanes that exist or None)
Epilogue = Callable[[Emit, Value, tuple[Value, ...], int, Value | None], None]


@dataclass(frozen=True)
class Results:
    """Where sums go.

    Attributes:
        problem: with numbers that may be arguments of the kernel.
        slot: of y, where there is no epilogue.
        held, stored: dtypes of the sums in private memory, and of y.
        width: lanes of a vector.
        rank: number of axes of positions.
        epilogue: called with the elements, if they are not stored.
    """

    emit: Emit
    problem: Problem
    slot: int
    held: DType
    stored: DType
    width: int
    rank: int
    epilogue: Epilogue | None

    def place(self, span: Value, index: tuple[Value, ...]) -> Value:
        """Where in y the element with this index is."""
        emit, problem = self.emit, self.problem
        place = emit.multiply(span, emit.index(problem.span_stride))
        place = emit.add(place, emit.index(problem.y_offset))
        for i, stride in zip(index, problem.y_strides, strict=False):
            place = emit.add(place, emit.multiply(i, emit.index(stride)))
        return place

    def hand_over(
        self, span: Value, source: Pointer, at: Value, index: tuple[Value, ...], count: Value
    ) -> None:
        """Hand over `count` neighbours along y's last axis, from `index` on; their sums start at
        `at` of `source`.
        """
        emit, width = self.emit, self.width
        with emit.loop(0, count, width, nonempty=True) as lane:
            exact = isinstance(count.number, int) and count.number % width == 0
            rest = emit.subtract(count, lane.index)
            mask = None if exact else emit.mask_below(rest, width)
            value = emit.load(source, emit.add(at, lane.index), self.held, width)
            value = emit.cast(value, self.stored)
            whole = (*index[:-1], emit.add(index[-1], lane.index))
            if self.epilogue is None:
                self._store(span, value, whole, mask)
            else:
                logical = whole if self.rank == 0 else (*whole[:3], *whole[6 - self.rank :])
                self.epilogue(emit, value, logical, len(logical) - 1, mask)

    def _store(
        self, span: Value, value: Value, index: tuple[Value, ...], mask: Value | None
    ) -> None:
        emit, problem = self.emit, self.problem
        place = self.place(span, index)
        step = known(problem.y_strides[len(index) - 1])
        pointer = emit.pointer(self.slot)
        if step == 1:
            emit.store(pointer, place, value, mask)
            return
        if not 0 < step <= _SPREAD:
            base = emit.offset(pointer, place, self.stored)
            apart = emit.constants([step * lane for lane in range(value.lanes)], dtypes.int64)
            emit.scatter(base, apart, value, mask)
            return
        # A phase of a dilated convolution: every second element of a row, say.
        whole = mask or emit.constant(True, dtypes.bool_, value.lanes)
        for part in range(step):
            lanes = [part * value.lanes + lane for lane in range(value.lanes)]
            spread = [lane // step for lane in lanes]
            present = emit.constants([lane % step == 0 for lane in lanes], dtypes.bool_)
            present = emit.bit_and(present, emit.shuffle(whole, None, spread))
            there = emit.add(place, part * value.lanes)
            emit.store(pointer, there, emit.shuffle(value, None, spread), present)
