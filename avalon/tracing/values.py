"""Values: what tensors hold. A value is computed, or a number, or a call that waits in a recorder.

Comes in: primitives applied to values (`add(a, b)`), Python numbers, buffers. Goes out: `Value`
handles, whose `buffer` is there when somebody needs it. Guaranteed: shapes and dtypes are checked
when a call is recorded; every thread records for itself; a value that another thread has pending is
computed before it is used here; when pending work runs, every value that somebody still holds gets
its buffer, and calls that nobody holds are dropped; a loop that takes part in no gradient runs each
time that it comes round, so that its rounds are one program, which the workers carry on with while
the next round is recorded (`running`); a program that fails commits nothing, and its values raise
the same error whenever they are asked for; whoever is interrupted anywhere in between may go on
with what was recorded until then.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from types import CodeType
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from avalon.device import CPU, Device
from avalon.dtype import DType, bfloat16
from avalon.errors import TraceError
from avalon.graph.interpret import round_to_bfloat16, to_storage
from avalon.graph.primitive import Primitive
from avalon.runtime import interrupts
from avalon.runtime.buffer import Buffer
from avalon.settings import settings
from avalon.shape import Shape
from avalon.tracing.modes import modes
from avalon.tracing.operation import (
    Operation,
    Step,
    call_of,
    composite_of,
    constant_of,
    input_of,
    several_of,
)
from avalon.tracing.recorded import Layered, Line, Recorded, user_line as user_line, user_place
from avalon.tracing.running import Pending, Shelved, Underway, begin, compute, shelve

Number = bool | int | float
_Outcome = TypeVar("_Outcome")


def encode(array: NDArray[Any], dtype: DType) -> NDArray[Any]:
    """Numbers as `dtype` stores them."""
    if dtype is bfloat16:
        return to_storage(round_to_bfloat16(array), dtype)
    with np.errstate(all="ignore"):
        return np.asarray(array).astype(dtype.storage)


class Value:
    """One immutable array, computed or not yet.

    Attributes:
        shape, dtype, device: what it is, known from the start.
        buffer: its memory, or None while it waits; then `recorder` and `position` say where.
        number: the Python number it is, or None; such a value is a run-time argument of programs.
        entry: the operation by which it enters recorded work, once it did.
        failure: the error of the program that should have computed it.
    """

    __slots__ = (
        "__weakref__", "buffer", "device", "dtype", "entry", "failure", "number", "position",
        "recorder", "shape",
    )  # fmt: skip

    buffer: Buffer | None
    device: Device
    dtype: DType
    entry: Operation | None
    failure: BaseException | None
    number: Number | None
    position: int
    recorder: Recorder | Underway | Shelved | None
    shape: Shape

    def __init__(
        self, shape: Shape, dtype: DType, buffer: Buffer | None = None,
        recorder: Recorder | Underway | Shelved | None = None, position: int = -1,
    ) -> None:  # fmt: skip
        self.shape = shape
        self.dtype = dtype
        self.device = CPU
        self.buffer = buffer
        self.number = None
        self.failure = None
        self.recorder = recorder
        self.position = position
        self.entry = None

    @staticmethod
    def from_number(number: Number, dtype: DType) -> Value:
        """A zero-dimensional value that programs receive as an argument."""
        value = Value((), dtype)
        value.number = number
        return value

    @staticmethod
    def from_numpy(array: NDArray[Any], dtype: DType) -> Value:
        """A value with a copy of the array's elements, which are in `dtype`'s storage type."""
        return Value(array.shape, dtype, Buffer.from_numpy(array))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    @property
    def known(self) -> bool:
        """True if the value can be read without running anything."""
        if isinstance(self.recorder, Underway):
            self.recorder.flush()
        return self.buffer is not None or self.number is not None

    def apply(
        self, primitive: Primitive, operands: tuple[Any, ...], parameters: dict[str, Any]
    ) -> Value:
        """Record a call of `primitive` on values."""
        return record(primitive, operands, parameters)

    def apply_several(
        self, primitive: Primitive, operands: tuple[Any, ...], parameters: dict[str, Any]
    ) -> tuple[Value, ...]:
        """Record a call of several results on values."""
        operation = several_of(primitive, operands, parameters)
        return tuple(_local.recorder.put(operation, operands, user_place()))

    def constant(self, value: Any, shape: Shape | None = None, dtype: DType | None = None) -> Value:
        """A constant like this value, part of the program's structure."""
        return constant(
            value, self.shape if shape is None else shape, self.dtype if dtype is None else dtype
        )

    def force(self) -> Buffer:
        """Run what is pending, if need be, and return this value's memory."""
        buffer = self.buffer
        if buffer is None:
            owner = self.recorder  # read once: another thread may end its work meanwhile
            if owner is not None:
                refuse_reading()
                if owner is _local.recorder.underway:
                    _local.recorder.land()
                else:
                    owner.flush()
            if self.failure is not None:
                raise_again(self.failure)
            if self.number is not None:
                array = np.array(self.number).astype(self.dtype.reference)
                self.buffer = Buffer.from_numpy(encode(array, self.dtype))
            buffer = self.buffer
            assert buffer is not None
        return buffer

    def host(self) -> NDArray[Any]:
        """The value as an array that aliases its memory and must not be written."""
        return self.force().as_numpy(self.dtype, self.shape)


