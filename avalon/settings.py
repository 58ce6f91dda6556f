"""Settings of the library: one object, read from the environment once, at most twelve fields.

Goes out: `settings`, whose fields may be assigned. Guaranteed: no field changes the bits of a
result; `flush_denormals` is the one exception, and is off. Assignments count in `rebindings`.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avalon.rebinding import rebindings

_UNBOUNDED = 1 << 20


def _threads() -> int:
    asked = os.environ.get("AVALON_NUM_THREADS")
    if asked:
        return max(1, int(asked))
    try:
        available = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        available = os.cpu_count() or 1
    return max(1, min(available, _granted()))


def _granted(folder: Path = Path("/sys/fs/cgroup")) -> int:
    """Processors that the control group grants, rounded up: a container may have few of many."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu" / "cpu.cfs_period_us").read_text()
        return math.ceil(int(quota) / int(period)) if int(quota) > 0 else _UNBOUNDED
    except (OSError, ValueError, ZeroDivisionError):  # no control groups, or "max"
        return _UNBOUNDED


def _cache() -> Path:
    asked = os.environ.get("AVALON_CACHE")
    if asked:
        return Path(asked)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "avalon"


TIERS = ("auto", "cold", "hot", "plain")


@dataclass(slots=True)
class Settings:
    """The library's settings. Assigning a name that is none of them, or a value that cannot be, is
    an error.

    Attributes:
        threads: number of threads that run a program.
        cache: folder for kernels and programs; `AVALON_CACHE` in the environment sets it.
        cache_bytes: size at which the oldest files of the cache folder are removed.
        tier: "auto" (cold at first sight, hot from the second), "cold", "hot" or "plain" (one
            kernel a call, no fusion, no passes: the schedule that judges the others).
        target: a feature set to generate code for, such as "avx2"; "" means this machine's.
        pending_calls: bound on recorded calls that wait to run.
        pending_bytes: bound on the bytes that waiting calls keep alive.
        flush_denormals: treat denormal numbers as zero (off: IEEE arithmetic).
    """

    threads: int = field(default_factory=_threads)
    cache: Path = field(default_factory=_cache)
    cache_bytes: int = 512 << 20
    tier: str = field(default_factory=lambda: os.environ.get("AVALON_TIER", "auto"))
    target: str = field(default_factory=lambda: os.environ.get("AVALON_TARGET", ""))
    pending_calls: int = 20_000
    pending_bytes: int = 1 << 30
    flush_denormals: bool = False

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "threads" and value < 1:
            raise ValueError(f"[settings] threads must be 1 or more, got {value}")
        if name == "tier" and value not in TIERS:
            listed = ", ".join(map(repr, TIERS))
            raise ValueError(f"[settings] tier is one of {listed}, got {value!r}")
        object.__setattr__(self, name, Path(value) if name == "cache" else value)
        rebindings.count += 1


settings = Settings()
