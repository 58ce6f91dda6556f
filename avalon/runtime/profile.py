"""Where the time of a program goes: each launch by itself, on one thread.

Comes in: a filled frame. Goes out: a `Profile`, which prints as a table, the most expensive launch
first. Guaranteed: launches run in the program's order, so each finds the caches as in a call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter_ns

from avalon.runtime.frame import Frame
from avalon.runtime.plan import Launch, Plan


@dataclass(frozen=True)
class Timing:
    """A launch, its number in the program, and the seconds that its fastest run took."""

    number: int
    launch: Launch
    seconds: float

    @property
    def gigaflops(self) -> float:
        """Arithmetic in a second, by the compiler's estimate, in 1e9 operations."""
        return self.launch.flops / self.seconds / 1e9 if self.seconds else 0.0


@dataclass(frozen=True)
class Profile:
    """The timings of all launches, in the program's order."""

    name: str
    timings: Sequence[Timing]

    @property
    def seconds(self) -> float:
        """What one thread needs for all launches."""
        return sum(timing.seconds for timing in self.timings)

    def __str__(self) -> str:
        total = self.seconds or 1.0
        lines = [
            f"{self.name}: {total * 1e6:.1f} us on one thread",
            "     us  share  GFLOP/s  launch",
        ]
        for timing in sorted(self.timings, key=lambda timing: -timing.seconds):
            launch = timing.launch
            lines.append(
                f"{timing.seconds * 1e6:7.1f} {timing.seconds / total:6.1%} {timing.gigaflops:8.1f}"
                f"  {timing.number:3} {launch.kernel} x {launch.work}  # {launch.note}"
            )
        return "\n".join(lines)


def time_launches(plan: Plan, frame: Frame, scratch: int, repeat: int) -> Profile:
    """Time each launch of a frame that a call has filled, `repeat` times; keep the fastest run."""
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    kernel = ctypes.CFUNCTYPE(None, pointer, integer, integer, pointer)
    calls = []
    for number in range(len(plan.launches)):
        function, slots = frame.launch(number)
        calls.append((kernel(function), slots))
    best = [float("inf")] * len(calls)
    for _ in range(repeat):
        for number, (run, slots) in enumerate(calls):
            work = plan.launches[number].work
            started = perf_counter_ns()
            if work:
                run(slots, 0, work, scratch)
            best[number] = min(best[number], (perf_counter_ns() - started) / 1e9)
    timings = [Timing(n, launch, best[n]) for n, launch in enumerate(plan.launches)]
    return Profile(plan.name, timings)
