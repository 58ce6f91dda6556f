"""The native tables of one running call, as the driver reads them.

Comes in: a loaded plan (kernels' addresses, groups, arena, constants) and the number of threads.
Goes out: a `Frame`, whose tables are written once; a call then fills in only its values.
Guaranteed: no two running calls share a frame, so they share no counter, slot or status.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from avalon.runtime import driver, memory
from avalon.runtime.buffer import Buffer
from avalon.runtime.plan import Argument, Launch, Plan
from avalon.runtime.values import Table, Values

_CHUNKS_PER_THREAD = 8
_CHUNK_NANOSECONDS = 2_000  # a smaller chunk costs more to claim than it gains
# What a core does in a nanosecond, for first guesses only; then calls are timed.
_FLOPS_PER_NANOSECOND = 40
_BYTES_PER_NANOSECOND = 8
_LAUNCH_NANOSECONDS = 100

_WORD = 8


@dataclass(frozen=True)
class Parts:
    """What the frames of a program have in common."""

    plan: Plan
    addresses: Mapping[str, int]  # of kernels
    arena: memory.Arena
    groups: Sequence[int]  # of launches
    constants: Mapping[int, Buffer]
    values: Values

    @property
    def group_units(self) -> list[int]:
        """The units of work in each group."""
        units = [0] * (self.groups[-1] + 1 if self.groups else 0)
        for launch, group in zip(self.plan.launches, self.groups, strict=True):
            units[group] += launch.work
        return units


class Frame:
    """Tables for calls with a given number of threads.

    Attributes:
        address: of the job that the driver runs.
        threads: how many threads the chunks and the scratch memory are for.
        flush: whether denormals are flushed.
        arena_bytes: memory that a call needs: each thread's scratch, then the temporaries.
        table: where the call's values go.
        gain: the share of a lone thread's time that the other threads save, about.
    """

    def __init__(self, parts: Parts, threads: int, flush: bool) -> None:
        plan = parts.plan
        self.threads = threads
        self.flush = flush
        stride = memory.align(max((k.scratch for k in plan.kernels.values()), default=0))
        scratch = stride * threads
        self.arena_bytes = scratch + parts.arena.nbytes

        slot_count = sum(len(launch.arguments) for launch in plan.launches)
        units = parts.group_units
        places = _Places()
        job = places.add(driver.JOB_WORDS)
        launches = places.add(driver.LAUNCH_WORDS * len(plan.launches))
        groups = places.add(driver.GROUP_WORDS * len(units))
        counters = places.add(driver.COUNTER_WORDS * len(plan.launches) * threads)
        status = places.add(2)
        values = places.add(parts.values.count)
        slots = places.add(slot_count)
        patches = places.add(2 * slot_count)
        relocations = places.add(2 * slot_count)

        self._memory = Buffer(places.words * _WORD)
        self.address = start = self._memory.address
        words = [0] * places.words
        slot = slots
        patch = patches
        relocation = relocations
        for number, launch in enumerate(plan.launches):
            record = launches + number * driver.LAUNCH_WORDS
            words[record + driver.LAUNCH_FUNCTION] = parts.addresses[launch.kernel]
            words[record + driver.LAUNCH_SLOTS] = start + slot * _WORD
            words[record + driver.LAUNCH_WORK] = launch.work
            chunk = chunk_units(launch, threads)
            words[record + driver.LAUNCH_CHUNK] = chunk
            words[record + driver.LAUNCH_CHUNKS] = -(-launch.work // chunk)
            words[record + driver.LAUNCH_GROUP] = parts.groups[number]
            for argument in launch.arguments:
                kind, content = _source(parts, argument)
                if kind == "value":
                    words[patch : patch + 2] = slot - slots, content
                    patch += 2
                elif kind == "arena":
                    words[relocation : relocation + 2] = slot - slots, scratch + content
                    relocation += 2
                elif kind == "status":
                    words[slot] = start + status * _WORD
                else:
                    words[slot] = content
                slot += 1
        for group, count in enumerate(units):
            words[groups + group * driver.GROUP_WORDS + driver.GROUP_TOTAL] = count
        for word, place in (
            (driver.JOB_LAUNCHES, launches),
            (driver.JOB_PATCHES, patches),
            (driver.JOB_RELOCATIONS, relocations),
            (driver.JOB_SLOTS, slots),
            (driver.JOB_VALUES, values),
            (driver.JOB_GROUPS, groups),
            (driver.JOB_STATUS, status),
            (driver.JOB_COUNTERS, counters),
        ):
            words[job + word] = start + place * _WORD
        words[job + driver.JOB_LAUNCH_COUNT] = len(plan.launches)
        words[job + driver.JOB_PATCH_COUNT] = (patch - patches) // 2
        words[job + driver.JOB_RELOCATION_COUNT] = (relocation - relocations) // 2
        words[job + driver.JOB_GROUP_COUNT] = len(units)
        words[job + driver.JOB_THREADS] = threads
        words[job + driver.JOB_SCRATCH_STRIDE] = stride
        words[job + driver.JOB_FLUSH] = int(flush)

        self.gain = shared_gain(plan, threads)
        self._words = (ctypes.c_int64 * places.words).from_address(start)
        struct.pack_into(f"<{places.words}q", self._words, 0, *words)
        self._status = status
        self._launches = launches
        value_bytes = ctypes.c_char * (parts.values.count * _WORD)
        self.table: Table = value_bytes.from_address(start + values * _WORD)

    def launch(self, number: int) -> tuple[int, int]:
        """The addresses of a launch's kernel and of its slots."""
        record = self._launches + number * driver.LAUNCH_WORDS
        words = self._words
        return words[record + driver.LAUNCH_FUNCTION], words[record + driver.LAUNCH_SLOTS]

    @property
    def failed_value(self) -> int:
        """The value that the failed check met."""
        return self._words[self._status + 1]


