"""Weights of a product that many rounds of a loop share: packed once, by a launch of its own.

Comes in: the `Problem` of a matrix product whose w is the same in all rounds. Goes out: a kernel
that copies w into panels of neighbouring lanes, and the product of x with the panels, as a problem
with one group a panel. Guaranteed: the sums of the problem that came in, element by element and in
the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256

from avalon.codegen.contraction_pack import Scratch, block_at, split
from avalon.codegen.contraction_problem import Problem, known
from avalon.codegen.contraction_sides import Operand, PackedSide
from avalon.codegen.contraction_tile import lanes_of, summed_in
from avalon.codegen.emit import Emit, Value
from avalon.codegen.target import Target
from avalon.dtype import DType
from avalon.runtime.plan import Kernel
from avalon.size import is_open

_WIDTHS = (64, 48, 32)  # lanes of a panel: the first that divides the channels is taken
_NEAR = 256  # bytes that rows of w may lie apart to be as good as panels

Write = Callable[[Emit, Value, tuple[Value, ...], int, Value | None], None]


@dataclass(frozen=True)
class Ahead:
    """`kernel` packs w into a buffer of `nbytes` in `work` units; `problem` reads that as its w."""

    kernel: Kernel
    work: int
    nbytes: int
    problem: Problem

    def writing(self, write: Write) -> Write:
        """An epilogue of the problem as it was, for elements of this one."""
        width = known(self.problem.channels)

        def write_as_before(
            emit: Emit, value: Value, index: tuple[Value, ...], axis: int, mask: Value | None
        ) -> None:
            panel, row, lane = index
            column = emit.add(emit.multiply(panel, width), lane)
            write(emit, value, (emit.constant(0, panel.dtype), row, column), axis, mask)

        return write_as_before


@lru_cache(maxsize=256)
def packed_ahead(target: Target, dtype: DType, problem: Problem) -> Ahead | None:
    """The packing and what follows it; None where w is read as fast in place, does not fall into
    whole panels, or is of unknown size.
    """
    channels, depth = known(problem.channels), known(problem.depth)
    groups, spans = known(problem.groups), problem.blocks.spans
    if any(map(is_open, (channels, depth, groups, spans))):
        return None
    lanes = lanes_of(target, dtype)
    width = next((n for n in _WIDTHS if channels % n == 0 and n % lanes == 0), 0)
    _, part, pitch, *_ = map(known, problem.w_strides)
    near = part == 1 and 0 < pitch * dtype.itemsize <= _NEAR
    one = groups == 1 and spans == 1
    if not width or near or not one or summed_in(dtype) is not dtype:
        return None
    panels = channels // width
    following = replace(
        problem, groups=panels, channels=width,
        x_strides=(0, *problem.x_strides[1:]),
        w_strides=(depth * width, 1, width, *problem.w_strides[3:]), w_offset=0,
        y_strides=(width * known(problem.y_strides[2]), *problem.y_strides[1:]),
    )  # fmt: skip
    kernel = _kernel(target, dtype, problem, width)
    work = panels * problem.blocks.total
    return Ahead(kernel, work, channels * depth * dtype.itemsize, following)


def _kernel(target: Target, dtype: DType, problem: Problem, width: int) -> Kernel:
    """A unit packs one block of a panel."""
    identity = (dtype.name, problem.w_strides, problem.w_offset, problem.channels, width,
                problem.lengths, problem.counts)  # fmt: skip
    symbol = f"pack_{sha256(repr(identity).encode()).hexdigest()[:16]}"
    emit = Emit(symbol, target)
    operand = Operand.of(problem, False, 0, dtype)
    side = PackedSide(
        emit, Scratch(emit), operand, problem, lanes_of(target, dtype), width, width,
        resident=False, packed=emit.pointer(1),
    )  # fmt: skip
    side.begin()
    with emit.loop(emit.begin, emit.end) as unit:
        panel, number = split(emit, unit.index, problem.blocks.total)
        side.begin_unit(emit.constant(0, panel.dtype), emit.multiply(panel, width))
        block = block_at(emit, problem, number)
        row = emit.add(emit.multiply(panel, known(problem.depth)), block.start[0])
        side.target = emit.multiply(row, width)
        side.begin_block(block)
    return Kernel(emit.symbol, emit.finish())
