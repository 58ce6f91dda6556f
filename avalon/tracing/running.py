"""Running what was recorded: at once, or by the workers while its thread records on.

Comes in: `Pending`, what a recorder hands over. Goes out: values that have buffers, or the error of
the program that should have computed them. Guaranteed: a program that fails commits nothing that
depends on what failed, and cells hold what they held before; work that is `Underway` looks to
everybody but its own thread's recorder like work of another thread, which is computed before it is
used; its errors are raised where the thread next waits for it, and what was recorded of its values
meanwhile fails with them; of work that was interrupted each value still waits, for itself.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from avalon import ops
from avalon.errors import IndexOutOfRange
from avalon.graph.node import Call, Node
from avalon.rebinding import rebindings
from avalon.runtime import interrupts
from avalon.runtime.buffer import Buffer
from avalon.tracing import execute
from avalon.tracing.modes import modes
from avalon.tracing.parts import run_nodes
from avalon.tracing.recorded import Recorded

if TYPE_CHECKING:
    from avalon.tracing.values import Recorder, Value


class Pending(NamedTuple):
    """Recorded work that was taken out of its recorder: its entries, what feeds the inputs and
    whose it is, the values that somebody still holds, the inputs whose memory may be taken over,
    and what cells held before.
    """

    recorded: Recorded
    feeds: list[Any]
    holders: list[Any]
    live: list[Value]
    donated: list[int]
    rebound: list[tuple[weakref.ref[Any], Buffer]]


def compute(
    pending: Pending, tier: str | None = None, spare: Mapping[int, Buffer] | None = None
) -> None:
    """Run recorded work and give each value its buffer; `tier` overrides the choice by sightings,
    `spare` is memory in which the values of some positions may lie.
    """
    live = pending.live
    if not live:
        return
    watch = modes.watch
    try:
        buffers = execute.run(
            pending.recorded,
            pending.feeds,
            [value.position for value in live],
            pending.donated if watch is None else (),
            tier,
            spare if watch is None else None,
        )
        if watch is not None:
            watch(pending, buffers)
    except BaseException as failure:
        _failed(pending, failure)
        raise
    try:
        _commit(live, buffers)
    except BaseException as interruption:  # what was read may be written over: no way back
        interrupts.late.append(interruption)
        _commit(live, buffers)


class Underway:
    """Recorded work that the workers carry on with: what its values have for a recorder until then.

    Attributes:
        buffers: where each value will lie, by position.
        failure: the error that it ended with, or None.
    """

    def __init__(
        self, pending: Pending, buffers: Sequence[Buffer], land: Callable[[], object]
    ) -> None:
        self.buffers = dict(zip([v.position for v in pending.live], buffers, strict=True))
        self.failure: IndexOutOfRange | None = None
        self._pending: Pending | None = pending
        self._land = land
        self._lock = threading.RLock()
        # after a failure: where each value should have been, and the value, by the former's id
        self._lost: dict[int, tuple[Buffer, Value]] = {}

    def flush(self) -> None:
        """Wait until each value has its buffer, or the error."""
        with self._lock:
            pending = self._pending
            if pending is None:
                return
            buffers = self.buffers.values()
            try:
                self._land()
            except IndexOutOfRange as failure:
                self.failure = failure
                self._lost = {
                    id(b): (b, value) for b, value in zip(buffers, pending.live, strict=True)
                }
                _commit_healthy(pending, failure)
            else:
                _commit(pending.live, buffers)
            self._pending = None

    def settle(self, pending: Pending) -> None:
        """After a failure: fail what was recorded meanwhile of values that have none now, and run
        the rest.
        """
        assert self.failure is not None
        failed: set[int] = set()
        number = count = 0
        for operation, operands, *_ in pending.recorded.entries():
            positions = range(count, count + len(operation.results))
            count += len(positions)
            if operation.scalar is None:
                if not failed.isdisjoint(operands):
                    failed.update(positions)
                continue
            _, value = self._lost.get(id(pending.feeds[number]), (None, None))
            if value is not None and value.buffer is None:
                failed.update(positions)
            elif value is not None:
                pending.feeds[number] = value.buffer
            number += 1
        spoiled = [value for value in pending.live if value.position in failed]
        _fail(spoiled, pending.rebound, self.failure)
        compute(pending._replace(live=[v for v in pending.live if v.position not in failed]))


class Shelved:
    """One value of work that was interrupted: it is computed, and nothing else of that work, by
    whoever needs it next.
    """

    def __init__(
        self, pending: Pending, nodes: Sequence[Node], node: Node, value: Value
    ) -> None:
        self.failure: IndexOutOfRange | None = None
        self._pending = pending
        self._nodes = nodes
        self._node = node
        self._value = weakref.ref(value)
        self._lock = threading.RLock()

    def flush(self) -> None:
        """Compute the value."""
        with self._lock:
            value = self._value()
            if value is None or value.recorder is not self:
                return
            try:
                buffers = run_nodes(self._nodes, [self._node], self._pending.feeds)
            except Exception as failure:
                _fail([value], (), failure)
                raise
            _commit([value], buffers)


def begin(pending: Pending) -> Underway | None:
    """Run recorded work as `compute` does, if it is worth it by the workers while this returns."""
    live = pending.live
    if not live:
        return None
    wanted = [value.position for value in live]
    try:
        buffers, land = execute.begin(pending.recorded, pending.feeds, wanted, pending.donated)
    except BaseException as failure:
        _failed(pending, failure)
        raise
    try:
        return _leave(pending, buffers, land)
    except BaseException as interruption:  # what was read may be written over: no way back
        interrupts.late.append(interruption)
        return _leave(pending, buffers, land)


def _leave(
    pending: Pending, buffers: Sequence[Buffer], land: Callable[[], object] | None
) -> Underway | None:
    """Say to the values of work that was begun what will be there, or, without `land`, is."""
    if land is None:
        _commit(pending.live, buffers)
        return None
    underway = Underway(pending, buffers, land)
    for value in pending.live:
        value.recorder = underway
    return underway


def _failed(pending: Pending, failure: BaseException) -> None:
    """Say to the values of a program that failed what happened."""
    if isinstance(failure, IndexOutOfRange):
        _commit_healthy(pending, failure)
    elif isinstance(failure, Exception):
        _fail(pending.live, pending.rebound, failure)
    else:  # ctrl-C: nothing is wrong with the values
        shelve(pending, None)


def shelve(pending: Pending, owner: Recorder | None) -> None:
    """Let each value that is still `owner`'s wait for itself; None: each that waits."""
    waiting = [v for v in pending.live if owner is None or v.recorder is owner]
    if waiting:
        graph, placed = pending.recorded.build()
        for value in waiting:
            value.recorder = Shelved(pending, graph.nodes, placed[value.position], value)


