"""Where the time of a program goes: each launch by itself, on one thread and on all.

Comes in: a filled frame. Goes out: a `Profile`, which prints as a table, the most expensive launch
first, and writes a trace for Chrome's or Perfetto's viewer. Guaranteed: launches run in the
program's order, so each finds the caches as in a call.
"""

from __future__ import annotations

import ctypes
import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from avalon.runtime import memory
from avalon.runtime.frame import Frame
from avalon.runtime.plan import Launch, Plan

Kernel = Callable[..., Any]


@dataclass(frozen=True)
class Limits:
    """What one thread of this machine can do: multiply-adds in 1e9 operations a second, and memory
    in 1e9 bytes a second.
    """

    gigaflops: float
    gigabytes: float


@dataclass(frozen=True)
class Timing:
    """A launch, its number in the program, and the seconds that its fastest run took on one thread.

    Attributes:
        nbytes: what it reads and writes, each buffer once.
        runs: how often a call runs it; more than once in a loop.
    """

    number: int
    launch: Launch
    seconds: float
    nbytes: int = 0
    runs: int = 1

    @property
    def total(self) -> float:
        """Seconds of all its runs in a call."""
        return self.seconds * self.runs

    @property
    def gigaflops(self) -> float:
        """Arithmetic in a second, by the compiler's estimate, in 1e9 operations."""
        return self.launch.flops / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def gigabytes(self) -> float:
        """Bytes read and written in a second, in 1e9; more than memory gives if caches help."""
        return self.nbytes / self.seconds / 1e9 if self.seconds else 0.0

    def share_of(self, limits: Limits) -> float:
        """The part of what the machine can do that is reached: of its arithmetic or its memory,
        whichever is nearer to its limit.
        """
        return max(self.gigaflops / limits.gigaflops, self.gigabytes / limits.gigabytes)


@dataclass(frozen=True)
class Span:
    """A thread's part in a launch: nanoseconds since the beginning."""

    thread: int
    number: int
    start: int
    end: int


@dataclass(frozen=True)
class Profile:
    """The timings of all launches, in the program's order.

    Attributes:
        together: seconds of a whole call on all threads, the fastest of some.
        threads: how many those are.
        limits: what one thread can reach, or None if that was not measured.
        spans: who did what when, in one run on all threads.
    """

    name: str
    timings: Sequence[Timing]
    together: float = 0.0
    threads: int = 1
    limits: Limits | None = None
    spans: Sequence[Span] = ()

    @property
    def seconds(self) -> float:
        """What one thread needs for all launches."""
        return sum(timing.total for timing in self.timings)

    def __str__(self) -> str:
        total = self.seconds or 1.0
        head = f"{self.name}: {total * 1e6:.1f} us on one thread, the sum of all launches"
        if self.together:
            head += f"; a call takes {self.together * 1e6:.1f} us on {self.threads}"
        lines = [head, "     us  share  GFLOP/s    GB/s  limit  launch"]
        if self.limits:
            lines.insert(
                1,
                f"one thread reaches {self.limits.gigaflops:.0f} GFLOP/s of multiply-adds and "
                f"{self.limits.gigabytes:.1f} GB/s of memory (limit: the part of one of them)",
            )
        for timing in sorted(self.timings, key=lambda timing: -timing.total):
            launch = timing.launch
            limit = f"{timing.share_of(self.limits):6.0%}" if self.limits else "      "
            often = f" {timing.runs} times" if timing.runs > 1 else ""
            lines.append(
                f"{timing.total * 1e6:7.1f} {timing.total / total:6.1%} {timing.gigaflops:8.1f} "
                f"{timing.gigabytes:7.1f} {limit}"
                f"  {timing.number:3} {launch.kernel} x {launch.work}{often}  # {launch.note}"
            )
            if launch.origins:
                lines.append(f"{' ' * 44}from {launch.origins}")
        return "\n".join(lines)

    def trace(self, path: str | Path) -> None:
        """Write who did what when as JSON trace events: open the file in https://ui.perfetto.dev or
        chrome://tracing.

        The run is driven launch by launch from Python, each thread doing its share, so gaps between
        launches are longer than in a call; the launches themselves are timed on the threads that
        ran them.
        """
        process = os.getpid()
        events: list[dict[str, object]] = [
            {"name": "thread_name", "ph": "M", "pid": process, "tid": thread,
             "args": {"name": f"avalon-{thread}"}}
            for thread in range(self.threads)
        ]  # fmt: skip
        for span in self.spans:
            timing = self.timings[span.number]
            launch = timing.launch
            events.append(
                {"name": launch.note or launch.kernel, "cat": "launch", "ph": "X", "pid": process,
                 "tid": span.thread, "ts": span.start / 1e3, "dur": (span.end - span.start) / 1e3,
                 "args": {"launch": span.number, "kernel": launch.kernel, "units": launch.work,
                          "from": launch.origins or launch.source,
                          "GFLOP/s on one thread": round(timing.gigaflops, 1)}}
            )  # fmt: skip
        text = json.dumps({"traceEvents": events, "displayTimeUnit": "ns"})
        Path(path).write_text(text, encoding="utf-8")


