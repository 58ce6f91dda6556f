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
from typing import Any

from avalon.runtime import driver_tables as tables, memory
from avalon.runtime.buffer import Buffer
from avalon.runtime.plan import Argument, Launch, LoopSpec, Plan
from avalon.runtime.values import Table, Values
from avalon.size import Size, hint

_CHUNKS_PER_THREAD = 8
_CHUNK_NANOSECONDS = 2_000  # a smaller chunk costs more to claim than it gains
_UNEVEN = 1.04  # how much more than an equal share one thread may have
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
        formulas: the sizes whose values follow the others in the table.
    """

    def __init__(self, parts: Parts, threads: int, flush: bool) -> None:
        plan = parts.plan
        self.threads = threads
        self.flush = flush
        stride = memory.align(max((k.scratch for k in plan.kernels.values()), default=0))
        scratch = stride * threads
        self.arena_bytes = scratch + parts.arena.nbytes

        slot_count = sum(len(launch.arguments) for launch in plan.launches)
        records = _records(plan)
        slot_count += sum(isinstance(record, tuple) for record in records)  # loops' limits
        longest = max((len(launch.arguments) for launch in plan.launches), default=0)
        state_words = memory.align((tables.STATE_SLOTS + longest) * _WORD) // _WORD
        moves = [advances(plan, launch) for launch in plan.launches]
        units = parts.group_units
        self.formulas: list[Size] = []
        patch_count = slot_count
        if plan.sizes is not None:
            patch_count += 4 * len(plan.launches) + 2 * len(plan.loops) + len(units)
        places = _Places()
        job = places.add(tables.JOB_WORDS)
        launches = places.add(tables.LAUNCH_WORDS * len(records))
        groups = places.add(tables.GROUP_WORDS * len(units))
        counters = places.add(tables.COUNTER_WORDS * len(records) * threads)
        status = places.add(2)
        values = places.add(parts.values.count + (patch_count if plan.sizes is not None else 0))
        slots = places.add(slot_count)
        patches = places.add(2 * patch_count)
        relocations = places.add(2 * slot_count)
        states = places.add(state_words * threads)
        advance = places.add(tables.ADVANCE_WORDS * sum(map(len, moves)))

        self._memory = Buffer(places.words * _WORD)
        self.address = start = self._memory.address
        words = [0] * places.words
        slot = slots
        patch = patches
        relocation = relocations
        words_of: dict[Size, int] = {}  # which value each formula is

        def put(place: int, number: Any) -> None:
            """Write a number to a word, or have each call write the formula's value there."""
            nonlocal patch
            if isinstance(number, Size):
                if number not in words_of:
                    words_of[number] = parts.values.count + len(self.formulas)
                    self.formulas.append(number)
                words[patch : patch + 2] = place - slots, words_of[number]
                patch += 2
            else:
                words[place] = number

        number_of: dict[int, int] = {}  # of the record of each launch
        for number, known in enumerate(records):
            record = launches + number * tables.LAUNCH_WORDS
            if isinstance(known, tuple):
                kind, loop = known
                words[record + tables.LAUNCH_KIND] = kind
                words[record + tables.LAUNCH_DEPTH] = loop.depth
                words[record + tables.LAUNCH_GROUP] = -2  # like no group: everything waits here
                put(record + tables.LAUNCH_WORK, loop.rounds)
                other = tables.END if kind == tables.BEGIN else tables.BEGIN
                words[record + tables.LAUNCH_TARGET] = records.index((other, loop)) + 1
                arguments = [Argument("buffer", loop.limit)] if loop.limit >= 0 else []
                if arguments:
                    words[record + tables.LAUNCH_SLOTS] = start + slot * _WORD
            else:
                launch = plan.launches[known]
                number_of[known] = number
                words[record + tables.LAUNCH_FUNCTION] = parts.addresses[launch.kernel]
                words[record + tables.LAUNCH_SLOTS] = start + slot * _WORD
                put(record + tables.LAUNCH_WORK, launch.work)
                chunk = chunk_units(launch, threads)
                words[record + tables.LAUNCH_CHUNK] = chunk
                put(record + tables.LAUNCH_CHUNKS, -(-launch.work // chunk))
                words[record + tables.LAUNCH_GROUP] = parts.groups[known]
                words[record + tables.LAUNCH_SLOT_COUNT] = len(launch.arguments)
                words[record + tables.LAUNCH_ADVANCES] = start + advance * _WORD
                words[record + tables.LAUNCH_ADVANCE_COUNT] = len(moves[known])
                for move in moves[known]:
                    words[advance : advance + tables.ADVANCE_WORDS] = move
                    advance += tables.ADVANCE_WORDS
                arguments = list(launch.arguments)
            for argument in arguments:
                source, content = _source(parts, argument)
                if source == "value":
                    words[patch : patch + 2] = slot - slots, content
                    patch += 2
                elif source == "arena":
                    words[relocation] = slot - slots
                    put(relocation + 1, scratch + content)
                    relocation += 2
                elif source == "status":
                    words[slot] = start + status * _WORD
                else:
                    put(slot, content)
                slot += 1
        for group, count in enumerate(units):
            put(groups + group * tables.GROUP_WORDS + tables.GROUP_TOTAL, count)
        for word, place in (
            (tables.JOB_LAUNCHES, launches),
            (tables.JOB_PATCHES, patches),
            (tables.JOB_RELOCATIONS, relocations),
            (tables.JOB_SLOTS, slots),
            (tables.JOB_VALUES, values),
            (tables.JOB_GROUPS, groups),
            (tables.JOB_STATUS, status),
            (tables.JOB_COUNTERS, counters),
            (tables.JOB_STATES, states),
        ):
            words[job + word] = start + place * _WORD
        words[job + tables.JOB_LAUNCH_COUNT] = len(records)
        words[job + tables.JOB_PATCH_COUNT] = (patch - patches) // 2
        words[job + tables.JOB_RELOCATION_COUNT] = (relocation - relocations) // 2
        words[job + tables.JOB_GROUP_COUNT] = len(units)
        words[job + tables.JOB_THREADS] = threads
        words[job + tables.JOB_SCRATCH_STRIDE] = stride
        words[job + tables.JOB_FLUSH] = int(flush)
        words[job + tables.JOB_STATE_STRIDE] = state_words

        self.gain = shared_gain(plan, threads)
        self._words = (ctypes.c_int64 * places.words).from_address(start)
        struct.pack_into(f"<{places.words}q", self._words, 0, *words)
        self._status = status
        self._launches = launches
        self._number_of = number_of
        value_bytes = ctypes.c_char * ((parts.values.count + len(self.formulas)) * _WORD)
        self.table: Table = value_bytes.from_address(start + values * _WORD)

    def launch(self, number: int) -> tuple[int, int]:
        """The addresses of a launch's kernel and of its slots."""
        record = self._launches + self._number_of[number] * tables.LAUNCH_WORDS
        words = self._words
        return words[record + tables.LAUNCH_FUNCTION], words[record + tables.LAUNCH_SLOTS]

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


def _records(plan: Plan) -> list[int | tuple[int, LoopSpec]]:
    """What the driver walks through: the launches by number, and the marks of loops."""
    found: list[int | tuple[int, LoopSpec]] = []
    for position in range(len(plan.launches) + 1):
        found += [
            (tables.END, loop)
            for loop in reversed(plan.loops)
            if loop.end == position and loop.begin < position
        ]
        found += [
            (tables.BEGIN, loop)
            for loop in plan.loops
            if loop.begin == position and loop.end > position
        ]
        if position < len(plan.launches):
            found.append(position)
    return found


_MODES = {
    "forward": tables.FORWARD, "backward": tables.BACKWARD, "now": tables.NOW, "next": tables.NEXT,
}  # fmt: skip


def advances(plan: Plan, launch: Launch) -> list[tuple[int, int, int, int]]:
    """How the slots of a launch move on with the rounds of loops, as the driver reads it."""
    found = []
    for slot, argument in enumerate(launch.arguments):
        if argument.kind != "buffer":
            continue
        spec = plan.buffers[argument.value]
        while spec.role == "window":
            found.append((slot, spec.depth, _MODES[spec.mode], spec.stride))
            spec = plan.buffers[spec.base]
    return found


def _source(parts: Parts, argument: Argument) -> tuple[str, int]:
    """Where a slot's content comes from: the word "value" of a call's values, the offset in the
    "arena", the "status" words, or it is "fixed".
    """
    if argument.kind in ("status", "integer"):
        return ("status" if argument.kind == "status" else "fixed"), argument.value
    if argument.kind == "scalar":
        return "value", parts.values.of_scalar[argument.value]
    number = parts.plan.base(argument.value)
    if number in parts.values.of_buffer:
        return "value", parts.values.of_buffer[number]
    if number in parts.constants:
        return "fixed", parts.constants[number].address
    return "arena", parts.arena.offsets[number]


def chunk_units(launch: Launch, threads: int) -> int:
    """Units that a thread claims at a time: some chunks for each thread, none too small to pay, of
    a size that leaves the threads about equal shares.
    """
    chunks = threads * _CHUNKS_PER_THREAD
    if launch.flops or launch.bytes:
        chunks = min(chunks, max(1, estimate(launch) // _CHUNK_NANOSECONDS))
    work = hint(launch.work)
    largest = max(1, -(-work // chunks))
    if chunks < threads:
        return largest
    even = -(-work // threads) * _UNEVEN
    sizes = range(largest, (largest - 1) // 2, -1)
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
