"""Calls that have kernels of their own: contractions, sorts and running sums.

Comes in: a `LibraryStep` and the assembler that knows buffers' numbers. Goes out: kernels and
launches over those numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256
from math import prod
from typing import Protocol

from avalon.codegen import contraction, cumulative, sort
from avalon.codegen.contraction import Fused, View
from avalon.codegen.epilogue import EpilogueEmitter
from avalon.codegen.epilogue_windows import WindowEmitter
from avalon.codegen.target import Target
from avalon.runtime.plan import Argument, Kernel, Launch
from avalon.schedule import order
from avalon.schedule.calls import RUNNING_TOTALS
from avalon.schedule.pull import lowering_of
from avalon.schedule.steps import LibraryStep, Operand, Step, Value
from avalon.size import hint

_argsort_kernel = cache(sort.argsort_kernel)
_cumulative_kernel = cache(cumulative.cumulative_kernel)


class Buffers(Protocol):
    """What knows the numbers of buffers."""

    def number(self, value: Value) -> int: ...
    def temporary(self, nbytes: int) -> int: ...
    def stays(self, number: int) -> bool: ...
    def arguments(self, step: Step, absent: int = -1) -> list[Argument]: ...


def library_kernels(
    step: LibraryStep, buffers: Buffers, target: Target
) -> tuple[Sequence[Kernel], Sequence[Launch]]:
    """The kernels and launches of a call."""
    name = lowering_of(step.call.primitive)
    if name == "argsort":
        return _argsort(step, buffers, target)
    if name in RUNNING_TOTALS:
        return _cumulative(step, buffers, target)
    return _contraction(name, step, buffers, target)


def _view(operand: Operand, buffers: Buffers) -> View:
    return View(buffers.number(operand.value), operand.strides, operand.offset)


def _contraction(
    name: str, step: LibraryStep, buffers: Buffers, target: Target
) -> tuple[Sequence[Kernel], Sequence[Launch]]:
    call = step.call
    first, second = call.operands
    a, b = (_view(operand, buffers) for operand in step.operands)
    fused = _fused(step, buffers, target)
    y = View(-1, step.result.strides) if fused else _view(step.result, buffers)
    # The lowering numbers its own buffers from the next free number on.
    following = buffers.temporary(0) + 1
    if name == "contract":
        batches, rows, inner = first.shape
        shape = (batches, rows, inner, second.shape[2])
        if step.generic:
            lowering = contraction.cold_contract(target, call.dtype, shape, a, b, y, following)
        else:
            lowering = contraction.hot_contract(
                target, call.dtype, shape, a, b, y, following, fused, buffers.stays(b.slot)
            )
    else:
        parameters = {k: v for k, v in call.parameters.items() if k != "high"}
        shapes = (first.shape, second.shape, call.shape)
        if step.generic:
            lowering = contraction.cold_convolve(
                target, call.dtype, shapes, a, b, y, following, **parameters
            )
        else:
            lowering = contraction.hot_convolve(
                target, call.dtype, shapes, a, b, y, following, fused, **parameters
            )
    for nbytes in lowering.temporaries:
        buffers.temporary(nbytes)
    return lowering.kernels, lowering.launches


def _fused(step: LibraryStep, buffers: Buffers, target: Target) -> Fused | None:
    """The nest that is computed inside the contraction, if there is one."""
    epilogue = step.epilogue
    if epilogue is None:
        return None
    absent = -1 if epilogue.keeps else epilogue.argument
    arguments = buffers.arguments(epilogue.step, absent)
    if epilogue.keeps:
        arguments[epilogue.argument] = replace(arguments[epilogue.argument], written=True)
    arguments += [Argument("integer", number) for number in epilogue.step.numbers or ()]
    call = step.call
    # For sizes that are not known a kernel is made after their samples.
    samples = [hint(extent) for x in (call, *call.operands) for extent in x.shape]
    identity = (
        call.primitive.name, [x.shape for x in call.operands], call.dtype.name, call.parameters,
        samples,
        [(x.strides, x.offset) for x in step.operands], epilogue.keeps, epilogue.argument,
        epilogue.step.nest.text,
    )  # fmt: skip
    digest = sha256(repr(identity).encode()).hexdigest()[:16]
    symbol = f"{call.primitive.name}_{digest}"
    if epilogue.walk.extents == call.shape:
        # Positions only: channels stand between them and images.
        together = min(len(epilogue.walk.groups[-1]), len(call.shape) - 3) or 1
        write = EpilogueEmitter(epilogue, target).write
        return Fused(write, tuple(arguments), symbol, together)
    windows = WindowEmitter(epilogue, call.shape, target)
    y = contraction.FIRST_SLOT + epilogue.argument
    return Fused(None, tuple(arguments), symbol, windows=windows, y=y)


def _argsort(
    step: LibraryStep, buffers: Buffers, target: Target
) -> tuple[Sequence[Kernel], Sequence[Launch]]:
    call = step.call
    (x,) = call.operands
    axis = call.parameters["axis"]
    extent, distance = x.shape[axis], prod(x.shape[axis + 1 :])
    rows, count = prod(x.shape) // extent, call.parameters["count"]
    capacity = sort.capacity_of(extent, distance, count)
    selects = capacity < extent
    kernel = _argsort_kernel(target, x.dtype, call.parameters["descending"], selects)
    numbers = [buffers.number(step.operands[0].value), buffers.number(step.result.value)]
    numbers.append(buffers.temporary(2 * 8 * sort.words_of(x.dtype) * capacity * rows))
    arguments = [
        Argument("buffer", number, written=place > 0) for place, number in enumerate(numbers)
    ]
    integers = (extent, distance, rows, count, capacity)
    arguments += [Argument("integer", number) for number in integers]
    work = (4 if selects else 40) * prod(x.shape)
    return [kernel], [Launch(kernel.symbol, tuple(arguments), rows, work)]


def _cumulative(
    step: LibraryStep, buffers: Buffers, target: Target
) -> tuple[Sequence[Kernel], Sequence[Launch]]:
    call = step.call
    (x,) = call.operands
    extent = x.shape[call.parameters["axis"]]
    rows = prod(x.shape) // extent
    _, combine = order.identity_and_combine(call.primitive, x.dtype)
    kernel = _cumulative_kernel(target, x.dtype, combine, call.parameters["reverse"])
    arguments = [
        Argument("buffer", buffers.number(step.operands[0].value)),
        Argument("buffer", buffers.number(step.result.value), written=True),
        Argument("integer", extent),
        Argument("integer", rows),
    ]
    tile = cumulative.tile_of(target, x.dtype)
    units = -(-rows // tile) if rows >= tile else rows
    return [kernel], [Launch(kernel.symbol, tuple(arguments), units, 2 * prod(x.shape))]
