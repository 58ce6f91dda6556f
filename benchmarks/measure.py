"""Measuring: paired timings of several libraries in one process, and what the machine can do.

Comes in: functions that do one step and finish it. Goes out: seconds, one list a competitor.
Guaranteed: competitors take turns, so that a machine that slows down slows all of them; each turn
begins after a pause (the thread pools of the others spin a while before they sleep) and with steps
that are not counted.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

Step = Callable[[], Any]

PAUSE = 0.3
UNCOUNTED = 2


def take_turns(
    steps: Mapping[str, Step], rounds: int, seconds: float, pause: float | None = None
) -> dict[str, list[float]]:
    """Time each step in `rounds` turns of about `seconds` each; return the median of every turn."""
    turns: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(2 * UNCOUNTED):
            step()
    for _ in range(rounds):
        for name, step in steps.items():
            time.sleep(PAUSE if pause is None else pause)
            turns[name].append(_one_turn(step, seconds))
    return turns


def _one_turn(step: Step, seconds: float) -> float:
    for _ in range(UNCOUNTED):
        step()
    durations: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(durations) < 5:
        start = time.perf_counter()
        step()
        durations.append(time.perf_counter() - start)
    return median(durations)


def ratio(turns: Mapping[str, list[float]], peer: str = "torch", ours: str = "avalon") -> float:
    """How many times as long the peer took, as the median over the paired turns."""
    return median(b / a for a, b in zip(turns[ours], turns[peer], strict=True))


def middle(durations: list[float]) -> float:
    """The median."""
    return median(durations)


def matmul_rate(size: int = 1024, repeats: int = 30) -> float:
    """GFLOP/s of a float32 matrix product on all threads, by PyTorch's library: the yardstick."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, b)
        durations.append(time.perf_counter() - start)
    return 2 * size**3 / median(durations) / 1e9


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "matmul GFLOP/s": round(matmul_rate(), 1),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
