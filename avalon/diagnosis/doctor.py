"""`avalon doctor`: what was found on this machine, how fast it is, and what is wrong.

Comes in: nothing, or facts that a test made up. Goes out: text for people. Guaranteed: nothing is
changed; what cannot be found out is left out; every warning says what to do.
"""

from __future__ import annotations

import os
import platform
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from math import ceil
from pathlib import Path
from time import perf_counter

import llvmlite
import llvmlite.binding as llvm
import numpy as np

from avalon.codegen import rates
from avalon.codegen.target import host
from avalon.runtime import cache
from avalon.settings import settings
from avalon.tensor import no_grad, tensor

_OLDEST_LLVMLITE = (0, 45)
_SIDE = 1024  # of the product that is timed
_POOR = 0.6  # of the multiply-add peak that a large product should reach
_OTHERS_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Facts:
    """What `avalon doctor` looks at. Rates are in GFLOP/s and GB/s, on all threads; 0 if they were
    not measured.
    """

    processor: str
    target: str
    lanes: int
    has_fma: bool
    threads: int
    available: int  # processors that this process may use
    processors: int  # of the machine
    load: float  # programs that wanted a processor in the last minute
    caches: str
    versions: Mapping[str, str]
    llvmlite: tuple[int, ...]
    folder: Path
    folder_works: bool
    folder_mode: int | None
    entries: int
    folder_bytes: int
    folder_limit: int
    flush_denormals: bool
    environment: Mapping[str, str] = field(default_factory=dict)
    peak: float = 0.0
    memory: float = 0.0
    product: float = 0.0


def doctor(measure: bool = True) -> str:
    """What Avalon found on this machine, measured rates, and warnings of what is wrong.

    Args:
        measure: time multiply-adds, memory and a product, which takes about a second.
    """
    facts = look(measure)
    lines = [f"{name + ':':16} {text}" for name, text in describe(facts)]
    found = list(warnings(facts))
    lines += [f"warning: {text}" for text in found] or ["nothing is wrong"]
    return "\n".join(lines)


def look(measure: bool = True) -> Facts:
    """The facts of this machine."""
    target = host()
    entries, nbytes = cache.size()
    peak = rates.multiply_add_rate() if measure else 0.0
    memory = rates.memory_rate() if measure else 0.0
    return Facts(
        processor=_processor(),
        target=target.name,
        lanes=target.lanes,
        has_fma=target.has_fma,
        threads=settings.threads,
        available=_available(),
        processors=os.cpu_count() or 1,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        caches=_caches(),
        versions=_versions(),
        llvmlite=tuple(int(part) for part in llvmlite.__version__.split(".")[:2] if part.isdigit()),
        folder=settings.cache,
        folder_works=cache.usable(),
        folder_mode=_mode(settings.cache),
        entries=entries,
        folder_bytes=nbytes,
        folder_limit=settings.cache_bytes,
        flush_denormals=settings.flush_denormals,
        environment={k: v for k, v in os.environ.items() if k.endswith("_NUM_THREADS")},
        peak=peak,
        memory=memory,
        product=_product_rate() if measure else 0.0,
    )


def describe(facts: Facts) -> Iterator[tuple[str, str]]:
    """The facts in words, each with its name."""
    yield "processor", facts.processor
    fused = "" if facts.has_fma else "no "
    width = f"{facts.lanes} float32 at once, {fused}fused multiply-add"
    yield "vectors", f"{facts.target}: {width}"
    yield "threads", f"{facts.threads}, of {facts.available} that may be used here"
    if facts.caches:
        yield "caches", facts.caches
    yield "versions", ", ".join(f"{name} {number}" for name, number in facts.versions.items())
    mode = "" if facts.folder_mode is None else f", mode {facts.folder_mode:04o}"
    size = f"{facts.entries} entries, {facts.folder_bytes / 2**20:.1f} MB"
    yield "cache folder", f"{facts.folder}: {size} of {facts.folder_limit / 2**20:.0f} MB{mode}"
    if facts.peak:
        yield "multiply-adds", f"{facts.peak:.0f} GFLOP/s"
        yield "memory", f"{facts.memory:.1f} GB/s"
        share = facts.product / facts.peak
        yield "product", f"{_SIDE} x {_SIDE}: {facts.product:.0f} GFLOP/s, {share:.0%} of that"