# What measures the limits; `codegen.rates` puts itself here, for its kernels are generated.
measure_limits: list[Callable[[], Limits]] = []
_limits: list[Limits] = []


def limits_here() -> Limits | None:
    """What one thread can do, measured once."""
    if not _limits and measure_limits:
        _limits.append(measure_limits[0]())
    return _limits[0] if _limits else None


def _kernels(plan: Plan, frame: Frame) -> list[tuple[Kernel, int]]:
    """Each launch's kernel and slots."""
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    kernel = ctypes.CFUNCTYPE(None, pointer, integer, integer, pointer)
    found: list[tuple[Kernel, int]] = []
    for number in range(len(plan.launches)):
        function, slots = frame.launch(number)
        found.append((kernel(function), slots))
    return found


def time_launches(plan: Plan, frame: Frame, scratch: int, repeat: int) -> list[Timing]:
    """Time each launch of a frame that a call has filled, `repeat` times; keep the fastest run."""
    calls = _kernels(plan, frame)
    best = [float("inf")] * len(calls)
    for _ in range(repeat):
        for number, (run, slots) in enumerate(calls):
            work = plan.launches[number].work
            started = perf_counter_ns()
            if work:
                run(slots, 0, work, scratch)
            best[number] = min(best[number], (perf_counter_ns() - started) / 1e9)
    runs = plan.rounds()
    return [
        Timing(n, launch, best[n], _bytes_of(plan, launch), runs[n])
        for n, launch in enumerate(plan.launches)
    ]


def trace_launches(plan: Plan, frame: Frame, scratch: int) -> list[Span]:
    """Run each launch once on all of the frame's threads, each doing its share."""
    calls = _kernels(plan, frame)
    stride = memory.align(max((kernel.scratch for kernel in plan.kernels.values()), default=0))
    barrier = threading.Barrier(frame.threads)
    spans: list[Span] = []
    began = perf_counter_ns()

    def work(thread: int) -> None:
        for number, (run, slots) in enumerate(calls):
            barrier.wait()
            units = plan.launches[number].work
            first, last = (units * t // frame.threads for t in (thread, thread + 1))
            if first < last:
                start = perf_counter_ns()
                run(slots, first, last, scratch + stride * thread)
                spans.append(Span(thread, number, start - began, perf_counter_ns() - began))

    helpers = [threading.Thread(target=work, args=(t,)) for t in range(1, frame.threads)]
    for helper in helpers:
        helper.start()
    work(0)
    for helper in helpers:
        helper.join()
    return sorted(spans, key=lambda span: (span.start, span.thread))


def _bytes_of(plan: Plan, launch: Launch) -> int:
    numbers = {argument.value for argument in launch.arguments if argument.kind == "buffer"}
    return sum(plan.buffers[number].nbytes for number in numbers)
