"""The memory plan of a program: where temporaries lie, which launches may overlap, what is donated.

Comes in: a `Plan`. Goes out: an offset in the arena for each temporary, a group number for each
launch, and the donations that are safe. Guaranteed: two temporaries share bytes only if one's last
launch comes before the other's first; launches of one group may run in any order and at the same
time; a donated input is overwritten only when nothing reads its old value any more and no check can
still fail.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from avalon.runtime.buffer import ALIGNMENT
from avalon.runtime.plan import Launch, Plan
from avalon.size import Sizes, hint
from avalon.switches import declare

REUSE_MEMORY = declare("reuse memory", "memory", "temporaries lie where others lay before")
OVERLAP_LAUNCHES = declare("overlap launches", "memory", "independent kernels run at once")
UPDATE_IN_PLACE = declare("update in place", "memory", "outputs lie where given-up inputs lay")


@dataclass(frozen=True)
class Arena:
    """Where temporaries lie: buffer number -> offset in bytes, and the size of the whole. With
    sizes that come at run time, `places` says which share a place, for offsets are formulas then.
    """

    offsets: dict[int, int]
    nbytes: int
    places: dict[int, int] | None = None


@dataclass(frozen=True)
class _Lifetime:
    first: int
    last: int


def align(nbytes: int) -> int:
    """Round up to the alignment of buffers."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def plan_arena(plan: Plan) -> Arena:
    """Give each temporary a place, first to last launch, in the smallest gap that holds it."""
    if plan.sizes is not None:
        return _plan_places(plan, plan.sizes)
    starting, ending = _starts_and_ends(plan)
    offsets: dict[int, int] = {}
    gaps: list[tuple[int, int]] = []  # (offset, bytes), by offset, never touching each other
    end = 0
    for position in range(len(plan.launches)):
        # the largest first: small ones find a gap anywhere
        for buffer in sorted(starting[position], key=lambda b: -plan.buffers[b].nbytes):
            nbytes = align(plan.buffers[buffer].nbytes)
            fitting = [(size, offset) for offset, size in gaps if size >= nbytes]
            if fitting:
                size, offset = min(fitting)
                gaps.remove((offset, size))
                if size > nbytes:
                    insort(gaps, (offset + nbytes, size - nbytes))
            elif gaps and sum(gaps[-1]) == end:  # the last gap reaches the end: stretch it
                offset, _ = gaps.pop()
                end = offset + nbytes
            else:
                offset, end = end, end + nbytes
            offsets[buffer] = offset
        for buffer in ending[position] if REUSE_MEMORY.on else ():
            _release(gaps, offsets[buffer], align(plan.buffers[buffer].nbytes))
    return Arena(offsets, end)


def _plan_places(plan: Plan, sizes: Sizes) -> Arena:
    """Let temporaries whose lives do not meet share a place, which is as large as the largest of
    them: that holds whatever the sizes are. Those of equal formulas are put together first.
    """
    starting, ending = _starts_and_ends(plan)
    places: dict[int, int] = {}
    members: list[dict[int, None]] = []  # the bytes of each place's buffers, each once
    free: list[int] = []
    for position in range(len(plan.launches)):
        for buffer in starting[position]:
            nbytes = align(plan.buffers[buffer].nbytes)
            wanted = hint(nbytes)
            chosen = min(
                free,
                key=lambda place: (
                    nbytes not in members[place],
                    abs(max(map(hint, members[place])) - wanted),
                ),
                default=None,
            )
            if chosen is None:
                chosen = len(members)
                members.append({})
            else:
                free.remove(chosen)
            members[chosen][nbytes] = None
            places[buffer] = chosen
        free.extend(places[buffer] for buffer in ending[position])
    starts, end = [], 0
    for one in members:
        starts.append(end)
        end = end + sizes.largest(list(one))
    return Arena({buffer: starts[place] for buffer, place in places.items()}, end, places)


def _starts_and_ends(plan: Plan) -> tuple[list[list[int]], list[list[int]]]:
    """The temporaries whose life begins, and ends, with each launch."""
    starting: list[list[int]] = [[] for _ in plan.launches]
    ending: list[list[int]] = [[] for _ in plan.launches]
    for buffer, lifetime in _lifetimes(plan).items():
        starting[lifetime.first].append(buffer)
        ending[lifetime.last].append(buffer)
    return starting, ending


