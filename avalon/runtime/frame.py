"""The native tables of one running call, as the driver reads them.

Comes in: a loaded plan (kernels' addresses, groups, arena, constants) and the number of threads.
Goes out: a `Frame`, whose tables are written once; a call then fills in only its values.
Guaranteed: no two running calls share a frame, so they share no counter, slot or status.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from avalon.runtime import driver_tables as tables, memory, threads as pools
from avalon.runtime.buffer import Buffer
from avalon.runtime.plan import Argument, Launch, LoopSpec, Plan
from avalon.runtime.shares import chunk_units, estimate, shared_gain
from avalon.runtime.values import Table, Values
from avalon.size import Size

_WORD = 8
# How long launches may take, by the estimates, before the driver looks whether to pause: where the
# system has a clock that it can ask, and where only the estimates say how much time has passed.
_LOOK_NANOSECONDS, _PAUSE_NANOSECONDS = 1_000_000, 50_000_000


@dataclass(frozen=True)
class Parts:
    """What the frames of a program have in common."""

    plan: Plan
    addresses: Mapping[str, int]  # of kernels
    arena: memory.Arena
    groups: Sequence[int]  # of launches
    constants: Mapping[int, Buffer]
    values: Values
    overwriting: Collection[int]  # outputs that may lie where something lay before

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
        layout = _Layout.of(parts, threads)
        self.threads = threads
        self.flush = flush
        self.arena_bytes = layout.scratch + parts.arena.nbytes
        self.gain = shared_gain(parts.plan, threads)
        self._layout = layout
        self._writes_over = False
        self._firm = _first_overwriting(parts, layout)
        self._memory = Buffer(layout.words * _WORD)
        self.address = start = self._memory.address

        writer = _Writer(parts, layout, start)
        writer.write(threads, flush)
        self.formulas: list[Size] = list(writer.formulas)
        self._words = (ctypes.c_int64 * layout.words).from_address(start)
        struct.pack_into(f"<{layout.words}q", self._words, 0, *writer.words)
        value_bytes = ctypes.c_char * ((parts.values.count + len(self.formulas)) * _WORD)
        self.table: Table = value_bytes.from_address(start + layout.values * _WORD)

    def launch(self, number: int) -> tuple[int, int]:
        """The addresses of a launch's kernel and of its slots."""
        record = self._layout.record(self._layout.records.index(number))
        words = self._words
        return words[record + tables.LAUNCH_FUNCTION], words[record + tables.LAUNCH_SLOTS]

    @property
    def is_paused(self) -> bool:
        """Whether a run has paused and is to go on."""
        return self._words[self._layout.job + tables.JOB_AT] >= 0

    @property
    def status(self) -> int:
        """What the last run ended with: 0, or the number of the failed check."""
        return self._words[self._layout.status]

    def stop(self) -> None:
        """Let a paused run end without the launches that are left, where workers run it too."""
        self._words[self._layout.status] = tables.STOPPED

    def forget_pause(self) -> None:
        """Give a paused run up."""
        self._words[self._layout.job + tables.JOB_AT] = -1

    def write_over(self, writes: bool) -> None:
        """Say whether a call writes over memory that was there before: from where it begins to do
        so, it is not given up any more.
        """
        if writes is not self._writes_over:
            self._writes_over = writes
            firm = self._firm if writes else len(self._layout.records)
            self._words[self._layout.job + tables.JOB_FIRM] = firm

    @property
    def failed_value(self) -> int:
        """The value that the failed check met."""
        return self._words[self._layout.status + 1]