def refuse_reading() -> None:
    """Raise if a step is being recorded for replay, for then no value can be looked at.

    Raises:
        TraceError: with the user's line and what to write instead.
    """
    if modes.replay is not None:
        line = user_line()
        raise TraceError(modes.replay + (f" Asked at {line[0]}:{line[1]}." if line else ""))


def raise_again(failure: BaseException) -> None:
    """Raise an error like `failure`, with the same cause, but with a traceback of its own."""
    again = type(failure)(*failure.args)
    raise again from failure.__cause__


class Preparing(Protocol):
    """Who is told that what is pending is about to run."""

    def prepare(self, here: Recorder) -> None:
        """The last chance to record something for it."""
        ...


class Recorder:
    """The calls of one thread that wait to run."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        # True after a parameter was written by hand: the next differentiable call runs it first
        self.updated = False
        # True while something pending takes part in gradients
        self.graded = False
        # what the workers do for this thread while it records
        self.underway: Underway | None = None
        self._reset()

    def _reset(self) -> None:
        fresh = Recorded()
        # Nothing is called from here on: an interrupt comes before or after all of it.
        self.recorded = fresh
        self.count = 0  # positions taken so far
        self.values: list[weakref.ref[Value]] = []
        self.feeds: list[Any] = []  # buffers and numbers, in the order of the inputs
        self.fed_by: list[weakref.ref[Value] | None] = []
        # the position of the input for each buffer, or for each number's value, by id
        self.entered: dict[int, int] = {}
        self.holders: list[Any] = []  # keeps those ids from being used again
        self.calls = 0
        self.bytes = 0
        self.rebound: list[tuple[weakref.ref[Any], Buffer]] = []
        self.updated = False
        self.graded = False
        self.places: dict[int, int] = {}  # where the count stood when each place recorded last
        # for what repeats the elements of something smaller: the steps to that, and their operand
        self.repeats: dict[int, tuple[Sequence[Step], Value]] = {}
        self.preparing: list[Preparing] = []  # told before what is pending runs

    def put(
        self, operation: Operation, operands: Sequence[Value], line: Line, note: str = ""
    ) -> list[Value]:
        """Append an entry; the values that it puts out. The shapes fit, for it was made for them.

        Operands that another thread has pending are computed first.
        """
        for operand in operands:
            owner = operand.recorder
            if owner is not None and owner is not self:
                self.admit(operand)
        with self.lock:
            try:
                if modes.grad:
                    self.graded = True
                elif line is not None and not self.graded:
                    self.come_round(line)
                key: list[Any] = [operation]
                for operand in operands:
                    own = operand.recorder is self
                    key.append(operand.position if own else self.enter(operand))
                recorded = self.recorded
                recorded.key += key
                recorded.lines.append((line, note))
                made = []
                position = self.count
                for shape, dtype in operation.results:
                    value = Value(shape, dtype, None, self, position)
                    position += 1
                    self.values.append(_reference(value))
                    made.append(value)
                self.count = position
                self.calls += operation.calls
                self.bytes += operation.nbytes
                if modes.eager:
                    self.flush()
                elif self.bytes >= settings.pending_bytes or self.calls >= settings.pending_calls:
                    self.bound()
            except BaseException:
                self._mend()
                raise
        return made

    def _mend(self) -> None:
        """Forget what an interrupted `put` left of an entry: what is whole is counted."""
        recorded = self.recorded
        count = words = whole = 0
        for operation, operands, *_ in recorded.entries():
            if count + len(operation.results) > self.count:
                break
            count += len(operation.results)
            words += 1 + len(operands)
            whole += 1
        del recorded.key[words:], recorded.lines[whole:]
        inputs = len(self.entered)
        del self.feeds[inputs:], self.fed_by[inputs:], self.holders[inputs:]
        self.values[:] = [
            held for held in self.values if (value := held()) is None or value.position < count
        ]

    def come_round(self, line: tuple[CodeType, int]) -> None:
        """Run what is pending if a place records again that did so long ago: a loop came round, of
        which nothing takes part in gradients. Then each round is a program, and the same one.
        """
        place = id(line[0]) + line[1]  # where the instruction lies: no other one is there
        before = self.places.get(place, self.count)
        if self.count - before >= _ROUND:
            self.depart()
        self.places[place] = self.count

    def name(self, start: int, layer: str) -> None:
        """Note for the entries from number `start` on their layer, unless they have one."""
        lines = self.recorded.lines
        for number in range(start, len(lines)):
            line, note = lines[number]
            if not isinstance(note, Layered) and not note.startswith("gradient of "):
                lines[number] = line, Layered(f"{layer} > {note}" if note else layer)

    def admit(self, value: Value) -> None:
        """Make an operand usable that another recorder has pending."""
        if value.recorder is not self.underway:
            value.force()

    def enter(self, value: Value) -> int:
        """The position of the input through which a value that is known takes part here."""
        number = value.number
        holder: Any = value.buffer if number is None else value
        if holder is None:
            if value.failure is not None:
                raise_again(value.failure)
            holder = self._coming(value)
        place = id(holder)
        found = self.entered.get(place)
        if found is None:
            entry = value.entry
            if entry is None:
                entry = value.entry = input_of(value.shape, value.dtype, number is not None)
            recorded = self.recorded
            recorded.key.append(entry)
            recorded.lines.append(_NOWHERE)
            self.feeds.append(holder if number is None else number)
            self.fed_by.append(_reference(value) if number is None else None)
            self.holders.append(holder)
            # last, and without a call between: see `_mend`
            self.entered[place] = found = self.count
            self.count = found + 1
        return found

    def _coming(self, value: Value) -> Buffer:
        """Where a value will lie that is computed while this thread records."""
        underway = self.underway
        if underway is None or value.recorder is not underway:
            return value.force()
        return underway.buffers[value.position]

    def stand_in(self, shape: Shape, dtype: DType) -> Value:
        """A value without content, which stands for an operand while a function is traced."""
        value = Value(shape, dtype)
        value.recorder = self
        value.position = self.count
        self.count += 1
        self.recorded.key.append(input_of(shape, dtype, False))
        self.recorded.lines.append(_NOWHERE)
        return value

    def at(self, position: int, shape: Shape, dtype: DType) -> Value:
        """What stands at a position, as an operand that nobody need hold."""
        return Value(shape, dtype, None, self, position)

    @contextmanager
    def trial(self) -> Iterator[None]:
        """What is recorded inside is forgotten at the end; nobody may use its values then."""
        grown: tuple[list[Any], ...] = (
            self.recorded.key, self.recorded.lines, self.values, self.feeds, self.fed_by,
            self.holders, self.preparing,
        )  # fmt: skip
        lengths = [len(one) for one in grown]
        before = self.count, self.calls, self.bytes, self.graded, self.updated
        entered, places, repeats = dict(self.entered), dict(self.places), dict(self.repeats)
        try:
            yield
        finally:
            for one, length in zip(grown, lengths, strict=True):
                del one[length:]
            self.count, self.calls, self.bytes, self.graded, self.updated = before
            self.entered, self.places, self.repeats = entered, places, repeats

    def note_repeats(self, value: Value, steps: Sequence[Step], operand: Value) -> None:
        """Note that a value, just recorded, repeats what `steps` make of `operand`."""
        if value.recorder is self:
            own = operand.recorder is self
            position = operand.position if own else self.enter(operand)
            place = self.at(position, operand.shape, operand.dtype)  # for the operand may die
            self.repeats[value.position] = steps, place

    def repeated(self, value: Value) -> Value | None:
        """What a pending value repeats the elements of, if that was noted."""
        found = self.repeats.get(value.position) if value.recorder is self else None
        if found is None:
            return None
        steps, operand = found
        kinds = [(operand.shape, operand.dtype)]
        made = composite_of("what is repeated", kinds, steps, [len(steps)])
        return self.put(made, (operand,), user_place())[0]

    def remember(self, holder: Any, value: Value) -> None:
        """Note that `holder.value`, known until now, is about to be rebound to pending work."""
        if value.recorder is self.underway:
            self.land()
        if value.buffer is not None:
            self.rebound.append((weakref.ref(holder), value.buffer))

    def take(self) -> Pending:
        """Hand over what is pending, and start anew."""
        live = [value for held in self.values if (value := held()) is not None]
        donated = [
            position
            for position, feeder in enumerate(self.fed_by)
            if feeder is not None and feeder() is None and not self.feeds[position].pinned
        ]
        taken = Pending(self.recorded, self.feeds, self.holders, live, donated, self.rebound)
        self._reset()
        return taken

    def _hand_over(self, run: Callable[[Pending], _Outcome]) -> _Outcome:
        """Let `run` have what is pending. Where it was interrupted, each value waits for itself."""
        pending = self.take()
        try:
            return run(pending)
        except BaseException:
            shelve(pending, self)
            raise

    def flush(self) -> None:
        """Run what is pending. A step that is recorded for replay runs at its end, as a whole."""
        with self.lock:
            self.land()
            if self.values and modes.replay is None:
                preparing, self.preparing = self.preparing, []
                for one in preparing:
                    if self.values:  # what it recorded may have passed a bound
                        one.prepare(self)
                self._hand_over(compute)
                interrupts.raise_late()

    def depart(self) -> None:
        """Run what is pending, by the workers while this thread records on if that is worth it."""
        with self.lock:
            if modes.watch is not None:
                self.flush()
            elif self.values and modes.replay is None:
                self.land()
                self.underway = self._hand_over(begin)
                interrupts.raise_late()

    def land(self) -> None:
        """Wait for what runs while this thread records. If it failed, what was recorded of its
        values fails, too, and the error is raised.
        """
        ended = self.underway
        if ended is not None:
            ended.flush()
            self.underway = None
            if ended.failure is not None:
                self._hand_over(ended.settle)
                raise_again(ended.failure)

    def bound(self) -> None:
        """Run what is pending if it has grown past the settings' bounds."""
        if self.calls >= settings.pending_calls or self.bytes >= settings.pending_bytes:
            unread = self._unread()
            if unread > 0.9 * self.calls:
                _notice_unread(unread)
            self.flush()

    def _unread(self) -> int:
        """How many pending calls no value that somebody holds depends on."""
        held = [value() for value in self.values]
        needed = {value.position for value in held if value is not None}
        unread = 0
        end = self.count
        for operation, positions, *_ in reversed(list(self.recorded.entries())):
            end -= len(operation.results)
            if any(end + place in needed for place in range(len(operation.results))):
                needed.update(positions)
            else:
                unread += operation.calls
        return unread