def _commit(values: Sequence[Value], buffers: Iterable[Buffer]) -> None:
    for value, buffer in zip(values, buffers, strict=True):
        value.buffer = buffer
        value.recorder = None


def _commit_healthy(pending: Pending, failure: IndexOutOfRange) -> None:
    """After a failed check: compute what depends on no failed check, so that a wrong index spoils
    no more than it would had it been noticed at its line. The rest fails.
    """
    graph, placed = pending.recorded.build()
    nodes = graph.nodes
    checks = [n for n in nodes if isinstance(n, Call) and n.primitive is ops.check_index]
    spoiled: set[Node] = set()
    for check in checks:
        if spoiled.isdisjoint(check.operands):
            try:
                run_nodes(nodes, [check], pending.feeds)
                continue
            except IndexOutOfRange:
                pass
        spoiled.add(check)
    for node in nodes:
        if isinstance(node, Call) and not spoiled.isdisjoint(node.operands):
            spoiled.add(node)
    wanted = [(value, placed[value.position]) for value in pending.live]
    healthy = [(value, node) for value, node in wanted if node not in spoiled]
    try:
        buffers = run_nodes(nodes, [node for _, node in healthy], pending.feeds)
        _commit([value for value, _ in healthy], buffers)
    finally:
        left = [value for value in pending.live if value.buffer is None]
        _fail(left, pending.rebound, failure)


def _fail(
    values: Sequence[Value],
    rebound: Sequence[tuple[weakref.ref[Any], Buffer]],
    failure: BaseException,
) -> None:
    """Give the values of a program that failed its error, and cells that it would have written what
    they held before.
    """
    for value in values:
        value.failure = failure
        value.recorder = None
    for reference, buffer in reversed(rebound):
        holder = reference()
        spoiled = None if holder is None else holder.value
        if holder is not None and spoiled is not None and spoiled.failure is failure:
            holder.value = type(spoiled)(spoiled.shape, spoiled.dtype, buffer)
            holder.version += 1
            rebindings.count += 1
