"""`compile`: a step that is recorded until two calls agree, and replayed from then on.

Comes in: a Python function. Goes out: a callable with the same results, bit for bit. Guaranteed:
a replay is never stale. Every call compares all that the function can see with what it saw when
it was recorded; any difference records anew, and builds anew only if the structure changed. What
cannot be replayed truthfully is refused by name.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np

from avalon.errors import TraceError
from avalon.random import injecting
from avalon.rebinding import rebindings
from avalon.replay.call import DifferentiableCall
from avalon.replay.guards import Guards, surroundings
from avalon.replay.quick import Quick, quick_way
from avalon.replay.recording import (
    Origin,
    Recording,
    aliases,
    evaluate,
    kind_of,
    replaces_gradients,
    with_gradients,
)
from avalon.replay.retired import Old, put_back, retire, spare_memory
from avalon.replay.series import Column
from avalon.replay.snapshot import Changed, missing
from avalon.replay.templates import Outcome, build, gradient_outputs, rebuild
from avalon.runtime import interrupts
from avalon.tensor.cell import Cell
from avalon.tensor.core import Tensor
from avalon.tensor.creation import tensor
from avalon.tracing import execute
from avalon.tracing.modes import modes
from avalon.tracing.values import Value, recorder

_KEPT = 8  # replays of one function, for as many shapes or structures of arguments
_RECENT = 4  # recordings that the next ones are compared with: sizes may take turns
_PATIENCE = 3  # recordings in an unchanged world that may differ from the one before

_MODES = "it is called in another mode"

_steps: weakref.WeakSet[CompiledStep] = weakref.WeakSet()


def compile(
    function: Callable[..., Any] | None = None, *, strict: bool = True
) -> Callable[..., Any]:
    """Turn a function into one that replays: two recorded calls, then one native call each.

    Tensors that the function met become inputs, tensors that it rebound (parameters, optimizer
    state, `.grad`, fields) become outputs. Python numbers, flags and containers that it can see
    are compared on every call; a change records again, which takes a millisecond, and recompiles
    only if the structure changed. NumPy arrays among the arguments become tensors.

    A model can be compiled too: where its result has a gradient, each call is one operation with
    one gradient in whatever is recorded around it, and none of the model's Python runs. What is
    not a call (`parameters()`, `train()`, fields) is the model's own.

    Args:
        function: the step; without it, `compile` is a decorator with options.
        strict: raise if the step cannot be replayed. Otherwise it goes on being recorded, and
            `explain()` says why.

    Raises:
        TraceError: from a call: the step looks at a tensor's value, changes something other than
            tensors, or does not do the same twice.

    >>> import avalon as av
    >>> weight = av.ones(3)
    >>> @av.compile
    ... def step(x):
    ...     return (x * weight).sum()
    >>> [step(av.full((3,), float(k))).item() for k in range(4)]
    [0.0, 3.0, 6.0, 9.0]
    """
    if function is None:
        return functools.partial(compile, strict=strict)
    plain = isinstance(function, (FunctionType, BuiltinFunctionType, MethodType, functools.partial))
    return (CompiledStep if plain else CompiledModel)(function, strict)


class CompiledStep:
    """A function that replays its recordings.

    Attributes:
        function: what it replays.
        recorded, replayed: how many calls did the one and the other.
        reason: why the last recording was needed.
    """

    stands_for_wrapped = True  # in structures, see `struct`

    def __init__(self, function: Callable[..., Any], strict: bool) -> None:
        functools.update_wrapper(self, function, updated=())
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.function = function
        self._strict = strict
        self._replays: list[Replay] = []
        self._calls: list[DifferentiableCall] = []
        self._recent: list[Recording] = []  # that nothing agreed with yet, the last one first
        self._surprises = 0
        self._turn = threading.RLock()  # of the threads that call it: tables and counts are one's
        self.recorded = 0
        self.replayed = 0
        self.reason = "it was never called"
        _steps.add(self)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __repr__(self) -> str:
        return f"<compiled {self.__name__}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.function, self._strict)  # a copy records for itself

    @property
    def program(self) -> Any:
        """The native program of the newest replay; print it to see kernels, buffers and bytes.

        Raises:
            TraceError: no two calls have agreed yet.
        """
        if self._calls and not self._replays:
            raise TraceError(
                "[compile] what it computes has a gradient, so it is one call in the programs of "
                "whoever calls it and has none of its own. Compile the whole step, or call it "
                "under no_grad()."
            )
        if not self._replays:
            raise TraceError(f"[compile] there is no program yet: {self.reason}")
        program = self._replays[0].program
        if program is None:
            raise TraceError("[compile] the step computes nothing, so it has no program")
        return program.runnable

    def __call__(self, *given: Any, **named: Any) -> Any:
        """The function's result. Threads that call at the same time take turns."""
        if named:
            given, named = _by_position(self.function, given, named)
        turn = self._turn
        try:  # `with` takes twice as long; an interrupt between the two would leave it taken
            turn.acquire()
            if not named:
                for replay in self._replays:
                    quick = replay.quick
                    if quick is not None and quick.holds(given):
                        if replay is not self._replays[0]:
                            self._promote(replay)
                        self.replayed += 1
                        replay.bound_in_vain = 0
                        return quick.run()
                quick = None  # what it holds, the next one must hold alone
            return self._call(given, named)
        finally:
            try:  # noqa: SIM105 (`suppress` takes four times as long as the lock)
                turn.release()
            except RuntimeError:  # interrupted while it waited: it never had its turn
                pass

    def _call(self, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """A call for which no replay is bound."""
        arguments = tuple([as_tensors(argument) for argument in given])
        named = {name: as_tensors(argument) for name, argument in named.items()}
        if modes.replay is not None or modes.body is not None:  # part of another recording
            return self.function(*arguments, **named)
        world = (*arguments, named)
        for call in self._calls:
            if call.matches(world):
                self.replayed += 1
                return call.run()
        waiting = recorder()
        if waiting.values or waiting.underway is not None:
            waiting.flush()
        for replay in self._replays:
            if replay.matches(world):
                if replay is not self._replays[0]:
                    self._promote(replay)
                self.replayed += 1
                if not named and replay.is_worth_binding():
                    replay.quick = quick_way(replay, given, world)
                return replay.run() if replay.quick is None else replay.quick.run()
        return self._record(arguments, named, world)

    def run_series(
        self, given: tuple[Any, ...], columns: Mapping[int, Column], count: int
    ) -> list[Tensor] | None:
        """Make `count` calls in one native call: the first with the arguments `given`, the others
        with tensors of their kind at the addresses in `columns`, by the argument's place.

        Returns:
            One tensor for each number that the step returns, with an element for each call; or
            None, and no call was made: make them one by one.

        Raises:
            IndexOutOfRange: if a check of the program fails; the calls before were made.
        """
        with self._turn:
            quick = self._replays[0].quick if self._replays else None
            if quick is None or not quick.holds(given):
                return None
            results = quick.run_series(columns, count)
            if results is not None:
                self.replayed += count
                self._replays[0].bound_in_vain = 0
            return results

    def calls_within(self, seconds: float) -> int:
        """How many calls, about, would take so long; 0 if they have to be made one by one."""
        quick = self._replays[0].quick if self._replays else None
        return 0 if quick is None else int(seconds * 1e9 / max(quick.nanoseconds, 1))

    def _promote(self, replay: Replay) -> None:
        """Let a replay be tried first next time."""
        self._replays.remove(replay)
        self._replays.insert(0, replay)

    def _record(self, arguments: tuple[Any, ...], named: dict[str, Any], world: Any) -> Any:
        self.recorded += 1
        if modes.eager or injecting() or modes.watch is not None:
            self.reason = "its draws are injected" if injecting() else "it is being debugged"
            return self.function(*arguments, **named)
        around = surroundings()
        alike = self._alike(world, around)
        try:
            result, recording = Recording.of(self.function, arguments, named)
        except TraceError:
            if self._strict:
                raise
            self.reason = "the step looks at the value of a tensor"
            return self.function(*arguments, **named)
        recording.around = around
        recent, self._recent = self._recent, [recording]
        self._refuse_changes(recent[:1], recording)
        # One that made state, or was refused, is never seen again, and may hold what it wrote.
        lasting = [one for one in recent if not one.grew and not one.refused_change]
        self._recent += lasting[: _RECENT - 1]
        if alike is not None and not recording.grew and not recording.refused_change:
            self._agree(alike, recording)
        return result

    def _alike(self, world: Any, around: tuple[Any, ...]) -> Recording | None:
        """The last recording of a call that saw at its start what the next one sees."""
        reasons = []
        for recording in self._recent:
            reason = _difference(recording, world) if recording.around == around else _MODES
            if not reason:
                return recording
            reasons.append(reason)
        if reasons:
            self.reason = reasons[0]
        return None

    def _refuse_changes(self, last: Sequence[Recording], recording: Recording) -> None:
        """Refuse what changes in call after call and is no tensor: a counter, a growing list."""
        change = recording.refused_change
        before = last[0].refused_change if last else None
        if change is None or before is None or change.entry.path != before.entry.path:
            return
        name = self.__name__
        self.reason = f"{name} changes {change.path}"
        if self._strict:
            recording.undo()
            what = "" if missing(change.before) else f" from {change.before!r} to {change.after!r}"
            raise TraceError(
                f"[compile] {name} changes {change.path}{what}. A "
                "replayed step does not run Python: keep such a value in a tensor, or change it "
                "outside the step."
            )

    def _agree(self, last: Recording, recording: Recording) -> None:
        name = self.__name__
        self.reason = last.refusal or recording.refusal
        if self.reason:
            return  # neither is replayed, so that they may differ
        difference = recording.disagreement(last)
        if difference:
            self._surprises += 1
            self.reason = f"two calls disagree: the later one {difference}"
            if self._surprises >= _PATIENCE and self._strict:
                raise TraceError(
                    f"[compile] {name} does not do the same in calls that see the same: the later "
                    f"one {difference}. Pass what varies as a tensor argument."
                )
        else:
            self._surprises = 0
            if recording.stretch is not None:
                self._calls.insert(0, DifferentiableCall(recording, recording.stretch))
                del self._calls[_KEPT:]
            else:
                self._replays.insert(0, Replay(recording))
                del self._replays[_KEPT:]
            self._recent = [one for one in self._recent if one not in (last, recording)]


class CompiledModel(CompiledStep):
    """A compiled object that is called. What is not a call is the object's own: `parameters()`,
    `train()`, fields that are read and set. It passes for an instance of the object's class, and so
    may stand where a layer is expected.
    """

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        wrapped = self.__dict__.get("function")
        return CompiledModel if wrapped is None else type(wrapped)

    def __getattr__(self, name: str) -> Any:
        if "function" not in self.__dict__:  # a copy in the making
            raise AttributeError(name)
        return getattr(self.function, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if "reason" in self.__dict__ and name not in self.__dict__:
            setattr(self.function, name, value)
        else:
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"compiled {self.function!r}"


def _difference(last: Recording, world: Any) -> str:
    """What the next call sees that a recorded one did not see at its start, or ""."""
    try:
        last.snapshot.refresh(world)
    except Changed as change:
        return f"{change.path} has changed"
    tensors, owners = with_gradients(last.snapshot.tensors)
    if owners != last.owners:
        return "gradients are there that were not, or the other way round"
    for before, now, path in zip(last.kinds, map(kind_of, tensors), last.paths, strict=True):
        if now != before:
            return f"{path} is a tensor of another kind or shape"
    return "" if last.aliases == aliases(tensors) else "other tensors share their memory"


def _by_position(
    function: Any, given: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments without names, if the names are those of the parameters that come next."""
    is_bound = isinstance(function, MethodType)
    plain = function.__func__ if is_bound else function
    if not isinstance(plain, FunctionType) or plain.__code__.co_posonlyargcount:
        return given, named
    code, first = plain.__code__, len(given) + is_bound
    following = code.co_varnames[: code.co_argcount][first : first + len(named)]
    if named.keys() != set(following):
        return given, named
    return (*given, *[named[name] for name in following]), {}


def as_tensors(argument: Any) -> Any:
    """An argument as a step receives it: NumPy arrays in it are tensors."""
    if isinstance(argument, np.ndarray):
        return tensor(argument)
    if type(argument) in (list, tuple):
        return type(argument)(as_tensors(item) for item in argument)
    if type(argument) is dict:
        return {key: as_tensors(item) for key, item in argument.items()}
    return argument


class Replay(Guards):
    """A recording that runs again without Python: inputs by handle, one native call, effects.

    Attributes:
        quick: a shorter way to the same, while nothing is rebound between calls.
        bound_in_vain: how often in a row it was made and not taken again.
    """

    def __init__(self, recording: Recording) -> None:
        super().__init__(recording)
        self.quick: Quick | None = None
        self.bound_in_vain = 0
        self._pause = 0
        pending = recording.pending
        outcomes = [outcome for _, outcome in recording.rebound] + recording.made
        self._wanted = sorted({o.place for o in outcomes if o.kind == "output"})
        self.program = (
            execute.program_for(pending.recorded, self._wanted, "hot") if self._wanted else None
        )
        self.place = {position: place for place, position in enumerate(self._wanted)}
        self.likes = {position: recording.shapes[position] for position in self._wanted}
        self.origins = recording.origins
        self.rebound = recording.rebound
        self.made = recording.made
        self.storages = recording.storages
        kept = {outcome.place for outcome in outcomes if outcome.kind == "start"}
        self._read = sorted(kept | {o.place for o in self.origins if o.kind in ("cell", "window")})
        rebound = {self._aliases[index] for index, _ in recording.rebound}
        self._donors = [
            (place, origin.place)
            for place, origin in enumerate(self.origins)
            if origin.kind == "cell"
            and self._aliases[origin.place] in rebound
            and origin.place not in kept
        ]
        self.gradients = recording.gradients
        self._gradient_outputs = gradient_outputs(self.gradients, self.made)
        self._replaces_gradients = replaces_gradients(recording)
        self.fields = recording.fields
        self.result = recording.result
        self.advance = recording.advance

    def matches(self, world: tuple[Any, ...]) -> bool:
        """As the guards say; whoever asks cannot go the short way any more."""
        self.quick = None
        return super().matches(world)

    def is_worth_binding(self) -> bool:
        """Whether to look for a short way: less and less often while it is taken only once."""
        if self._pause:
            self._pause -= 1
            return False
        self.bound_in_vain += 1
        self._pause = min(1 << self.bound_in_vain, 64) if self.bound_in_vain > 4 else 0
        return True

    def run(self) -> Any:
        """Replay the step on the tensors that `matches` found."""
        start = {index: evaluate(self.tensors[index]) for index in self._read}
        feeds = [self._feed(origin, start) for origin in self.origins]
        released = [start.pop(index) for _, index in self._donors]
        donated = self._release(released, feeds)
        old = self._retire_gradients() if self._replaces_gradients else {}
        spare = spare_memory(old, self._gradient_outputs)
        try:
            buffers = self.program.run(feeds, self._wanted, donated, spare) if self.program else []
        except BaseException:
            for place, index in self._donors:
                shape, dtype = self._kinds[index][1:3]
                self.tensors[index]._cell.value = Value(shape, dtype, feeds[place])
            put_back(old, self.tensors)
            raise
        made = [
            Value(shape, dtype, buffer)
            for (shape, dtype), buffer in zip(self.likes.values(), buffers, strict=True)
        ]
        for generator, count in self.advance:
            generator.offset += count
        result = self._take_effect(made, start)
        self.forget_gradients()
        interrupts.raise_late()
        return result

    def _retire_gradients(self) -> Old:
        """Let go of the gradients, which the step will replace."""
        self.forget_gradients()
        gradients: list[tuple[int, Tensor]] = []
        for owner in self.owners:
            gradient = self.tensors[owner]._grad
            assert gradient is not None
            gradients.append((owner, gradient))
            del gradient
        for owner in self.owners:
            self.tensors[owner]._grad = None
        rebindings.count += 1
        return retire(gradients)

    def _feed(self, origin: Origin, start: dict[int, Value]) -> Any:
        if origin.kind in ("cell", "window"):
            value = start[origin.place]
            return value.force() if value.number is None else value.number
        if origin.kind == "counter":
            return (origin.value.offset + origin.place) & ((1 << 64) - 1)
        if origin.kind == "key":
            return origin.value.initial_seed()
        return origin.value

    def _release(self, released: list[Value], feeds: list[Any]) -> list[int]:
        """Let the cells that will be rebound go of their values; the inputs whose memory the
        program may then take over, for nobody else holds it.
        """
        donated = []
        for place, index in self._donors:
            self.tensors[index]._cell.value = None
            last = weakref.ref(released.pop(0))
            if last() is None and not feeds[place].pinned:
                donated.append(place)
        return donated

    def _take_effect(self, made: list[Value], start: dict[int, Value]) -> Any:
        for index, outcome in self.rebound:
            cell = self.tensors[index]._cell
            cell.value = self._settled(outcome, made, start)
            cell.version += 1
        rebindings.count += 1
        cells = [
            Cell(self._settled(outcome, made, start), *storage)
            for outcome, storage in zip(self.made, self.storages, strict=True)
        ]
        for index, template in self.gradients:
            made_now = None if template is None else build(template, cells, self.tensors)
            self.tensors[index]._grad = made_now
        for change, template in self.fields:
            change.set(build(template, cells, self.tensors))
        return rebuild(self.result, cells, self.tensors)

    def _settled(self, outcome: Outcome, made: list[Value], start: dict[int, Value]) -> Value:
        if outcome.kind == "output":
            return made[self.place[outcome.place]]
        return start[outcome.place] if outcome.kind == "start" else outcome.value


def _renew_turns() -> None:
    """In a forked child, where the threads that had a turn are gone."""
    for step in _steps:
        step._turn = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_turns)


def forget() -> None:
    """Drop all replays, so that the next calls record anew."""
    for step in _steps:
        step._replays.clear()
        step._recent.clear()
        step._calls.clear()


def report() -> list[str]:
    """One line for each compiled step that is alive: how it went and why it was recorded."""
    return [
        f"{step.__name__}: {step.recorded} recorded, {step.replayed} replayed"
        + ("" if step._replays or step._calls else f"; {step.reason}")
        for step in _steps
    ]