def group_launches(plan: Plan, arena: Arena, donations: Collection[tuple[int, int]]) -> list[int]:
    """Return the group of each launch. A barrier lies between groups, none inside.

    A launch joins the running group unless it touches memory that the group writes, or writes
    memory that the group touches (but windows of one result may be written side by side); and a
    launch that overwrites a donated input waits for the checks before it. No group reaches into a
    loop or out of it. `donations` are pairs (output position, input position) of one memory.
    """
    shared = {plan.outputs[output]: plan.inputs[position].buffer for output, position in donations}
    donated = set(shared)
    groups: list[int] = []
    group = 0
    checking = False
    reads = _Regions(plan, arena, shared)
    writes = _Regions(plan, arena, shared)
    windows: set[int] = set()  # results of which the group has written parts
    marks = {mark for loop in plan.loops for mark in (loop.begin, loop.end) if mark}
    for number, launch in enumerate(plan.launches):
        touched = [a for a in launch.arguments if a.kind == "buffer"]
        apart = number in marks or not OVERLAP_LAUNCHES.on
        if apart or any(
            (writes.meets(a.value) and not (a.written and launch.window and a.value in windows))
            or (
                a.written and (reads.meets(a.value) or (checking and plan.base(a.value) in donated))
            )
            for a in touched
        ):
            group += 1
            checking = False
            reads.clear()
            writes.clear()
            windows.clear()
        checking = checking or any(a.kind == "status" for a in launch.arguments)
        for argument in touched:
            (writes if argument.written else reads).add(argument.value)
            if argument.written and launch.window:
                windows.add(argument.value)
        groups.append(group)
    return groups


def safe_donations(plan: Plan) -> list[tuple[int, int]]:
    """Return the pairs (output position, input position) of the plan that may share memory.

    The input must not be read after the launch that first writes the output (in that launch itself
    the kernel reads each element before it writes it: the schedule saw to that), and all checks
    must have run before, for a failing program changes nothing; so must loops that decide
    themselves when they end, for who waits for one in vain gives the run up.
    """
    if not UPDATE_IN_PLACE.on:
        return []
    first_write: dict[int, int] = {}
    last_read: dict[int, int] = {}
    last_check = -1
    for position, launch in enumerate(plan.launches):
        for argument in launch.arguments:
            if argument.kind == "status":
                last_check = position
            elif argument.kind == "buffer" and argument.written:
                first_write.setdefault(plan.base(argument.value), position)
            elif argument.kind == "buffer":
                last_read[plan.base(argument.value)] = position
    for loop in plan.loops:
        if loop.limit >= 0:  # it may never end, and then the run is given up
            last_check = max(last_check, loop.end - 1)
    for loop in plan.loops:  # a round that follows reads again
        for buffer, position in last_read.items():
            if loop.begin <= position < loop.end:
                last_read[buffer] = loop.end
    safe = []
    for output, position in plan.donations:
        buffer = plan.inputs[position].buffer
        write = first_write.get(plan.outputs[output], -1)
        same_size = plan.buffers[buffer].nbytes == plan.buffers[plan.outputs[output]].nbytes
        read_before = last_read.get(buffer, -1) <= write and buffer not in first_write
        if buffer in plan.outputs:
            continue  # the run ends with a copy of it to another output
        if same_size and read_before and last_check < write:
            safe.append((output, position))
    return safe


def written_after_checks(plan: Plan, groups: Sequence[int]) -> set[int]:
    """The outputs, by position, that no launch writes before all checks have passed."""
    last_check = -1
    first: dict[int, int] = {}
    for launch, group in zip(plan.launches, groups, strict=True):
        for argument in launch.arguments:
            if argument.kind == "status":
                last_check = group
            elif argument.kind == "buffer" and argument.written:
                first.setdefault(argument.value, group)
    endings = [groups[loop.end - 1] for loop in plan.loops if loop.limit >= 0]
    last_check = max([last_check, *endings])
    return {
        position
        for position, number in enumerate(plan.outputs)
        if first.get(number, -1) > last_check
    }


def delay_updates(plan: Plan) -> None:
    """Move the launch that updates an input behind the last one that reads the old value, where
    nothing between them needs what it writes, so that the input's memory can be written over.
    """
    if plan.loops:
        return
    for output, position in plan.donations:
        source, target = plan.inputs[position].buffer, plan.outputs[output]
        first = last = -1
        for number, launch in enumerate(plan.launches):
            for argument in launch.arguments:
                if argument.kind != "buffer":
                    continue
                if argument.value == target and argument.written and first < 0:
                    first = number
                elif argument.value == source:
                    last = number
        if not 0 <= first < last:
            continue
        update, between = plan.launches[first], plan.launches[first + 1 : last + 1]
        if any(argument.kind == "status" for argument in update.arguments):
            continue
        read, written = _touched(plan, [update])
        others_read, others_written = _touched(plan, between)
        if written & (others_read | others_written) or read & others_written:
            continue
        plan.launches.insert(last, plan.launches.pop(first))