class _Places:
    """Hands out places in a frame, in words, each on a cache line of its own."""

    def __init__(self) -> None:
        self.words = 0

    def add(self, words: int) -> int:
        place = self.words
        self.words += memory.align(words * _WORD) // _WORD
        return place


def _source(parts: Parts, argument: Argument) -> tuple[str, int]:
    """Where a slot's content comes from: the word "value" of a call's values, the offset in the
    "arena", the "status" words, or it is "fixed".
    """
    if argument.kind in ("status", "integer"):
        return ("status" if argument.kind == "status" else "fixed"), argument.value
    if argument.kind == "scalar":
        return "value", parts.values.of_scalar[argument.value]
    number = argument.value
    if number in parts.values.of_buffer:
        return "value", parts.values.of_buffer[number]
    if number in parts.constants:
        return "fixed", parts.constants[number].address
    return "arena", parts.arena.offsets[number]


def chunk_units(launch: Launch, threads: int) -> int:
    """Units that a thread claims at a time: some chunks for each thread, none too small to pay."""
    chunks = threads * _CHUNKS_PER_THREAD
    if launch.flops or launch.bytes:
        chunks = min(chunks, max(1, estimate(launch) // _CHUNK_NANOSECONDS))
    return max(1, -(-launch.work // chunks))


def shared_gain(plan: Plan, threads: int) -> float:
    """The share of a lone thread's time that all threads together save, by the estimates.

    Launches of a few chunks gain little, and those of one chunk nothing.
    """
    alone = together = 0.0
    for launch in plan.launches:
        if launch.work:
            chunks = -(-launch.work // chunk_units(launch, threads))
            alone += estimate(launch)
            together += estimate(launch) * -(-chunks // threads) / chunks
    return 1 - together / alone if alone else 0.0


def estimate(launch: Launch) -> int:
    """Nanoseconds that a launch may take on one thread."""
    arithmetic = launch.flops // _FLOPS_PER_NANOSECOND
    return _LAUNCH_NANOSECONDS + max(arithmetic, launch.bytes // _BYTES_PER_NANOSECOND)
