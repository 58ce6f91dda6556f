"""The largest error of float32 functions over all 2^32 inputs; run by hand, 15 s a function.

    python -m tests.codegen.exhaustive exp log tanh

One kernel computes the function in float32 and in float64, whose own errors `test_math_functions`
measures against many digits, and keeps the worst input of each lane.
"""

from __future__ import annotations

import sys

import numpy as np

from avalon import dtype as dtypes
from avalon.codegen.emit import Emit
from avalon.codegen.target import host
from tests.codegen.harness import load, slots


def kernel_text(name: str, lanes: int) -> str:
    """A kernel over bit patterns [begin, end): per lane the largest error in units in the last
    place, its input's bits, and how often just one of both results was not finite.
    """
    emit = Emit("sweep", host())
    none = emit.constant(0, dtypes.int32, lanes)
    start = (emit.constant(0.0, dtypes.float64, lanes), none, none)
    with emit.loop(emit.begin, emit.end, lanes, carried=start) as loop:
        worst, place, different = loop.values
        first = emit.broadcast(emit.cast(loop.index, dtypes.int32), lanes)
        bits = emit.add(first, emit.iota(lanes, dtypes.int32))
        x = emit.bitcast(bits, dtypes.float32)
        ours = getattr(emit, name)(x)
        exact = getattr(emit, name)(emit.cast(x, dtypes.float64))
        rounded = emit.cast(exact, dtypes.float32)
        size = emit.absolute(rounded)
        above = emit.bitcast(emit.add(emit.bitcast(size, dtypes.int32), 1), dtypes.float32)
        unit = emit.cast(emit.subtract(above, size), dtypes.float64)
        difference = emit.subtract(emit.cast(ours, dtypes.float64), exact)
        error = emit.divide(emit.absolute(difference), unit)
        measured = emit.less(error, emit.constant(1e9, dtypes.float64, lanes))
        both_nan = emit.bit_and(emit.not_equal(ours, ours), emit.not_equal(exact, exact))
        same = emit.bit_or(emit.equal(ours, rounded), both_nan)
        wrong = emit.logical_not(emit.bit_or(measured, same))
        finite = emit.less(size, emit.constant(np.inf, dtypes.float32, lanes))
        larger = emit.bit_and(emit.bit_and(measured, finite), emit.less(worst, error))
        loop.next(
            emit.where(larger, error, worst),
            emit.where(larger, bits, place),
            emit.add(different, emit.cast(wrong, dtypes.int32)),
        )
    for slot, result in enumerate(loop.results):
        emit.store(emit.pointer(slot), 0, result)
    return emit.finish()


def sweep(name: str, step: int = 1 << 24) -> tuple[float, float, int]:
    """The largest error, where, and the number of inputs where only one result was finite."""
    lanes = host().lanes
    kernel = load(kernel_text(name, lanes), "sweep")
    found, place, different = 0.0, np.float32(0), 0
    for begin in range(0, 1 << 32, step):
        worst, bits = np.zeros(lanes), np.zeros(lanes, np.int32)
        count = np.zeros(lanes, np.int32)
        words = slots([worst, bits, count])
        kernel(words.ctypes.data, begin, begin + step, 0)
        different += int(count.sum())
        if worst.max() > found:
            found = float(worst.max())
            place = bits.view(np.float32)[worst.argmax()]
    return found, float(place), different


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        error, where, unequal = sweep(argument)
        print(f"{argument}: {error:.3f} at {where!r}; not finite alone: {unequal}", flush=True)