@dataclass(frozen=True)
class _Layout:
    """Where each table begins in a frame, in words; each table starts on a cache line."""

    records: Sequence[int | tuple[int, LoopSpec]]  # see `_records`
    moves: Sequence[Sequence[tuple[int, int, int, int]]]  # of each launch, see `advances`
    stride: int  # bytes of scratch memory a thread
    scratch: int  # bytes of scratch memory in all
    state_words: int  # of each thread
    words: int  # in all
    job: int
    launches: int
    groups: int
    counters: int
    status: int
    values: int
    slots: int
    patches: int
    relocations: int
    states: int
    advances: int

    @staticmethod
    def of(parts: Parts, threads: int) -> _Layout:
        """Measure what a program's tables take."""
        plan = parts.plan
        records = _records(plan)
        moves = [advances(plan, launch) for launch in plan.launches]
        groups = len(parts.group_units)
        slots = sum(len(launch.arguments) for launch in plan.launches)
        slots += sum(isinstance(record, tuple) for record in records)  # loops' limits
        patches, formulas = slots, 0
        if plan.sizes is not None:
            formulas = patches = slots + 4 * len(plan.launches) + 2 * len(plan.loops) + groups
        longest = max((len(launch.arguments) for launch in plan.launches), default=0)
        state_words = memory.align((tables.STATE_SLOTS + longest) * _WORD) // _WORD
        stride = memory.align(max((k.scratch for k in plan.kernels.values()), default=0))
        lengths = {
            "job": tables.JOB_WORDS,
            "launches": tables.LAUNCH_WORDS * len(records),
            "groups": tables.GROUP_WORDS * groups,
            "counters": tables.COUNTER_WORDS * len(records) * threads,
            "status": 2,
            "values": parts.values.count + formulas,
            "slots": slots,
            "patches": 2 * patches,
            "relocations": 2 * slots,
            "states": state_words * threads,
            "advances": tables.ADVANCE_WORDS * sum(map(len, moves)),
        }
        places, words = {}, 0
        for name, length in lengths.items():
            places[name] = words
            words += memory.align(length * _WORD) // _WORD
        return _Layout(records, moves, stride, stride * threads, state_words, words, **places)

    def record(self, number: int) -> int:
        """Where the record of that number is."""
        return self.launches + number * tables.LAUNCH_WORDS


