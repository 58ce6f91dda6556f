"""What this machine can do: its fused multiply-adds, and its memory, in a second.

Comes in: how many threads. Goes out: GFLOP/s and GB/s, measured with kernels of our own.
Guaranteed: upper bounds that programs are compared with: the arithmetic touches no memory, the
reading computes next to nothing. Takes some tens of milliseconds.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from time import perf_counter_ns

from avalon import dtype as dtypes
from avalon.codegen.contraction_tile import lanes_of
from avalon.codegen.emit import Emit
from avalon.codegen.target import Target, host
from avalon.dtype import DType
from avalon.runtime.buffer import Buffer
from avalon.runtime.plan import Argument, BufferSpec, InputSpec, Kernel, Launch, Plan
from avalon.runtime.profile import Limits, measure_limits
from avalon.runtime.program import Program
from avalon.settings import settings

_UNITS = 96
_STEPS = 4096  # of every chain, in a unit
_STREAMS = 8  # vectors that are read at a time
_REPEATS = 12


def multiply_add_rate(threads: int | None = None, dtype: DType = dtypes.float32) -> float:
    """GFLOP/s of fused multiply-adds on values in registers, two operations each.

    Args:
        threads: how many threads work (default: `settings.threads`).
        dtype: a floating dtype that is computed in itself, float32 or float64.
    """
    target = host()
    chains, lanes = target.registers * 3 // 4, lanes_of(target, dtype)
    kernel = _arithmetic(target, dtype, chains)
    operations = _UNITS * _STEPS * chains * lanes * 2
    plan = _plan(kernel, [_UNITS * lanes * dtype.itemsize], operations)
    return operations / _fastest(plan, [], threads)


def memory_rate(threads: int | None = None, nbytes: int = 256 << 20) -> float:
    """GB/s at which memory is read. With few `nbytes` it is the rate of a cache.

    Args:
        threads: how many threads read (default: `settings.threads`).
        nbytes: how much is read, each time again; more than the caches hold by default.
    """
    target = host()
    step = _STREAMS * target.lanes * 4
    rows = max(1, nbytes // (_UNITS * step))
    source = Buffer(_UNITS * rows * step)
    # Pages that were never written share one, which is always near.
    ctypes.memset(source.address, 1, source.nbytes)
    kernel = _reading(target, rows)
    plan = _plan(kernel, [source.nbytes, _UNITS * target.lanes * 4], source.nbytes // 4)
    return source.nbytes / _fastest(plan, [source], threads)


def _arithmetic(target: Target, dtype: DType, chains: int) -> Kernel:
    """Independent chains of multiply-adds, as many as hide the latency of one."""
    emit = Emit("arithmetic", target)
    lanes = lanes_of(target, dtype)
    factor, added = (emit.constant(number, dtype, lanes) for number in (0.5, 0.25))
    with emit.loop(emit.begin, emit.end) as unit:
        start = [emit.constant(0.1 * chain, dtype, lanes) for chain in range(chains)]
        with emit.loop(0, _STEPS, carried=start) as step:
            step.next(*(emit.fma(factor, value, added) for value in step.values))
        total = step.results[0]
        for value in step.results[1:]:
            total = emit.add(total, value)
        emit.store(emit.pointer(0), emit.multiply(unit.index, lanes), total)
    return Kernel("arithmetic", emit.finish())


def _reading(target: Target, rows: int) -> Kernel:
    """The sum of a stretch of memory, in vectors that wait for no other."""
    emit = Emit("reading", target)
    lanes, dtype = target.lanes, dtypes.uint32
    with emit.loop(emit.begin, emit.end) as unit:
        first = emit.multiply(unit.index, rows * _STREAMS * lanes)
        start = [emit.constant(0, dtype, lanes)] * _STREAMS
        with emit.loop(0, rows, carried=start) as row:
            at = emit.add(first, emit.multiply(row.index, _STREAMS * lanes))
            row.next(
                *(
                    emit.bit_xor(value, emit.load(
                        emit.pointer(0), emit.add(at, stream * lanes), dtype, lanes
                    ))
                    for stream, value in enumerate(row.values)
                )
            )  # fmt: skip
        total = row.results[0]
        for value in row.results[1:]:
            total = emit.bit_xor(total, value)
        emit.store(emit.pointer(1), emit.multiply(unit.index, lanes), total)
    return Kernel("reading", emit.finish())


def _plan(kernel: Kernel, sizes: Sequence[int], operations: int) -> Plan:
    """A program of one launch: all buffers but the last are inputs."""
    plan = Plan("rates", "hot", kernels={kernel.symbol: kernel})
    last = len(sizes) - 1
    for number, nbytes in enumerate(sizes):
        shape, role = (nbytes // 4,), "output" if number == last else "input"
        position = 0 if number == last else number
        plan.buffers.append(BufferSpec(nbytes, "float32", shape, role, position))
        if number < last:
            plan.inputs.append(InputSpec(shape, "float32", False, number))
    plan.outputs = [last]
    arguments = tuple(Argument("buffer", n, written=n == last) for n in range(len(sizes)))
    plan.launches = [Launch(kernel.symbol, arguments, _UNITS, operations)]
    return plan


def _fastest(plan: Plan, inputs: Sequence[Buffer], threads: int | None) -> int:
    """Nanoseconds of the fastest run."""
    program = Program(plan, host())
    before = settings.threads
    settings.threads = threads or before
    try:
        best = 0
        for _ in range(_REPEATS):
            started = perf_counter_ns()
            program.run(inputs)
            elapsed = perf_counter_ns() - started
            best = min(best, elapsed) if best else elapsed
        return best
    finally:
        settings.threads = before


def _limits() -> Limits:
    return Limits(multiply_add_rate(1), memory_rate(1))


measure_limits.append(_limits)
