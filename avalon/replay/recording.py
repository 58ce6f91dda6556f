"""One call of a step, recorded as a whole: what it read, what it computed, what it left behind.

Comes in: a function and its arguments. Goes out: the function's result, computed, and a
`Recording`: a graph in which every input has a known origin and every effect a known place.
Guaranteed: after an exception, cells, gradients, fields and random counters are as before the
call.

Origins of inputs: a reachable tensor's cell, a reachable window (evaluated before the step), a
random generator's counter, a number, or host data that the step made itself. Effects: cells
rebound, `.grad` set or cleared, tensors put in fields, and the result.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, NamedTuple

from avalon.random import Counter, Generator, default_generator
from avalon.rebinding import rebindings
from avalon.replay.retired import Old, put_back, retire, spare_memory
from avalon.replay.snapshot import Change, Snapshot, missing
from avalon.replay.stretch import Edge, Stretch, root_of, stretch_of
from avalon.replay.templates import Outcome, Reachable, Template, gradient_outputs, templates
from avalon.runtime import interrupts
from avalon.runtime.buffer import Buffer
from avalon.shape import Shape
from avalon.tensor.cell import Cell
from avalon.tensor.core import Tensor
from avalon.tracing.modes import modes
from avalon.tracing.running import Pending, compute
from avalon.tracing.values import Recorder, Value, recorder

_FORBIDDEN = (
    "[compile] the step asks for the value of a tensor while it is recorded. A compiled step runs "
    "as one program, so Python cannot look inside: return the tensor and look at it outside, use "
    "av.where(condition, a, b) in place of `if`, or do not compile this function."
)


class Origin(NamedTuple):
    """Where an input of the program comes from.

    `kind` is "cell" or "window" (`place`: number of the tensor), "number" (`value`), "counter"
    (`value`: a generator, `place`: how far from its offset at the start), "key" (`value`: a
    generator) or "host" (`value`: a buffer).
    """

    kind: str
    place: int
    value: Any


class _Before(NamedTuple):
    """What a tensor was before the call; `value` is None while only its memory is held."""

    tensor: Tensor
    cell: Cell
    value: Value | None
    version: int
    gradient: Tensor | None
    history: Any
    requires: bool


class Recording:
    """What one call of a step did.

    Attributes:
        tensors: the reachable tensors; until the call is over, the gradients that they had follow.
        owners: whose gradients these were; kinds: what each tensor was; paths: their names.
        aliases: for each of both, the first one that shared its cell.
        refusal: why this call cannot be replayed, or "".
        pending: what was recorded.
        origins: one for every input.
        rebound: (number of a tensor whose cell changed, outcome).
        made: outcomes of the cells that the step made and left behind; storages: shape and strides
            of each, as PyTorch would lay them.
        gradients: (number of a tensor, None or a template): `.grad`s that were cleared or made.
        fields: (where, template): tensors that were put in fields.
        result: the step's result with templates in place of tensors.
        advance: how many counters each generator used.
        shapes: (shape, dtype) of every position.
        around: the modes that it was made in.
        stretch: what is left to record of a call whose result has a gradient.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.tensors: list[Tensor] = []
        self.owners: list[int] = []
        self.kinds: list[tuple[Any, ...]] = []
        self.aliases: list[int] = []
        self.paths: list[str] = []
        self.refusal = ""
        self.origins: list[Origin] = []
        self.rebound: list[tuple[int, Outcome]] = []
        self.made: list[Outcome] = []
        self.storages: list[tuple[Shape, Shape | None]] = []
        self.gradients: list[tuple[int, Template | None]] = []
        self.fields: list[tuple[Change, Template]] = []
        self.result: Any = None
        self.advance: list[tuple[Generator, int]] = []
        self.grew = False
        self.refused_change: Change | None = None
        self.shapes: list[tuple[Any, Any]] = []
        self.stretch: Stretch | None = None
        self.around: tuple[Any, ...] = ()
        self.pending: Pending = None  # type: ignore[assignment]
        self._outside = ""  # the path of a tensor that has a history from before
        self._graded: list[Tensor] = []  # left with a history that was not walked
        self._start: dict[int, tuple[str, int]] = {}  # id of a buffer or number -> origin
        self._cells: dict[int, int] = {}  # id of a cell -> number of a tensor, or -1 - made
        self._kept: list[Cell] = []  # cells that the step made, so that their ids stay theirs
        self._before: dict[int, _Before] = {}
        self._held: dict[int, tuple[Any, Any, Buffer]] = {}  # in place of a value in `_before`
        self._old: Old = {}  # gradients that the step replaced, by their owners' numbers
        self._offsets: dict[int, tuple[Generator, int, int]] = {}

    @staticmethod
    def of(
        function: Callable[..., Any], arguments: Sequence[Any], named: dict[str, Any]
    ) -> tuple[Any, Recording]:
        """Call the function and record what it does; its work has run when this returns."""
        result, recording = Recording._called(function, arguments, named)
        spare: dict[int, Buffer] = {}
        if recording.refused_change is None:  # otherwise the call may be undone when it has run
            spare = recording._retire_gradients()
            recording._release()
        try:
            compute(recording.pending, "hot", spare)
        except BaseException:
            recording.undo()
            raise
        if recording.refused_change is None:
            recording._forget()
        interrupts.raise_late()
        return result, recording

    def _forget(self) -> None:
        """Hold no value any more: nobody asks for the old ones, and the new ones are others'."""
        _, feeds, holders, live, _, rebound = self.pending
        for kept in (self._before, self._held, self._old, self._kept, feeds, holders, live):
            kept.clear()
        rebound.clear()

    def _retire_gradients(self) -> dict[int, Buffer]:
        """Let go of the gradients that the step replaced; the memory of those that nobody else
        holds, by the output that takes their place.
        """
        replaced = dict(self.gradients)
        gradients: list[tuple[int, Tensor]] = []
        looks: list[tuple[int, int, tuple[Any, ...]]] = []
        for number, owner in enumerate(self.owners, len(self.snapshot.tensors)):
            before = self._before[number]
            if owner in replaced and before.cell.value is before.value:
                gradients.append((owner, before.tensor))
                looks.append((number, owner, before[3:]))
                self._before[owner] = self._before[owner]._replace(gradient=None)
                del self._before[number], before
        self._old = retire(gradients)
        for number, owner, look in looks:
            gradient = self._old[owner]
            if isinstance(gradient, Tensor):  # somebody holds it
                cell = gradient._cell
                self._before[number] = _Before(gradient, cell, cell.value, *look)
        return spare_memory(self._old, gradient_outputs(self.gradients, self.made))

    def _release(self) -> None:
        """Hold what the step rebinds by its buffer only, so that the program may overwrite it if
        nobody else holds the value; a program that fails has overwritten nothing.
        """
        rebound = {self._before[index].cell for index, _ in self.rebound}
        released = {
            index: before.value
            for index, before in self._before.items()
            if before.cell in rebound and before.value is not None and before.value.buffer
        }
        self._held = {
            index: (value.shape, value.dtype, value.force()) for index, value in released.items()
        }
        for index in released:
            self._before[index] = self._before[index]._replace(value=None)
        watched = {
            place: weakref.ref(released[origin.place])
            for place, origin in enumerate(self.origins)
            if origin.kind == "cell" and origin.place in released
        }
        released.clear()
        for place, alone in watched.items():
            buffer = self._held[self.origins[place].place][2]
            if alone() is None and not buffer.pinned and place not in self.pending.donated:
                self.pending.donated.append(place)

    @staticmethod
    def without_effect(
        function: Callable[..., Any], arguments: Sequence[Any], named: dict[str, Any]
    ) -> Recording:
        """Record what the function would do; nothing runs, and everything is as before the call."""
        recording = Recording._called(function, arguments, named)[1]
        recording.undo()
        return recording

    @staticmethod
    def _called(
        function: Callable[..., Any], arguments: Sequence[Any], named: dict[str, Any]
    ) -> tuple[Any, Recording]:
        """Call the function and record what it does; its work waits in `pending`."""
        recorder().flush()
        recording = Recording(Snapshot(function, (*arguments, named)))
        recording._prepare()
        modes.replay = _FORBIDDEN
        try:
            result = function(*arguments, **named)
        except BaseException:
            modes.replay = None
            recorder().take()
            recording.undo()
            raise
        modes.replay = None
        recording._finish(result, getattr(function, "__name__", type(function).__name__))
        return result, recording

    def _prepare(self) -> None:
        """Evaluate what the step may read, so that every input can be recognised."""
        self.tensors, self.owners = with_gradients(self.snapshot.tensors)
        self.aliases = aliases(self.tensors)
        _part_values(self.tensors)
        self.kinds = [kind_of(tensor) for tensor in self.tensors]
        self.paths = self.snapshot.paths + [
            f"{self.snapshot.paths[owner]}.grad" for owner in self.owners
        ]
        for index, tensor in enumerate(self.tensors):
            cell = tensor._cell
            evaluate(tensor)
            if is_window(tensor):
                self._start.setdefault(id(tensor._memo.buffer), ("window", index))  # type: ignore[union-attr]
            else:
                value = cell.value
                holder = value if value.number is not None else value.buffer
                self._start[id(holder)] = ("cell", index)
            self._cells.setdefault(id(cell), index)
            self._before[index] = _Before(
                tensor, cell, cell.value, cell.version, tensor._grad, tensor._history,
                tensor._requires,
            )  # fmt: skip
            if tensor._history is not None:
                self._outside = self.paths[index]
        self._note_generator(default_generator)
        for generator in self.snapshot.generators:
            self._note_generator(generator)

    def _note_generator(self, generator: Generator) -> None:
        self._offsets[id(generator)] = (generator, generator.initial_seed(), generator.offset)

    def undo(self) -> None:
        """Put everything back to what it was before the call."""
        self.snapshot.restore()
        for index, (shape, dtype, buffer) in self._held.items():
            self._before[index] = self._before[index]._replace(value=Value(shape, dtype, buffer))
        for tensor, cell, value, version, gradient, history, requires in self._before.values():
            tensor._cell = cell
            cell.value = value
            cell.version = version
            tensor._grad = gradient
            tensor._history = history
            tensor._requires = requires
            tensor._memo = None
        put_back(self._old, self.tensors)
        for generator, seed, offset in self._offsets.values():
            generator.manual_seed(seed)
            generator.offset = offset
        rebindings.count += 1

    def _finish(self, result: Any, name: str) -> None:
        """Read off what the call left behind; take its graph."""
        for index, tensor in enumerate(self.tensors):
            before = self._before[index]
            cell, gradient = before.cell, before.gradient
            if tensor._cell is not cell:
                self.refusal = f"{self.paths[index]} was given other storage (`.data = `)"
            elif cell.value is not before.value and self._cells[id(cell)] == index:
                self.rebound.append((index, self._outcome(cell.value)))
            if tensor._history is not before.history:
                self.refusal = f"{self.paths[index]} got a gradient history"
            if tensor._grad is not gradient:
                made = tensor._grad
                self.gradients.append((index, None if made is None else self._template(made)))
        for change in self.snapshot.changes():
            self._note_change(change)
        elsewhere = bool(self._graded)  # in a gradient or a field
        self.result = self._described(result)
        here = recorder()
        self._trace_origins(here)
        holds = any(one._history.holds_values() for one in self._graded)  # type: ignore[union-attr]
        if self._graded and (holds or self._outside) and not self.refusal:
            self._trace_gradient(here, name, elsewhere)
        if self._outside and not self.stretch:
            self.refusal = (
                self.refusal or f"{self._outside} has a gradient history from outside the step"
            )
        self.pending = here.take()
        self.shapes = self.pending.recorded.results()
        if not self.grew:  # otherwise what starts new state is read only now
            # the step's own data is compared with the next recording's, and read again by replays
            own = {place for place, origin in enumerate(self.origins) if origin.kind == "host"}
            donated = self.pending.donated
            donated[:] = [place for place in donated if place not in own]
        self.tensors = list(self.snapshot.tensors)
        for generator, _, offset in self._offsets.values():
            if generator.offset != offset:
                self.advance.append((generator, generator.offset - offset))

    def _note_change(self, change: Change) -> None:
        if isinstance(change.after, Tensor) and (
            isinstance(change.before, Tensor) or change.before is None
        ):
            self.fields.append((change, self._template(change.after)))
        elif missing(change.before) and not isinstance(change.entry.container, list):
            self.grew = True  # state that the first call makes
        else:
            self.refused_change = self.refused_change or change

    def _outcome(self, value: Value) -> Outcome:
        if value.recorder is not None:
            return Outcome("output", value.position, None)
        found = self._start.get(id(value if value.number is not None else value.buffer))
        if found is not None:
            return Outcome("start", found[1], None)
        return Outcome("host", -1, value)

    def _template(self, tensor: Tensor) -> Template:
        history = tensor._history
        if history is not None and (history._backward is not None or history.holds_values()):
            self._graded.append(tensor)
        number = self._cells.get(id(tensor._cell))
        if number is None:
            number = self._cells[id(tensor._cell)] = -1 - len(self.made)
            self.made.append(self._outcome(tensor._cell.value))
            self.storages.append((tensor._cell.shape, tensor._cell.strides))
            self._kept.append(tensor._cell)
        fields = dict(vars(tensor))
        for name in (
            "_cell",
            "_memo",
            "_memo_version",
            "_leaf",
            "_base",
            "_path",
            "_counter",
            "_grad",
        ):
            fields.pop(name, None)
        return Template(type(tensor), fields, number)

    def _described(self, result: Any) -> Any:
        if isinstance(result, Tensor):
            for index, tensor in enumerate(self.tensors):
                if tensor is result:
                    return Reachable(index)
            return self._template(result)
        if isinstance(result, (list, tuple)):
            items = [self._described(item) for item in result]
            return type(result)(*items) if hasattr(result, "_fields") else type(result)(items)
        if isinstance(result, dict):
            return {key: self._described(item) for key, item in result.items()}
        return result

    def _trace_origins(self, here: Recorder) -> None:
        for feed, holder in zip(here.feeds, here.holders, strict=True):
            if isinstance(feed, Counter):
                generator = feed.generator
                if id(generator) not in self._offsets:
                    self.refusal = "it makes a random generator of its own"
                    self.origins.append(Origin("number", -1, feed))
                elif feed.is_key:
                    self.origins.append(Origin("key", -1, generator))
                else:
                    distance = int(feed) - self._offsets[id(generator)][2]
                    self.origins.append(Origin("counter", distance, generator))
            elif (found := self._start.get(id(holder))) is not None:
                self.origins.append(Origin(*found, None))
            elif isinstance(feed, Buffer):
                # of the cell as it was: the step may have written to it since
                values = (before.value for before in self._before.values())
                if any(value is not None and value.buffer is feed for value in values):
                    self.refusal = "it writes through a view that it got as an argument"
                self.origins.append(Origin("host", -1, feed))
            else:
                self.origins.append(Origin("number", -1, feed))

    def _trace_gradient(self, here: Recorder, name: str, elsewhere: bool) -> None:
        """Find what is left to record of this call, whose result has a gradient."""
        self.refusal = "it leaves a tensor behind whose gradient history holds values"
        root, *others = {id(root): root for root in map(root_of, self._graded)}.values()
        cell = self._cells.get(id(root._cell), 0)
        edges = [self._edge(origin) for origin in self.origins]
        if (
            others or elsewhere or self.gradients or self.grew or self.refused_change
            or root._moves or cell >= 0
            or any(self.tensors[index]._requires for index, _ in self.rebound)
        ):  # fmt: skip
            return
        rebound = [self._before[index].cell for index, _ in self.rebound]
        outcomes = [*[outcome for _, outcome in self.rebound], *self.made]
        outputs = [
            owner.value
            for outcome, owner in zip(outcomes, [*rebound, *self._kept], strict=True)
            if outcome.kind == "output"
        ]
        found = stretch_of(name, here, root, cell, self.origins, edges, outputs)
        if isinstance(found, str):
            self.refusal = found
        else:
            self.stretch, self.refusal = found, ""

    def _edge(self, origin: Origin) -> Edge | None:
        """Where the gradient of an input goes; None if that is more than one place."""
        if origin.kind not in ("cell", "window"):
            return Edge(-1, None)
        here = [origin.place]
        if origin.kind == "cell":
            alias = self.aliases[origin.place]
            here = [
                index
                for index, tensor in enumerate(self.tensors)
                if self.aliases[index] == alias and not is_window(tensor)
            ]
        found = {edge: index for index in here if (edge := self.tensors[index]._edge()) is not None}
        if len(found) > 1:
            return None
        return next((Edge(index, edge) for edge, index in found.items()), Edge(-1, None))

    def disagreement(self, earlier: Recording) -> str:
        """Where this call did something else than an earlier one in the same world, or ""."""
        recorded, other = self.pending.recorded, earlier.pending.recorded
        ours, theirs = recorded.key, other.key
        for index, (now, before) in enumerate(zip(ours, theirs, strict=False)):
            if now != before:
                return f"computes something else{at(recorded.source_at(index))}"
        if len(ours) != len(theirs):
            longer = max(recorded, other, key=lambda one: len(one.key))
            return f"computes more or less{at(longer.source_at(min(len(ours), len(theirs))))}"
        readers = recorded.readers()
        for source, now, before in zip(readers, self.origins, earlier.origins, strict=True):
            if now.kind != before.kind or now.place != before.place:
                return f"reads another tensor{at(source)}"
            if now.kind == "number" and now.value != before.value and now.value == now.value:
                return f"uses the number {now.value!r} where it used {before.value!r}{at(source)}"
            if now.kind == "host" and not _same_bytes(now.value, before.value):
                return f"makes a tensor from other data{at(source)}"
        return ""