class _Writer:
    """Fills the tables of a frame that starts at an address.

    Attributes:
        words: what the frame holds.
        formulas: the sizes whose values follow the others, each with its place among the values.
    """

    def __init__(self, parts: Parts, layout: _Layout, start: int) -> None:
        self.words = [0] * layout.words
        self.formulas: dict[Size, int] = {}
        self._parts = parts
        self._layout = layout
        self._start = start
        # where the next of each comes
        self._slot = layout.slots
        self._patch = layout.patches
        self._relocation = layout.relocations
        self._advance = layout.advances

    def write(self, threads: int, flush: bool) -> None:
        """Write all tables."""
        for number, known in enumerate(self._layout.records):
            if isinstance(known, tuple):
                self._mark(number, *known)
            else:
                self._launch(number, known, threads)
        for group, units in enumerate(self._parts.group_units):
            place = self._layout.groups + group * tables.GROUP_WORDS
            self._put(place + tables.GROUP_TOTAL, units)
        self._job(threads, flush)

    def _put(self, place: int, number: int | Size) -> None:
        """Write a number to a word, or have each call write the formula's value there."""
        if not isinstance(number, Size):
            self.words[place] = number
            return
        value = self.formulas.setdefault(number, self._parts.values.count + len(self.formulas))
        self._patch_with(place, value)

    def _patch_with(self, place: int, value: int) -> None:
        """Have each call write the value of that number to a word."""
        self.words[self._patch : self._patch + 2] = place - self._layout.slots, value
        self._patch += 2

    def _mark(self, number: int, kind: int, loop: LoopSpec) -> None:
        """The record of a loop's begin or end."""
        words, record = self.words, self._layout.record(number)
        words[record + tables.LAUNCH_KIND] = kind
        words[record + tables.LAUNCH_DEPTH] = loop.depth
        words[record + tables.LAUNCH_GROUP] = -2  # like no group: everything waits here
        self._put(record + tables.LAUNCH_WORK, loop.rounds)
        other = tables.END if kind == tables.BEGIN else tables.BEGIN
        words[record + tables.LAUNCH_TARGET] = self._layout.records.index((other, loop)) + 1
        if loop.limit >= 0:
            words[record + tables.LAUNCH_SLOTS] = self._address(self._slot)
            self._fill_slot(Argument("buffer", loop.limit))

    def _launch(self, number: int, known: int, threads: int) -> None:
        """The record of a launch, its slots, and how they move on with loops."""
        words, record = self.words, self._layout.record(number)
        launch, moves = self._parts.plan.launches[known], self._layout.moves[known]
        chunk = chunk_units(launch, threads)
        words[record + tables.LAUNCH_FUNCTION] = self._parts.addresses[launch.kernel]
        words[record + tables.LAUNCH_SLOTS] = self._address(self._slot)
        self._put(record + tables.LAUNCH_WORK, launch.work)
        words[record + tables.LAUNCH_CHUNK] = chunk
        self._put(record + tables.LAUNCH_CHUNKS, -(-launch.work // chunk))
        words[record + tables.LAUNCH_GROUP] = self._parts.groups[known]
        words[record + tables.LAUNCH_COST] = estimate(launch)
        words[record + tables.LAUNCH_SLOT_COUNT] = len(launch.arguments)
        words[record + tables.LAUNCH_ADVANCES] = self._address(self._advance)
        words[record + tables.LAUNCH_ADVANCE_COUNT] = len(moves)
        for move in moves:
            words[self._advance : self._advance + tables.ADVANCE_WORDS] = move
            self._advance += tables.ADVANCE_WORDS
        for argument in launch.arguments:
            self._fill_slot(argument)

    def _fill_slot(self, argument: Argument) -> None:
        """The next slot: written now, or by each call."""
        source, content = _source(self._parts, argument)
        if source == "value":
            self._patch_with(self._slot, content)
        elif source == "arena":
            self.words[self._relocation] = self._slot - self._layout.slots
            self._put(self._relocation + 1, self._layout.scratch + content)
            self._relocation += 2
        elif source == "status":
            self.words[self._slot] = self._address(self._layout.status)
        else:
            self._put(self._slot, content)
        self._slot += 1

    def _job(self, threads: int, flush: bool) -> None:
        """The record that the driver starts from."""
        layout = self._layout
        clock, kind = pools.clock()
        for word, number in (
            (tables.JOB_LAUNCHES, self._address(layout.launches)),
            (tables.JOB_PATCHES, self._address(layout.patches)),
            (tables.JOB_RELOCATIONS, self._address(layout.relocations)),
            (tables.JOB_SLOTS, self._address(layout.slots)),
            (tables.JOB_VALUES, self._address(layout.values)),
            (tables.JOB_GROUPS, self._address(layout.groups)),
            (tables.JOB_STATUS, self._address(layout.status)),
            (tables.JOB_COUNTERS, self._address(layout.counters)),
            (tables.JOB_STATES, self._address(layout.states)),
            (tables.JOB_LAUNCH_COUNT, len(layout.records)),
            (tables.JOB_PATCH_COUNT, (self._patch - layout.patches) // 2),
            (tables.JOB_RELOCATION_COUNT, (self._relocation - layout.relocations) // 2),
            (tables.JOB_GROUP_COUNT, len(self._parts.group_units)),
            (tables.JOB_THREADS, threads),
            (tables.JOB_SCRATCH_STRIDE, layout.stride),
            (tables.JOB_FLUSH, int(flush)),
            (tables.JOB_STATE_STRIDE, layout.state_words),
            (tables.JOB_AT, -1),
            (tables.JOB_FIRM, len(layout.records)),
            (tables.JOB_CLOCK, clock),
            (tables.JOB_CLOCK_KIND, kind),
            (tables.JOB_LOOK, _LOOK_NANOSECONDS if clock else _PAUSE_NANOSECONDS),
        ):
            self.words[layout.job + word] = number

    def _address(self, place: int) -> int:
        return self._start + place * _WORD


def _first_overwriting(parts: Parts, layout: _Layout) -> int:
    """The first record that may write over memory that was there before the call."""
    plan = parts.plan
    written = {plan.outputs[output] for output in parts.overwriting}
    for number, known in enumerate(layout.records):
        if isinstance(known, int) and any(
            a.kind == "buffer" and a.written and plan.base(a.value) in written
            for a in plan.launches[known].arguments
        ):
            return number
    return len(layout.records)


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