def warnings(facts: Facts) -> Iterator[str]:
    """What is wrong, and what to do about it."""
    if not facts.has_fma:
        yield (
            "the processor has no fused multiply-add: programs are slower, and the last bits "
            "differ from other machines'"
        )
    if facts.threads == 1 and facts.available > 1:
        yield (
            f"only one thread is used, {facts.available} processors are free: unset "
            f"AVALON_NUM_THREADS or set av.settings.threads"
        )
    if facts.threads > facts.available:
        yield (
            f"{facts.threads} threads share {facts.available} processors: set AVALON_NUM_THREADS="
            f"{facts.available}, or they wait for each other"
        )
    if facts.load > 2 * facts.processors:
        yield (
            f"{facts.load:.0f} programs want {facts.processors} processors: others slow this one "
            f"down, and measured rates say little"
        )
    others = [name for name in _OTHERS_THREADS if name in facts.environment]
    if others and "AVALON_NUM_THREADS" not in facts.environment:
        yield (
            f"{others[0]}={facts.environment[others[0]]} is set, which Avalon does not read: set "
            f"AVALON_NUM_THREADS too, if it is to use as many threads"
        )
    if not facts.folder_works:
        yield (
            f"the cache folder {facts.folder} cannot be written, so every process compiles anew: "
            f"set AVALON_CACHE to a folder of yours"
        )
    if facts.folder_mode is not None and facts.folder_mode & 0o022:
        yield (
            f"others may write to {facts.folder}, and so run code as you: chmod 700 {facts.folder}"
        )
    if facts.folder_bytes > facts.folder_limit:
        yield (
            f"the cache folder holds {facts.folder_bytes / 2**20:.0f} MB, more than its limit: "
            f"`avalon cache clear` empties it"
        )
    if facts.llvmlite < _OLDEST_LLVMLITE:
        yield (
            f"llvmlite {'.'.join(map(str, facts.llvmlite))} is older than "
            f"{'.'.join(map(str, _OLDEST_LLVMLITE))}: pip install -U llvmlite"
        )
    if facts.flush_denormals:
        yield (
            "denormal numbers count as zero (settings.flush_denormals): results differ from IEEE's"
        )
    if facts.peak and facts.product < _POOR * facts.peak:
        yield (
            f"a large product reaches {facts.product / facts.peak:.0%} of the multiply-add rate: "
            f"other programs may be running; measure again when it is quiet"
        )


def _product_rate() -> float:
    rng = np.random.default_rng(0)
    a, b = (tensor(rng.random((_SIDE, _SIDE), np.float32)) for _ in range(2))
    best = float("inf")
    with no_grad():
        for _ in range(8):
            started = perf_counter()
            (a @ b).value().force()
            best = min(best, perf_counter() - started)
    return 2 * _SIDE**3 / best / 1e9


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _available() -> int:
    """Processors of the affinity mask, or fewer if the control group grants fewer."""
    try:
        masked = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        masked = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(masked, ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no control group, or "max"
        return masked


def _caches() -> str:
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = (
                (index / name).read_text().strip() for name in ("level", "type", "size")
            )
        except OSError:
            continue
        if kind != "Instruction":
            found.append(f"L{level} {size.replace('K', ' kB')}")
    return ", ".join(found)


def _versions() -> dict[str, str]:
    try:
        own = version("avalon")
    except PackageNotFoundError:  # run from its folder
        own = "not installed"
    return {
        "avalon": own,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "llvmlite": llvmlite.__version__,
        "LLVM": ".".join(map(str, llvm.llvm_version_info)),
    }


def _mode(folder: Path) -> int | None:
    try:
        return stat.S_IMODE(folder.stat().st_mode) if os.name == "posix" else None
    except OSError:
        return None
