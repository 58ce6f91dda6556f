"""The short way through a replay, for calls between which nothing was rebound.

Comes in: a replay whose guards have just passed. Goes out: a `Quick`, which holds as long as
nothing counted as rebound, the modes stay and so do the watched containers, and then runs the step
with a native table that is written already: state is rewritten where it lies, and only new
arguments, counters and results have other addresses. Guaranteed: it does what the replay would have
done; where it cannot (an argument of another kind, a value that somebody holds), it says so before
anything has happened.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import is_
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from avalon.random import injecting
from avalon.rebinding import rebindings
from avalon.replay import series
from avalon.replay.recording import Origin, evaluate
from avalon.replay.results import Fresh
from avalon.replay.series import Column
from avalon.replay.templates import Outcome, Reachable, Template, build, rebuild, templates
from avalon.replay.watch import Watch, same_argument
from avalon.runtime import interrupts
from avalon.runtime.bound import Bound
from avalon.runtime.buffer import Buffer
from avalon.runtime.program import Program
from avalon.runtime.series import Series
from avalon.tensor.cell import Cell
from avalon.tensor.core import Tensor
from avalon.tensor.creation import tensor
from avalon.tracing.modes import modes
from avalon.tracing.values import Value, recorder

if TYPE_CHECKING:
    from avalon.replay.step import Replay

_WORD = (1 << 64) - 1
# What `sys.getrefcount` says, by way of `map`, of an object that lies in one list and one field.
_ALONE = 3


class _Argument(NamedTuple):
    """A tensor among the arguments: its place, its number, and the words of its address. `like` is
    the tensor if another one may take its place.
    """

    place: int
    number: int
    like: Tensor | None
    words: tuple[int, ...]


class _Moved(NamedTuple):
    """A value whose memory is new after each call: its place among the rewritten values, the words
    where the old memory is read, the word where the new one is written, and its size.
    """

    place: int
    read: tuple[int, ...]
    written: int
    nbytes: int


class _Unfit(Exception):
    """The replay has no short way."""


def quick_way(replay: Replay, given: tuple[Any, ...], world: tuple[Any, ...]) -> Quick | None:
    """The short way through a replay that has just matched, or None if it has none.

    Args:
        given: the arguments as the user gave them; world: as the replay sees them.
    """
    try:
        return Quick(replay, given, world)
    except _Unfit:
        return None


class Quick:
    """A replay whose program is bound to the memory of the tensors that it met."""

    def __init__(self, replay: Replay, given: tuple[Any, ...], world: tuple[Any, ...]) -> None:
        program = replay.program.runnable if replay.program is not None else None
        self._watch = Watch(replay.snapshot, given, world)
        if not self._watch.possible or replay.fields or not isinstance(program, Program):
            raise _Unfit
        constants = any(kind == "constant" for _, (kind, _) in program.copies)
        if constants or any(tensor._cell.memory is not None for tensor in replay.tensors):
            raise _Unfit
        if any(index >= len(replay.snapshot.tensors) for index, _ in replay.rebound):
            raise _Unfit  # it writes gradients in place, which are not held between calls
        self._modes = dict(modes.__dict__)
        self._owners: list[Tensor] = []  # whose gradients are rewritten
        self._advance = replay.advance
        self._result = replay.result
        self._made_count = len(replay.made)
        self._bind(replay, program)
        replay.forget_gradients()
        self._tensors = replay.tensors
        self._cells = [self._tensors[index]._cell for index, _ in replay.rebound]
        self._rewrites = bool(self._cells or self._owners)
        self._draws = bool(self._advance or self._counters or self._keys)
        self._known = {tensor._cell for tensor in self._tensors}
        if self._rewrites and not self._is_alone():
            raise _Unfit
        for cell in (*self._known, *[_gradient_cell(owner) for owner in self._owners]):
            cell.watched = True
        self._rebindings = rebindings.count

    @property
    def nanoseconds(self) -> int:
        """What a call takes, about."""
        return self._bound.nanoseconds

    # --- a call ---------------------------------------------------------------------------------

    def holds(self, given: tuple[Any, ...]) -> bool:
        """Whether the step may run this way, now, with these arguments."""
        if self._rebindings != rebindings.count or modes.__dict__ != self._modes:
            return False
        if self._draws and injecting():
            return False
        waiting = recorder()
        if waiting.values or waiting.underway is not None:
            waiting.flush()
            if self._rebindings != rebindings.count:
                return False
        watch = self._watch
        before = watch.arguments
        if len(before) != len(given) or not watch.same():
            return False
        if self._rewrites and not self._is_alone():
            return False
        if all(map(is_, given, before)):
            return True
        for place, new in enumerate(given):
            if new is before[place]:
                continue
            argument = self._arguments.get(place)
            if argument is None:
                if not same_argument(new, before[place]):
                    return False
            elif not self._take(tensor(new) if type(new) is np.ndarray else new, argument):
                return False
        return True

    def _take(self, new: Any, argument: _Argument) -> bool:
        """Take a new tensor for an argument, if it is of the same kind and alone on its cell."""
        like = argument.like
        if (
            like is None
            or type(new) is not type(like)
            or new.shape != like.shape
            or new.dtype is not like.dtype
            or new._requires is not like._requires
            or new._strides != like._strides
            or bool(new._moves) is not bool(like._moves)
            or new._history is not None
            or new._grad is not None
        ):
            return False
        cell, old = new._cell, self._tensors[argument.number]._cell
        if cell.memory is not None or (cell in self._known and cell is not old):
            return False
        value = evaluate(new) if new._moves else cell.value
        if value.number is not None:
            return False
        address = (value.buffer or value.force()).address
        for word in argument.words:
            self._bound.words[word] = address
        self._known.discard(old)
        self._known.add(cell)
        cell.watched = True
        self._tensors[argument.number] = self._watch.arguments[argument.place] = new
        return True

    def run(self) -> Any:
        """Run the step; `holds` has just said that it may.

        Raises:
            IndexOutOfRange: if a check of the program fails.
        """
        made: list[Cell | None] = [None] * self._made_count
        for new in self._new:
            made[new.number] = new.cell()
        if self._draws:
            self._write_draws()
        moved = self._give_memory() if self._moved else None
        self._bound.run()
        if self._rewrites or self._draws:
            self._take_effect(moved, 1)
        if interrupts.late:
            interrupts.raise_late()
        result = self._result
        if type(result) is Template:
            return build(result, made, self._tensors)
        return rebuild(result, made, self._tensors)

    def run_series(self, columns: Mapping[int, Column], count: int) -> list[Tensor] | None:
        """Run the step `count` times in one native call; `holds` has just said that it may with
        the first arguments. `columns` are the addresses of the tensors that are given, by place.

        Returns:
            One tensor for each number that the step returns, with an element for each call; or
            None, and nothing has happened, if it returns anything else.

        Raises:
            IndexOutOfRange: if a check of the program fails; the calls before were made.
        """
        order, table = series.numbers(self._result), self._bound.words
        if order is None or sorted(order) != [new.number for new in self._new]:
            return None
        if self._bound.copies:
            return None
        words: dict[int, Column] = {}
        for place, column in columns.items():
            words |= dict.fromkeys(self._arguments[place].words, column)
        if self._draws:
            self._write_draws()
            words |= dict(series.counters(self._counters, self._advance, count))
        stacks = {}
        for new in self._new:
            word, stack = new.stack(count)
            stacks[new.number] = stack
            words[word] = series.apart(stack.force().address, stack.dtype.itemsize, count)
        before = {word: table[word] for word in words}
        values = self._rewritten_values()
        places = [values[move.place].force() for move in self._moved], [
            Buffer(move.nbytes) for move in self._moved
        ]
        for move, now, then in zip(self._moved, *places, strict=True):
            words |= dict.fromkeys(move.read, series.in_turns(now, then, count))
            words[move.written] = series.in_turns(then, now, count)
        calls = Series(words, count)
        try:
            self._bound.run_series(calls)
        finally:
            for word, content in before.items():
                table[word] = content
            self._take_effect(places[calls.done % 2], calls.done)
        interrupts.raise_late()
        return [Tensor._make(stacks[number]) for number in order]

    def _take_effect(self, moved: list[Buffer] | None, calls: int) -> None:
        """After so many calls: values have their memory, cells and generators have moved on."""
        if moved:
            self._settle(moved)
        for cell in self._cells:
            cell.version += calls
        for generator, count in self._advance:
            generator.offset += calls * count

    def _give_memory(self) -> list[Buffer]:
        """New memory for the values that move."""
        moved = []
        for _, _, word, nbytes in self._moved:
            buffer = Buffer(nbytes)
            self._bound.words[word] = buffer.address
            moved.append(buffer)
        return moved

    def _write_draws(self) -> None:
        """Write where the generators of random numbers are now."""
        words = self._bound.words
        for word, generator, distance in self._counters:
            words[word] = (generator.offset + distance) & _WORD
        for word, generator in self._keys:
            words[word] = generator.initial_seed() & _WORD

    def _rewritten_values(self) -> list[Value]:
        """The values that a call writes: of state, then of gradients."""
        cells = [*self._cells, *[_gradient_cell(owner) for owner in self._owners]]
        return [cell.value for cell in cells]

    def _is_alone(self) -> bool:
        """Whether nobody else holds what a call rewrites: gradients, values, their memory."""
        gradients: list[Any] = [owner._grad for owner in self._owners]
        cells = [gradient._cell for gradient in gradients]
        values = [cell.value for cell in self._cells]
        values += [cell.value for cell in cells]
        buffers = [value.buffer for value in values]
        held = chain(gradients, cells, values, buffers)
        count = 2 * len(gradients) + 2 * len(values)
        return sum(map(sys.getrefcount, held)) == _ALONE * count

    def _settle(self, moved: list[Buffer]) -> None:
        """Give values their new memory; other replays have to look again."""
        words, values = self._bound.words, self._rewritten_values()
        for move, buffer in zip(self._moved, moved, strict=True):
            values[move.place].buffer = buffer
            for word in move.read:
                words[word] = buffer.address
        if self._rebindings == rebindings.count:
            self._rebindings += 1
        rebindings.count += 1

    # --- binding --------------------------------------------------------------------------------

    def _bind(self, replay: Replay, program: Program) -> None:
        """Read off where everything lies and write the table."""
        assert replay.program is not None
        origins = [replay.origins[position] for position in replay.program.inputs]
        feeds = [_feed(origin, replay.tensors) for origin in origins]
        addresses = [feed.address for feed in feeds if isinstance(feed, Buffer)]
        if len(set(addresses)) != len(addresses):
            raise _Unfit
        readers: dict[Cell, list[int]] = {}
        for place, origin in enumerate(origins):
            if origin.kind in ("cell", "window"):
                readers.setdefault(replay.tensors[origin.place]._cell, []).append(place)
        windows = {replay.tensors[o.place]._cell for o in origins if o.kind == "window"}
        outputs = [Buffer(0)] * len(program.output_bytes)  # the places of those that move
        free = set(range(len(outputs)))
        donated, late = dict(program.donations), program.written_late
        moving = []
        for place, (cell, outcome) in enumerate(self._rewritten(replay)):
            output = _claim(replay, outcome, free)
            read = readers.get(cell, [])
            value = cell.value
            if cell in windows or value.number is not None:
                raise _Unfit
            buffer = value.force()
            if buffer.pinned or buffer.nbytes != program.output_bytes[output]:
                raise _Unfit
            if read == [donated.get(output)] or (not read and output in late):
                outputs[output] = buffer
            else:
                moving.append((place, read, output, buffer.nbytes))
        new = [
            (number, _claim(replay, outcome, free))
            for number, outcome in enumerate(replay.made)
            if number not in self._kept
        ]
        self._unwanted = [Buffer(program.output_bytes[output]) for output in free]
        for output, buffer in zip(free, self._unwanted, strict=True):
            outputs[output] = buffer
        rewrites = len(new) < len(program.output_bytes)
        self._bound = bound = Bound(program, feeds, outputs, rewrites)
        self._moved = [
            _Moved(place, bound.input_words(read), bound.output_word(output), nbytes)
            for place, read, output, nbytes in moving
        ]
        self._new = [
            Fresh(
                number,
                bound.words,
                bound.output_word(output),
                replay.likes[replay.made[number].place],
                replay.storages[number],
                program.output_bytes[output],
            )
            for number, output in new
        ]
        self._note_draws(bound, origins)
        self._note_arguments(replay, readers)

    def _note_draws(self, bound: Bound, origins: Sequence[Origin]) -> None:
        """Where the generators' counters and keys go in the table."""
        words = bound.input_words(range(len(origins)))
        placed = list(zip(words, origins, strict=True))
        self._counters = [(word, o.value, o.place) for word, o in placed if o.kind == "counter"]
        self._keys = [(word, o.value) for word, o in placed if o.kind == "key"]

    def _rewritten(self, replay: Replay) -> list[tuple[Cell, Outcome]]:
        """The cells that get a new value: state, and gradients that are there before the call too,
        whose numbers among the made cells are kept.
        """
        found = [(replay.tensors[index]._cell, outcome) for index, outcome in replay.rebound]
        read = {replay.tensors[o.place] for o in replay.origins if o.kind in ("cell", "window")}
        self._kept = set()
        seen: set[Tensor] = set()
        for index, template in replay.gradients:
            gradient = replay.tensors[index]._grad
            if template is None and gradient is None:
                continue
            if template is None or gradient is None or template.cell >= 0 or gradient in read:
                raise _Unfit
            if not _alike(gradient, template):
                raise _Unfit
            if gradient in seen:  # the parameter is reachable in two ways
                continue
            seen.add(gradient)
            self._kept.add(-1 - template.cell)
            self._owners.append(replay.tensors[index])
            found.append((gradient._cell, replay.made[-1 - template.cell]))
        count = len(replay.snapshot.tensors)
        for part in templates(replay.result):
            shown = (
                part.place >= count if isinstance(part, Reachable) else -1 - part.cell in self._kept
            )
            if shown or (isinstance(part, Template) and part.cell >= count):
                raise _Unfit  # the result shows a gradient
        return found

    def _note_arguments(self, replay: Replay, readers: dict[Cell, list[int]]) -> None:
        """Which arguments are tensors, which of them may be replaced, where their addresses go."""
        cells = [tensor._cell for tensor in replay.tensors]
        written = {cells[index] for index, _ in replay.rebound}
        self._arguments = {}
        for place, number in replay.snapshot.argument_slots(len(self._watch.arguments)):
            tensor, cell = replay.tensors[number], cells[number]
            plain = cell not in written and cells.count(cell) == 1
            words = self._bound.input_words(readers.get(cell, []))
            self._arguments[place] = _Argument(place, number, tensor if plain else None, words)


def _feed(origin: Origin, tensors: list[Tensor]) -> Any:
    """What an input of the program is given now."""
    if origin.kind in ("cell", "window"):
        value = tensors[origin.place].value()
        return value.force() if value.number is None else value.number
    if origin.kind == "counter":
        return (origin.value.offset + origin.place) & _WORD
    return origin.value.initial_seed() if origin.kind == "key" else origin.value


def _gradient_cell(owner: Tensor) -> Cell:
    gradient = owner._grad
    assert gradient is not None
    return gradient._cell


def _claim(replay: Replay, outcome: Outcome, free: set[int]) -> int:
    """The program's output for an outcome, which must be the only one that it is for."""
    assert replay.program is not None
    output = replay.program.outputs[outcome.place] if outcome.kind == "output" else -1
    if output not in free:
        raise _Unfit
    free.remove(output)
    return output


def _alike(tensor: Tensor, template: Template) -> bool:
    """Whether a tensor is what the template would make."""
    made = object.__new__(template.type)
    made.__dict__.update(template.fields)
    names = ("shape", "dtype", "_strides", "_moves", "_requires", "_history")
    return type(tensor) is template.type and all(
        getattr(tensor, name) == getattr(made, name) for name in names
    )
