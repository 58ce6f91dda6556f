"""Contractions as kernels: what the scheduler calls for `contract` and `convolve`.

Comes in: shapes, a `View` of every operand (any strides, so transposes, slices and broadcasts cost
no kernel of their own), a dtype and a target. Goes out: a `Lowering`: kernels, launches in the
order in which they run, and the temporary buffers they need. Guaranteed: every lowering of the same
shapes gives the same bits, see `contraction_problem` for the order of the sums.

`cold_contract` and `cold_convolve` serve all shapes with a few kernels that are built once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import ceil, prod

from avalon.codegen import contraction_generic as generic
from avalon.codegen.contraction_problem import (
    Problem,
    View,
    contract_problem,
    convolve_problems,
)
from avalon.codegen.contraction_tile import summed_in
from avalon.codegen.target import Target
from avalon.dtype import DType
from avalon.runtime.plan import Argument, Kernel, Launch

__all__ = ["Lowering", "View", "cold_contract", "cold_convolve"]

Shape4 = tuple[int, int, int, int]


@dataclass(frozen=True)
class Lowering:
    """Kernels and launches of one contraction. `temporaries` holds the sizes in bytes of buffers
    that live from the first launch to the last.
    """

    kernels: tuple[Kernel, ...]
    launches: tuple[Launch, ...]
    temporaries: tuple[int, ...] = ()


_generic_kernel = cache(generic.generic_kernel)
_spans_kernel = cache(generic.spans_kernel)


def cold_contract(
    target: Target, dtype: DType, shape: Shape4, a: View, b: View, y: View, temporary: int
) -> Lowering:
    """a [B, M, K] times b [B, K, N] to y [B, M, N], for `shape` = (B, M, K, N).

    The views' slots are numbers of the plan's buffers; `temporary` is the number that the first of
    the lowering's own buffers will have.
    """
    problem = contract_problem(shape, a, b, y)
    return _cold(target, dtype, [problem], False, (a.slot, b.slot, y.slot), temporary)


def cold_convolve(
    target: Target,
    dtype: DType,
    shapes: tuple[Sequence[int], Sequence[int], Sequence[int]],
    x: View,
    w: View,
    y: View,
    temporary: int,
    *,
    stride: Sequence[int],
    input_dilation: Sequence[int],
    kernel_dilation: Sequence[int],
    low: Sequence[int],
    flip: bool,
) -> Lowering:
    """x [G, N, C, *S] with w [G, O, C, *T] to y [G, N, O, *P], for `shapes` of x, w and y.

    Slots and `temporary` as in `cold_contract`. The high padding follows from y's shape.
    """
    x_shape, w_shape, y_shape = map(tuple, shapes)
    problems = convolve_problems(
        x_shape, w_shape, y_shape, x, w, y, stride=stride, input_dilation=input_dilation,
        kernel_dilation=kernel_dilation, low=low, flip=flip,
    )  # fmt: skip
    return _cold(target, dtype, problems, True, (x.slot, w.slot, y.slot), temporary)


def _cold(
    target: Target, dtype: DType, problems: list[Problem], spatial: bool,
    buffers: tuple[int, int, int], temporary: int,
) -> Lowering:  # fmt: skip
    kernels: dict[str, Kernel] = {}
    launches: list[Launch] = []
    temporaries: list[int] = []
    for problem in problems:
        work = generic.units(problem)
        if not work:
            continue
        x, w, y = buffers
        spans, size = problem.blocks.spans, prod(problem.shape)
        if spans > 1:
            y = temporary + len(temporaries)
            temporaries.append(spans * size * summed_in(dtype).itemsize)
            problem = _to_partial_sums(problem)
        kernel = _generic_kernel(
            target, dtype, spatial, generic.x_in_lanes(target, dtype, problem), spans > 1
        )
        kernels[kernel.symbol] = kernel
        arguments = (
            Argument("buffer", x), Argument("buffer", w), Argument("buffer", y, written=True),
            *(Argument("integer", number) for number in problem.numbers()),
        )  # fmt: skip
        launches.append(Launch(kernel.symbol, arguments, work, problem.flops))
        if spans > 1:
            kernel = _spans_kernel(target, dtype)
            kernels[kernel.symbol] = kernel
            arguments = (
                Argument("buffer", y), Argument("buffer", buffers[2], written=True),
                *(Argument("integer", number) for number in (spans, size, size)),
            )  # fmt: skip
            work = ceil(size / generic.SPANS_UNIT)
            launches.append(Launch(kernel.symbol, arguments, work, spans * size))
    return Lowering(tuple(kernels.values()), tuple(launches), tuple(temporaries))


def _to_partial_sums(problem: Problem) -> Problem:
    """The problem with y a temporary that holds one row-major result per span."""
    strides = View.contiguous(0, problem.shape).strides
    return replace(problem, y_strides=strides, y_offset=0, span_stride=prod(problem.shape))