def _touched(plan: Plan, launches: Sequence[Launch]) -> tuple[set[int], set[int]]:
    """The buffers that some launches read, and those that they write."""
    read: set[int] = set()
    written: set[int] = set()
    for launch in launches:
        for argument in launch.arguments:
            if argument.kind == "buffer":
                (written if argument.written else read).add(plan.base(argument.value))
    return read, written


def _lifetimes(plan: Plan) -> dict[int, _Lifetime]:
    """From the first to the last launch that touches a temporary. What lives longer than a round of
    a loop lives through the whole loop; the rest of what a loop makes is there once for all rounds.
    """
    found: dict[int, _Lifetime] = {}
    moving: set[tuple[int, int]] = set()  # buffers with windows, and the depth of their loops
    for position, launch in enumerate(plan.launches):
        for argument in launch.arguments:
            if argument.kind != "buffer":
                continue
            buffer = argument.value
            while plan.buffers[buffer].role == "window":
                depth, buffer = plan.buffers[buffer].depth, plan.buffers[buffer].base
                moving.add((plan.base(buffer), depth))
            if plan.buffers[buffer].role != "temporary":
                continue
            known = found.get(buffer)
            found[buffer] = _Lifetime(known.first if known else position, position)
    for loop in plan.loops:
        if loop.limit >= 0 and loop.limit in found:
            known = found[loop.limit]
            found[loop.limit] = _Lifetime(known.first, max(known.last, loop.end - 1))
    for loop in reversed(plan.loops):  # the inner ones first
        for buffer, life in found.items():
            touched = life.first < loop.end and life.last >= loop.begin
            inside = loop.begin <= life.first and life.last < loop.end
            if touched and (not inside or (buffer, loop.depth) in moving):
                first, last = min(life.first, loop.begin), max(life.last, loop.end - 1)
                found[buffer] = _Lifetime(first, last)
    return found


def _release(gaps: list[tuple[int, int]], offset: int, nbytes: int) -> None:
    """Add a gap and join it with its neighbours."""
    if not nbytes:
        return
    before = next((gap for gap in gaps if gap[0] + gap[1] == offset), None)
    after = next((gap for gap in gaps if gap[0] == offset + nbytes), None)
    if before:
        gaps.remove(before)
        offset, nbytes = before[0], before[1] + nbytes
    if after:
        gaps.remove(after)
        nbytes += after[1]
    insort(gaps, (offset, nbytes))


class _Regions:
    """Memory that a group touches: whole buffers, and byte ranges of the arena."""

    def __init__(self, plan: Plan, arena: Arena, shared: dict[int, int]) -> None:
        self._plan = plan
        self._arena = arena
        self._shared = shared
        self._buffers: set[int] = set()
        self._ranges: list[tuple[int, int]] = []

    def add(self, buffer: int) -> None:
        found = self._range(buffer)
        if found is None:
            buffer = self._plan.base(buffer)
            self._buffers.add(self._shared.get(buffer, buffer))
        else:
            self._ranges.append(found)

    def meets(self, buffer: int) -> bool:
        found = self._range(buffer)
        if found is None:
            buffer = self._plan.base(buffer)
            return self._shared.get(buffer, buffer) in self._buffers
        return any(first < found[1] and found[0] < stop for first, stop in self._ranges)

    def _range(self, buffer: int) -> tuple[int, int] | None:
        """Where a buffer lies in the arena, if it does; a window as in round 0, for all of a group
        is in one round, and the two places of a carried value are apart in each. With places
        instead of offsets, a place counts as two halves.
        """
        nbytes = self._plan.buffers[buffer].nbytes
        start, half = 0, ""
        while (spec := self._plan.buffers[buffer]).role == "window":
            if spec.mode in ("now", "next"):
                start, half = start + spec.stride * (spec.mode == "next"), spec.mode
            buffer = spec.base
        offset = self._arena.offsets.get(buffer)
        if offset is None:
            return None
        if self._arena.places is None:
            return offset + start, offset + start + nbytes
        first = 2 * self._arena.places[buffer]
        return first + (half == "next"), first + (1 if half == "now" else 2)

    def clear(self) -> None:
        self._buffers.clear()
        self._ranges.clear()