def kind_of(tensor: Tensor) -> tuple[Any, ...]:
    """All that Python can see of a tensor but its value."""
    return (
        type(tensor), tensor.shape, tensor.dtype, tensor._requires, tensor._history is None,
        tensor._strides, is_window(tensor),
    )  # fmt: skip


def with_gradients(tensors: list[Tensor]) -> tuple[list[Tensor], list[int]]:
    """The tensors, followed by the gradients that some of them have; and whose each of those is."""
    owners = [index for index, tensor in enumerate(tensors) if tensor._grad is not None]
    return tensors + [tensors[owner]._grad for owner in owners], owners  # type: ignore[misc]


def aliases(tensors: Sequence[Tensor]) -> list[int]:
    """For each tensor, the first one that shares its cell."""
    first: dict[int, int] = {}
    return [first.setdefault(id(tensor._cell), index) for index, tensor in enumerate(tensors)]


def replaces_gradients(recording: Recording) -> bool:
    """Whether a call replaces all gradients that were there, and neither reads nor shows one."""
    count = len(recording.tensors)
    shown: list[Template | Reachable] = list(templates(recording.result))
    shown += [template for _, template in recording.gradients if template is not None]
    shown += [template for _, template in recording.fields]
    places = [part.cell if isinstance(part, Template) else part.place for part in shown]
    places += [index for index, _ in recording.rebound]
    places += [one.place for one in recording.origins if one.kind in ("cell", "window")]
    outcomes = [outcome for _, outcome in recording.rebound] + recording.made
    places += [outcome.place for outcome in outcomes if outcome.kind == "start"]
    replaced = {owner for owner, _ in recording.gradients}
    return replaced.issuperset(recording.owners) and all(place < count for place in places)