_reference = weakref.ref
_NOWHERE: tuple[Line, str] = (None, "")
_ROUND = 64  # positions that a round of a loop takes before it is worth a program


_noticed = False


def _notice_unread(dead: int) -> None:
    global _noticed
    if not _noticed:
        _noticed = True
        print(
            f"[avalon] {dead} recorded calls were dropped, for nothing read their results. If you "
            "are timing a loop, call av.synchronize() in it: work runs when a value is needed.",
            file=sys.stderr,
        )


class _Local(threading.local):
    def __init__(self) -> None:
        self.recorder = Recorder()
        _recorders.add(self.recorder)


_recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()
_local = _Local()


def recorder() -> Recorder:
    """This thread's recorder."""
    return _local.recorder


def set_recorder(recorder: Recorder) -> None:
    """Let this thread record elsewhere from now on."""
    _local.recorder = recorder


@contextmanager
def recording_into(own: Recorder, forbidden: str) -> Iterator[None]:
    """Inside, this thread records into `own`, where nothing runs: `forbidden` says why not."""
    outer, replay, body = _local.recorder, modes.replay, modes.body
    _local.recorder, modes.replay, modes.body = own, forbidden, None
    try:
        yield
    finally:
        _local.recorder, modes.replay, modes.body = outer, replay, body


def record(primitive: Primitive, operands: Sequence[Value], parameters: dict[str, Any]) -> Value:
    """Append a call to this thread's pending work.

    Raises:
        ShapeError, DTypeError: the operands do not fit, by the primitive's rule.
    """
    operation = call_of(primitive, operands, parameters)
    return _local.recorder.put(operation, operands, user_place())[0]


def constant(value: Any, shape: Shape, dtype: DType) -> Value:
    """A value that is `value` in every element and part of the program's structure."""
    return _local.recorder.put(constant_of(value, shape, dtype), (), user_place())[0]


def synchronize() -> None:
    """Run everything that this thread has recorded and that somebody still holds."""
    _local.recorder.flush()


def _flush_before_fork() -> None:
    _local.recorder.flush()


def _after_fork_in_child() -> None:
    for other in list(_recorders):
        other.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_flush_before_fork, after_in_child=_after_fork_in_child)
