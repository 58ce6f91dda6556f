"""Calls that have kernels of their own: contractions and sorts.

Comes in: a `LibraryStep` and the assembler that knows buffers' numbers. Goes out: kernels and
launches over those numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Protocol

from avalon.codegen import contraction, sort
from avalon.codegen.contraction import View
from avalon.codegen.target import Target
from avalon.runtime.plan import Argument, Kernel, Launch
from avalon.schedule.pull import lowering_of
from avalon.schedule.steps import LibraryStep, Operand, Value

_argsort_kernel = cache(sort.argsort_kernel)


class Buffers(Protocol):
    """What knows the numbers of buffers."""

    def number(self, value: Value) -> int: ...
    def temporary(self, nbytes: int) -> int: ...


def library_kernels(
    step: LibraryStep, buffers: Buffers, target: Target
) -> tuple[Sequence[Kernel], Sequence[Launch]]:
    """The kernels and launches of a call."""
    name = lowering_of(step.call.primitive)
    if name == "argsort":
        return _argsort(step, buffers, target)
    return _contraction(name, step, buffers, target)


def _view(operand: Operand, buffers: Buffers) -> View:
    return View(buffers.number(operand.value), operand.strides, operand.offset)


def _contraction(
    name: str, step: LibraryStep, buffers: Buffers, target: Target
) -> tuple[Sequence[Kernel], Sequence[Launch]]:
    call = step.call
    first, second = call.operands
    a, b = (_view(operand, buffers) for operand in step.operands)
    y = _view(step.result, buffers)
    # The lowering numbers its own buffers from the next free number on.
    following = buffers.temporary(0) + 1
    if name == "contract":
        batches, rows, inner = first.shape
        shape = (batches, rows, inner, second.shape[2])
        contract = contraction.cold_contract if step.generic else contraction.hot_contract
        lowering = contract(target, call.dtype, shape, a, b, y, following)
    else:
        parameters = {k: v for k, v in call.parameters.items() if k != "high"}
        shapes = (first.shape, second.shape, call.shape)
        convolve = contraction.cold_convolve if step.generic else contraction.hot_convolve
        lowering = convolve(target, call.dtype, shapes, a, b, y, following, **parameters)
    for nbytes in lowering.temporaries:
        buffers.temporary(nbytes)
    return lowering.kernels, lowering.launches


def _argsort(
    step: LibraryStep, buffers: Buffers, target: Target
) -> tuple[Sequence[Kernel], Sequence[Launch]]:
    call = step.call
    (x,) = call.operands
    axis = call.parameters["axis"]
    extent, distance = x.shape[axis], prod(x.shape[axis + 1 :])
    rows = prod(x.shape) // extent
    kernel = _argsort_kernel(target, x.dtype, call.parameters["descending"])
    numbers = [buffers.number(step.operands[0].value), buffers.number(step.result.value)]
    numbers.append(buffers.temporary(2 * 8 * prod(x.shape)))
    arguments = [
        Argument("buffer", number, written=place > 0) for place, number in enumerate(numbers)
    ]
    arguments += [Argument("integer", number) for number in (extent, distance, rows)]
    work = 8 * prod(x.shape) * max(extent, 2).bit_length()
    return [kernel], [Launch(kernel.symbol, tuple(arguments), rows, work)]
