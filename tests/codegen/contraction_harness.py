"""Runs lowered contractions on NumPy arrays, and says in plain Python what their bits must be."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence

import numpy as np

from avalon import dtype as dtypes
from avalon.codegen import contraction
from avalon.codegen.contraction_problem import View, reduction_blocks
from avalon.codegen.target import Target
from avalon.dtype import DType
from avalon.runtime import library

_FUNCTION = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
)


def run(
    target: Target, lowering: contraction.Lowering, buffers: Sequence[np.ndarray], pieces: int = 1
) -> None:
    """Run the launches; each one's work is cut into `pieces` that run in reverse order."""
    held = [*buffers, *(np.empty(size, np.uint8) for size in lowering.temporaries)]
    loaded = library.load(lowering.kernels, target)
    sizes = {kernel.symbol: kernel.scratch for kernel in lowering.kernels}
    for launch in lowering.launches:
        slots = np.array(
            [
                held[argument.value].ctypes.data if argument.kind == "buffer" else argument.value
                for argument in launch.arguments
            ],
            np.int64,
        )
        size = sizes[launch.kernel]
        scratch = np.full(size + 128, 0xFF, np.uint8)  # NaN wherever it shows
        start = scratch.ctypes.data + -scratch.ctypes.data % 64
        end_of_scratch = start - scratch.ctypes.data + size
        function = _FUNCTION(loaded.addresses[launch.kernel])
        cuts = [launch.work * i // pieces for i in range(pieces + 1)]
        for begin, end in reversed(list(itertools.pairwise(cuts))):
            function(slots.ctypes.data, begin, end, start)
        assert (scratch[end_of_scratch:] == 0xFF).all()


def view_of(slot: int, array: np.ndarray, base: np.ndarray) -> View:
    """The view that shows `array`, which lies in `base`."""
    size = array.itemsize
    offset = (array.__array_interface__["data"][0] - base.__array_interface__["data"][0]) // size
    return View(slot, tuple(stride // size for stride in array.strides), offset)


def outputs_of(x: Sequence[int], w: Sequence[int], parameters: dict) -> tuple[int, ...]:
    """Shape of a convolution's result."""
    extents = []
    for i, (size, taps) in enumerate(zip(x[3:], w[3:], strict=True)):
        spread = (size - 1) * parameters["input_dilation"][i] + 1 if size else 0
        padded = max(0, spread + parameters["low"][i] + parameters["high"][i])
        reach = parameters["kernel_dilation"][i] * (taps - 1) + 1
        extents.append(max(0, (padded - reach) // parameters["stride"][i] + 1))
    return (x[0], x[1], w[1], *extents)


def chain(products: Sequence[tuple[float, float]]) -> np.float32:
    """A chain of float32 fused multiply-adds from +0, exact by way of whole numbers."""
    total = np.float32(0)
    for first, second in products:
        total = fma(np.float32(first), np.float32(second), total)
    return total


def fma(a: np.float32, b: np.float32, c: np.float32) -> np.float32:
    """a * b + c for finite float32, rounded once: float64 holds a * b; its sum is made odd where it
    is inexact, which is safe to round again.
    """
    exact = np.float64(a) * np.float64(b)
    wide = np.float64(c)
    total = exact + wide
    back = total - exact
    error = (exact - (total - back)) + (wide - back)
    if error and not int(total.view(np.int64)) & 1:
        away = (error > 0) == (total > 0)
        total = np.int64(total.view(np.int64) + (1 if away else -1)).view(np.float64)
    return np.float32(total)


def ordered_sum(
    extents: tuple[int, int, int, int], outputs: int, products: dict, spans: bool = True
) -> np.float32:
    """The sum of `products` (by channel and taps) in the order that the kernels promise."""
    blocks = reduction_blocks(extents, outputs)
    sums = []
    for number in itertools.product(*map(range, blocks.counts)):
        ranges = [
            range(n * length, min(n * length + length, extent))
            for n, length, extent in zip(number, blocks.lengths, extents, strict=True)
        ]
        sums.append(chain([products[at] for at in itertools.product(*ranges)]))
    per_span = blocks.per_span if spans else len(sums)
    totals = []
    for first in range(0, len(sums), max(per_span, 1)):
        totals.append(_added(sums[first : first + per_span]))
    return _added(totals) if totals else np.float32(0)


def _added(values: Sequence[np.float32]) -> np.float32:
    total = values[0]
    for value in values[1:]:
        total = np.float32(total + value)
    return total


def random_array(rng: np.random.Generator, shape: Sequence[int], dtype: DType) -> np.ndarray:
    """Small numbers as they lie in memory."""
    if dtype.is_integer:
        info = np.iinfo(dtype.storage)
        return rng.integers(info.min, info.max, shape, dtype.storage, endpoint=True)
    values = rng.standard_normal(shape) / 8
    if dtype is dtypes.bfloat16:
        return (values.astype("f").view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(dtype.storage)


def widened(array: np.ndarray, dtype: DType) -> np.ndarray:
    """The values of an array in a dtype that NumPy multiplies exactly enough."""
    if dtype is dtypes.bfloat16:
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.astype(np.int64 if dtype.is_integer else np.float64)


def as_stored(array: np.ndarray, dtype: DType) -> np.ndarray:
    """Integers wrapped to their dtype."""
    return array.astype(dtype.storage)
