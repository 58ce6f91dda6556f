"""Contractions as kernels: what the scheduler calls for `contract` and `convolve`.

Comes in: shapes, a `View` of every operand (any strides, so transposes, slices and broadcasts cost
no kernel of their own), a dtype and a target. Goes out: a `Lowering`: kernels, launches in the
order in which they run, and the temporary buffers they need. Guaranteed: every lowering of the same
shapes gives the same bits, see `contraction_problem` for the order of the sums.

`cold_contract` and `cold_convolve` serve all shapes with a few kernels that are built once; a shape
that they meet again and again, in graphs that differ elsewhere, gets a kernel of its own.
`hot_contract` and `hot_convolve` build kernels for one shape, of which the numbers of rows, columns
and channels of the sum may be open; what is done with the result may be `Fused` into them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from math import prod

from avalon.codegen import contraction_cost, contraction_generic as generic
from avalon.codegen.contraction_ahead import packed_ahead
from avalon.codegen.contraction_boxes import Windows, window_sums_kernel
from avalon.codegen.contraction_direct import (
    Direct,
    DirectKernel,
    direct,
    units as direct_units,
)
from avalon.codegen.contraction_hot import HotKernel, Slots, fused_spans_kernel, units
from avalon.codegen.contraction_problem import (
    Problem,
    View,
    contract_problem,
    convolve_problems,
    known,
)
from avalon.codegen.contraction_store import Epilogue
from avalon.codegen.contraction_tile import summed_in
from avalon.codegen.target import Target
from avalon.dtype import DType
from avalon.runtime.plan import Argument, Kernel, Launch
from avalon.size import few

__all__ = [
    "FIRST_SLOT", "Epilogue", "Fused", "Lowering", "View", "can_fuse", "cold_contract",
    "cold_convolve", "forget", "hot_contract", "hot_convolve",
]  # fmt: skip

FIRST_SLOT = 2  # of the arguments that belong to what is fused in
_OFTEN = 16  # sightings after which a shape is worth a kernel of its own
_REMEMBERED = 4096  # shapes whose sightings are counted
_MOST_PHASES = 16  # kernels built for one convolution of an input with holes

Shape4 = tuple[int, int, int, int]


@dataclass(frozen=True)
class Lowering:
    """Kernels and launches of one contraction. `temporaries` holds the sizes in bytes of buffers
    that live from the first launch to the last.
    """

    kernels: tuple[Kernel, ...]
    launches: tuple[Launch, ...]
    temporaries: tuple[int, ...] = ()


@dataclass(frozen=True)
class Fused:
    """What is done with the elements of a result instead of storing them.

    Attributes:
        write: called with a vector of finished elements, rounded to the contraction's dtype: the
            builder, the value, the index of its first lane (one number an axis of the result), the
            axis along which the lanes lie, the mask of the lanes that exist (None: all). It stores
            what is to be stored.
        arguments: its own arguments; they are the kernel's slots from `FIRST_SLOT` on.
        symbol: a name for the kernel that no other kernel has.
        together: how many of the result's last axes it walks as if they were one.
        windows: given boxes of a convolution's elements instead, if `write` is None.
        y: the slot of the result, which is stored too, of those who are given windows.
    """

    write: Epilogue | None
    arguments: tuple[Argument, ...]
    symbol: str
    together: int = 1
    windows: Windows | None = None
    y: int = FIRST_SLOT


@lru_cache(maxsize=4096)
def _integer(number: int) -> Argument:
    return Argument("integer", number)


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
    buffers = (a.slot, b.slot, y.slot)
    if _is_seen_often(target, dtype, problem):
        return _hot(target, dtype, [problem], 0, buffers, temporary, None)
    return _cold(target, dtype, [problem], False, buffers, temporary)


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
    buffers = (x.slot, w.slot, y.slot)
    if len(problems) == 1 and _is_seen_often(target, dtype, problems[0]):
        return _hot(target, dtype, problems, len(x_shape) - 3, buffers, temporary, None)
    return _cold(target, dtype, problems, True, buffers, temporary)


_sightings: Counter[tuple[Target, DType, Problem]] = Counter()


def _is_seen_often(target: Target, dtype: DType, problem: Problem) -> bool:
    """Count a sighting of a problem, and say whether it comes back all the time. One with open
    numbers does not count: strides may be among them, which a kernel of its own must know.
    """
    if problem.formulas:
        return False
    if len(_sightings) > _REMEMBERED:
        forget()
    key = (target, dtype, problem)
    _sightings[key] += 1
    return _sightings[key] > _OFTEN


def forget() -> None:
    """Count the sightings of shapes from zero."""
    _sightings.clear()


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
        # The parts of a result with holes are one span each, even where nothing else is known.
        several = len(problems) == 1 and not few(spans, 1)
        if several:
            y = temporary + len(temporaries)
            temporaries.append(spans * size * summed_in(dtype).itemsize)
            problem = _to_partial_sums(problem)
        variant = generic.variant_for(target, dtype, problem, spatial, several)
        kernel = _generic_kernel(target, dtype, variant)
        kernels[kernel.symbol] = kernel
        arguments = (
            Argument("buffer", x), Argument("buffer", w), Argument("buffer", y, written=True),
            *map(_integer, problem.numbers(spatial)),
        )  # fmt: skip
        launches.append(
            Launch(kernel.symbol, arguments, work, problem.flops, window=len(problems) > 1)
        )
        if several:
            kernel = _spans_kernel(target, dtype)
            kernels[kernel.symbol] = kernel
            arguments = (
                Argument("buffer", y), Argument("buffer", buffers[2], written=True),
                *map(_integer, (spans, size, size)),
            )  # fmt: skip
            work = -(-size // generic.SPANS_UNIT)
            launches.append(Launch(kernel.symbol, arguments, work, spans * size))
    return Lowering(tuple(kernels.values()), tuple(launches), tuple(temporaries))


def _to_partial_sums(problem: Problem) -> Problem:
    """The problem with y a temporary that holds one row-major result per span."""
    strides = View.contiguous(0, problem.shape).strides
    return replace(problem, y_strides=strides, y_offset=0, span_stride=prod(problem.shape))


def can_fuse(input_dilation: Sequence[int]) -> bool:
    """Whether a convolution takes a `Fused`: the result of an input with holes comes in parts."""
    return all(dilation == 1 for dilation in input_dilation)


def hot_contract(
    target: Target, dtype: DType, shape: Shape4, a: View, b: View, y: View, temporary: int,
    fused: Fused | None = None, stays: bool = False,
) -> Lowering:  # fmt: skip
    """As `cold_contract`, with kernels built for this shape. With `fused`, y is not written.
    `stays`: b is the same in many rounds of a loop, which a launch that reads b alone moves out of.
    """
    problem = contract_problem(shape, a, b, y)
    ahead = packed_ahead(target, dtype, problem) if stays else None
    if ahead is not None:
        if fused and fused.write:
            symbol = f"{fused.symbol}_{ahead.kernel.symbol}"
            fused = replace(fused, write=ahead.writing(fused.write), symbol=symbol)
        packed = Argument("buffer", temporary, written=True)
        first = Launch(
            ahead.kernel.symbol, (Argument("buffer", b.slot), packed), ahead.work,
            bytes=2 * ahead.nbytes,
        )  # fmt: skip
        buffers = (a.slot, temporary, y.slot)
        rest = _hot(target, dtype, [ahead.problem], 0, buffers, temporary + 1, fused)
        return Lowering(
            (ahead.kernel, *rest.kernels), (first, *rest.launches),
            (ahead.nbytes, *rest.temporaries),
        )  # fmt: skip
    return _hot(target, dtype, [problem], 0, (a.slot, b.slot, y.slot), temporary, fused)


def hot_convolve(
    target: Target,
    dtype: DType,
    shapes: tuple[Sequence[int], Sequence[int], Sequence[int]],
    x: View,
    w: View,
    y: View,
    temporary: int,
    fused: Fused | None = None,
    *,
    stride: Sequence[int],
    input_dilation: Sequence[int],
    kernel_dilation: Sequence[int],
    low: Sequence[int],
    flip: bool,
) -> Lowering:
    """As `cold_convolve`, with kernels built for this shape. With `fused`, y is not written.

    Raises:
        ValueError: for `fused` with a dilated input, see `can_fuse`.
    """
    x_shape, w_shape, y_shape = map(tuple, shapes)
    problems = convolve_problems(
        x_shape, w_shape, y_shape, x, w, y, stride=stride, input_dilation=input_dilation,
        kernel_dilation=kernel_dilation, low=low, flip=flip,
    )  # fmt: skip
    buffers = (x.slot, w.slot, y.slot)
    if fused and len(problems) > 1:
        raise ValueError(
            f"[convolve] input dilation {tuple(input_dilation)} leaves holes, so the result comes "
            "in parts and nothing can be fused to it; ask can_fuse() first"
        )
    if len(problems) > _MOST_PHASES:
        return _cold(target, dtype, problems, True, buffers, temporary)
    return _hot(target, dtype, problems, len(x_shape) - 3, buffers, temporary, fused)


def _hot(
    target: Target, dtype: DType, problems: list[Problem], rank: int,
    buffers: tuple[int, int, int], temporary: int, fused: Fused | None,
) -> Lowering:  # fmt: skip
    kernels: dict[str, Kernel] = {}
    launches: list[Launch] = []
    temporaries: list[int] = []
    own = fused.arguments if fused else (Argument("buffer", buffers[2], written=True),)
    operands = (Argument("buffer", buffers[0]), Argument("buffer", buffers[1]))
    for problem in problems:
        size, spans = prod(problem.shape), problem.blocks.spans
        if few(size, 0):
            continue
        if few(spans, 1):
            built = _hot_kernel(target, dtype, problem, rank, False, fused)
            kernels[built.kernel.symbol] = built.kernel
            arguments = (*operands, *own, *map(_integer, problem.formulas))
            # Phases write elements of their own, side by side.
            launches.append(replace(built.launch(arguments), window=len(problems) > 1))
            continue
        partial = Argument("buffer", temporary + len(temporaries), written=True)
        temporaries.append(spans * size * summed_in(dtype).itemsize)
        parts = _to_partial_sums(problem)
        built = _hot_kernel(target, dtype, parts, rank, True, None)
        kernels[built.kernel.symbol] = built.kernel
        launches.append(built.launch((*operands, partial, *map(_integer, parts.formulas))))
        partial = replace(partial, written=False)
        for kernel, arguments, work in _joined_spans(
            target, dtype, problem, rank, partial, own, fused
        ):
            kernels[kernel.symbol] = kernel
            launches.append(Launch(kernel.symbol, arguments, work, spans * size))
    return Lowering(tuple(kernels.values()), tuple(launches), tuple(temporaries))


def _joined_spans(
    target: Target, dtype: DType, problem: Problem, rank: int, partial: Argument,
    own: tuple[Argument, ...], fused: Fused | None,
) -> Iterator[tuple[Kernel, tuple[Argument, ...], int]]:  # fmt: skip
    """The kernels that add the sums of spans, with arguments and units of work."""
    size, spans = prod(problem.shape), problem.blocks.spans
    windows = fused.windows if fused else None
    if fused and windows:
        kernel, work = window_sums_kernel(fused.symbol, target, dtype, problem, windows)
        yield kernel, (partial, partial, *own), work
    elif fused and fused.write:
        kernel = fused_spans_kernel(
            fused.symbol, target, dtype, problem, rank, fused.write, FIRST_SLOT + len(own)
        )
        run = known(problem.outputs[2]) if rank else known(problem.channels)
        numbers = map(_integer, (spans, size, *problem.formulas))
        yield kernel, (partial, partial, *own, *numbers), size // run
    if fused is None or (windows and windows.keeps):
        y = own[fused.y - FIRST_SLOT] if fused else own[0]
        arguments = (partial, y, *map(_integer, (spans, size, size)))
        yield _spans_kernel(target, dtype), arguments, -(-size // generic.SPANS_UNIT)


@dataclass(frozen=True)
class _Built:
    """A kernel, its units of work, the arithmetic that they do, and that which beginning a chunk of
    them takes as long as.
    """

    kernel: Kernel
    work: int
    flops: int
    begin: int = 0

    def launch(self, arguments: tuple[Argument, ...]) -> Launch:
        """The kernel applied to arguments."""
        return Launch(self.kernel.symbol, arguments, self.work, self.flops, begin=self.begin)


def _hot_kernel(
    target: Target, dtype: DType, problem: Problem, rank: int, is_partial: bool,
    fused: Fused | None,
) -> _Built:  # fmt: skip
    if fused is None:
        return _plain_kernel(target, dtype, problem, rank, is_partial)
    cut = direct(target, dtype, problem) if rank and not fused.windows else None
    if cut is not None:
        kernel = DirectKernel(
            fused.symbol, target, dtype, problem, cut, (0, 1, fused.y),
            FIRST_SLOT + len(fused.arguments), rank, fused.write, fused.together,
        ).build()  # fmt: skip
        return _Built(kernel, direct_units(problem, cut), problem.flops)
    grain = fused.windows.steps if fused.windows else (1, 1, 1)
    schedule = contraction_cost.choose(target, dtype, problem, rank > 0, grain)
    slots = Slots(0, 1, fused.y, FIRST_SLOT + len(fused.arguments))
    kernel = HotKernel(
        fused.symbol, target, dtype, problem, schedule, slots, rank, fused.write, False,
        fused.windows, fused.together,
    ).build()  # fmt: skip
    begin = contraction_cost.beginning(target, dtype, problem, schedule)
    return _Built(kernel, units(problem, schedule), problem.flops, begin)


@lru_cache(maxsize=256)
def _plain_kernel(
    target: Target, dtype: DType, problem: Problem, rank: int, is_partial: bool
) -> _Built:
    """A kernel that stores its result, named by what it computes."""
    cut = direct(target, dtype, problem) if rank and not is_partial else None
    schedule = cut or contraction_cost.choose(target, dtype, problem, rank > 0)
    identity = repr((dtype.name, problem, schedule, rank, is_partial))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    symbol = f"{'convolve' if rank else 'contract'}_{digest}"
    if isinstance(schedule, Direct):
        kernel = DirectKernel(
            symbol, target, dtype, problem, schedule, (0, 1, 2), 3, rank, None
        ).build()
        return _Built(kernel, direct_units(problem, schedule), problem.flops)
    kernel = HotKernel(
        symbol, target, dtype, problem, schedule, Slots(0, 1, 2), rank, None, is_partial
    ).build()
    begin = contraction_cost.beginning(target, dtype, problem, schedule)
    return _Built(kernel, units(problem, schedule), problem.flops, begin)
