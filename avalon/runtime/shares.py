"""First guesses of what launches cost, and how their work is shared among threads.

Comes in: launches with their units, arithmetic and bytes. Goes out: nanoseconds, and the units that
a thread claims at a time. Guaranteed: they are for deciding only; no result depends on them.
"""

from __future__ import annotations

from avalon.runtime.plan import Launch, Plan
from avalon.size import hint

_CHUNKS_PER_THREAD = 8
_CHUNK_NANOSECONDS = 2_000  # a smaller chunk costs more to claim than it gains
_LEAST_CHUNKS = 2  # for each thread, where beginning one takes long
_BEGINNING = 0.05  # share of a chunk's time that beginning it may take
_UNEVEN = 1.04  # how much more than an equal share one thread may have
# What a core does in a nanosecond, for first guesses only; then calls are timed.
_FLOPS_PER_NANOSECOND = 40
_BYTES_PER_NANOSECOND = 8
_LAUNCH_NANOSECONDS = 100


def chunk_units(launch: Launch, threads: int) -> int:
    """Units that a thread claims at a time: some chunks for each thread, none too small to pay, of
    a size that leaves the threads about equal shares; larger ones where beginning one takes long.
    """
    chunks = threads * _CHUNKS_PER_THREAD
    if launch.flops or launch.bytes:
        chunks = min(chunks, max(1, estimate(launch) // _CHUNK_NANOSECONDS))
    work = hint(launch.work)
    largest = max(1, -(-work // chunks))
    if chunks < threads:
        return largest
    even = -(-work // threads) * _UNEVEN
    sizes = [*range(largest, (largest - 1) // 2, -1)]
    if launch.begin:
        worth = launch.begin * work / (_BEGINNING * launch.flops)
        larger = range(largest, work // (threads * _LEAST_CHUNKS) + 1)
        if worth > largest:
            sizes = [*(size for size in larger if size >= worth), *reversed(larger), *sizes]
    return next((size for size in sizes if _share(work, size, threads) <= even), largest)


def _share(work: int, chunk: int, threads: int) -> int:
    """Units of the thread that has most."""
    count = -(-work // chunk)
    return -(-count // threads) * chunk


def shared_gain(plan: Plan, threads: int) -> float:
    """The share of a lone thread's time that all threads together save, by the estimates.

    Launches of a few chunks gain little, and those of one chunk nothing.
    """
    if any(loop.limit >= 0 and loop.depth for loop in plan.loops):
        return 0.0  # a thread that comes late could not know how often an inner loop ran
    alone = together = 0.0
    for launch, rounds in zip(plan.launches, plan.rounds(), strict=True):
        work = hint(launch.work)
        if work:
            chunks = -(-work // chunk_units(launch, threads))
            alone += estimate(launch) * rounds
            together += estimate(launch) * rounds * -(-chunks // threads) / chunks
    return 1 - together / alone if alone else 0.0


def estimate_all(plan: Plan) -> int:
    """Nanoseconds that all launches may take on one thread."""
    return sum(
        estimate(launch) * rounds
        for launch, rounds in zip(plan.launches, plan.rounds(), strict=True)
    )


def estimate(launch: Launch) -> int:
    """Nanoseconds that a launch may take on one thread."""
    arithmetic = hint(launch.flops) // _FLOPS_PER_NANOSECOND
    return _LAUNCH_NANOSECONDS + max(arithmetic, hint(launch.bytes) // _BYTES_PER_NANOSECOND)