def _part_values(tensors: Sequence[Tensor]) -> None:
    """Give cells that share a value, as a clone does, values of their own: a program must read
    both, for they may differ in a later call.
    """
    users: dict[Value, Cell] = {}
    for tensor in tensors:
        cell = tensor._cell
        if is_window(tensor):
            continue
        value = evaluate(tensor)
        if users.setdefault(value, cell) is cell:
            continue
        if value.number is not None:
            cell.value = Value.from_number(value.number, value.dtype)
        else:
            cell.value = Value(value.shape, value.dtype, copy(value.force()))
        rebindings.count += cell.watched


def is_window(tensor: Tensor) -> bool:
    """True for tensors whose value is not simply their cell's: views and shared memory."""
    return bool(tensor._moves) or tensor._cell.foreign() is not None


def evaluate(tensor: Tensor) -> Value:
    """The computed value of a tensor; a window keeps it, so that the step reads the same one."""
    value = tensor.value()
    if value.number is None:
        value.force()
    if is_window(tensor):
        tensor._memo, tensor._memo_version = value, tensor._cell.version
    return value


def at(source: Any) -> str:
    """ " (file.py:12)", or nothing if the line is not known."""
    return f" ({source[0]}:{source[1]})" if source else ""


def _same_bytes(one: Buffer, other: Buffer) -> bool:
    return one.nbytes == other.nbytes and one.tobytes() == other.tobytes()
