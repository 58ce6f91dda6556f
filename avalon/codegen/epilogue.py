"""A nest written into the kernel of the contraction that it follows.

Comes in: an `Epilogue` of the schedule. Goes out: a function that a contraction calls with its
finished elements, and that writes what the nest stores. Guaranteed: the nest's own instructions on
the same values, so the same bits.
"""

from __future__ import annotations

from avalon.codegen.contraction import FIRST_SLOT
from avalon.codegen.emit import Emit, Pointer, Value
from avalon.codegen.loops import NestEmitter
from avalon.codegen.target import Target
from avalon.schedule.arrange import axes_of
from avalon.schedule.epilogue import Epilogue
from avalon.schedule.loops import Expression, Load, Scalar
from avalon.shape import Shape, contiguous_strides


class EpilogueEmitter(NestEmitter):
    """Writes one round of a nest: the lanes that a contraction hands over.

    The nest's arguments are the kernel's slots from `FIRST_SLOT` on.
    """

    def __init__(self, epilogue: Epilogue, shape: Shape, target: Target) -> None:
        super().__init__(epilogue.step.nest, "", target)
        self.epilogue = epilogue
        self.shape = shape
        self.result: Value | None = None

    def write(
        self, emit: Emit, value: Value, index: tuple[Value, ...], axis: int, mask: Value | None
    ) -> None:
        """Compute and store what the nest stores at these elements of the contraction's result."""
        self.emit, self.result = emit, value
        (stage,) = self.nest.stages
        axes = list(axes_of(self.nest))
        for loop, group in zip(axes, self.epilogue.groups, strict=True):
            self.places[loop.number] = self.combined(index, group)
            self.open |= loop.bits
        if self.epilogue.keeps:
            place = self.combined(index, tuple(range(len(self.shape))))
            emit.store(self.buffer(self.epilogue.argument), place, value, mask)
        lanes = axes[-1]
        with self.across(lanes, self.places[lanes.number], value.lanes, mask, False):
            self.stage(stage, len(stage.axes), None)

    def combined(self, index: tuple[Value, ...], group: tuple[int, ...]) -> Value:
        """The coordinates of neighbouring axes as one number."""
        emit = self.emit
        total = emit.index(0)
        steps = contiguous_strides([self.shape[axis] for axis in group])
        for axis, step in zip(group, steps, strict=True):
            if self.shape[axis] > 1:
                total = emit.add(total, emit.multiply(index[axis], step))
        return total

    def buffer(self, argument: int) -> Pointer:
        return self.emit.pointer(FIRST_SLOT + argument)

    def load(self, load: Load) -> Value:
        if load.argument == self.epilogue.argument:
            assert self.result is not None
            return self.result
        return super().load(load)

    def compute(self, expression: Expression) -> Value:
        if isinstance(expression, Scalar):
            return self.emit.scalar(FIRST_SLOT + expression.argument, expression.dtype)
        return super().compute(expression)
