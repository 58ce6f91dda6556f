"""A sketch: what a private recorder holds, spelled out step by step, to cut operations from.

Comes in: a recorder into which a function was traced. Goes out: operations that compute some of its
values from others. Guaranteed: an operation has the steps that it needs and no others, in the order
in which they were recorded; numbers stay run-time operands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from avalon.errors import DeclarationError, TraceError
from avalon.tracing.operation import Operation, Step, composite_of
from avalon.tracing.recorded import Notes, note_on
from avalon.tracing.values import Recorder, Value


class Sketch:
    """Every input and every step by number.

    Attributes:
        kinds: shape and dtype of each.
        steps: the step, whose places are numbers; None for an input.
        notes: what was noted on each step.
        at: the number of the value at each position of the recorder.
        read: what the entry read that put out a number.
        numbers: the Python numbers among the inputs.
    """

    def __init__(self, name: str, own: Recorder, given: Iterable[Value] = ()) -> None:
        """Spell out what `own` recorded on the values `given`.

        Raises:
            TraceError: the function read memory that it was not given.
            DeclarationError: it drew random numbers.
        """
        self.name = name
        self.own = own
        self.kinds: list[tuple[Any, Any]] = []
        self.steps: list[Step | None] = []
        self.notes: list[str] = []
        self.at: list[int] = []
        self.read: dict[int, Sequence[int]] = {}
        for operation, positions, _, note in own.recorded.entries():
            self._spell_out(operation, [self.at[position] for position in positions], note)
        self.numbers: dict[int, Value] = {}
        known = {id(_holder(value)) for value in given}
        for holder, position in zip(own.holders, own.entered.values(), strict=True):
            if id(holder) in known:
                continue
            if not isinstance(holder, Value):
                raise TraceError(f"[{name}] makes tensors from data, so it cannot be traced")
            if type(holder.number) not in (bool, int, float):
                raise DeclarationError(f"[{name}] draws random numbers, so it cannot be traced")
            self.numbers[self.at[position]] = holder

    def _spell_out(self, operation: Operation, operands: Sequence[int], note: str) -> None:
        if operation.scalar is not None:
            self.at.append(len(self.steps))
            self.kinds.append(operation.results[0])
            self.steps.append(None)
            self.notes.append("")
            return
        slots = list(operands)
        for count, step in enumerate(operation.steps):
            self.notes.append(note_on(note, count))
            slots.append(len(self.steps))
            self.kinds.append((step.shape, step.dtype))
            self.steps.append(step._replace(places=tuple([slots[p] for p in step.places])))
        results = [slots[slot] for slot in operation.outputs]
        self.read.update(dict.fromkeys(results, operands))
        self.at += results

    def number_of(self, value: Value) -> int:
        """The number of a value that the recorder holds, or of one that it read."""
        if value.recorder is self.own:
            return self.at[value.position]
        return self.at[self.own.entered[id(_holder(value))]]

    def needed(self, wanted: Iterable[int], given: Iterable[int]) -> set[int]:
        """What `wanted` is computed from, up to and without `given`."""
        stop = set(given)
        needed: set[int] = set()
        waiting = [number for number in wanted if number not in stop]
        while waiting:
            number = waiting.pop()
            if number in needed:
                continue
            needed.add(number)
            step = self.steps[number]
            if step is not None:
                waiting += [place for place in step.places if place not in stop]
        return needed

    def cut(
        self, name: str, given: Sequence[int], wanted: Sequence[int]
    ) -> tuple[Operation, list[Value], dict[int, int]]:
        """The operation that computes `wanted` from `given`, the numbers that it needs besides, and
        the slots of its steps.
        """
        needed = self.needed(wanted, given)
        numbers = [number for number in sorted(needed) if number in self.numbers]
        slots = {number: slot for slot, number in enumerate([*given, *numbers])}
        inputs = len(slots)
        kinds = [self.kinds[number] for number in slots]
        steps: list[Step] = []
        for number in sorted(needed):
            step = self.steps[number]
            if number in slots:
                continue
            assert step is not None
            slots[number] = inputs + len(steps)
            steps.append(step._replace(places=tuple([slots[place] for place in step.places])))
        made = composite_of(name, kinds, steps, [slots[number] for number in wanted])
        return made, [self.numbers[number] for number in numbers], slots

    def noted(self, name: str, operation: Operation, slots: dict[int, int]) -> str:
        """The note on an operation that was cut from here: `name`, and what was noted on its
        steps.
        """
        notes = [self.notes[number] for number in list(slots)[operation.inputs :]]
        return Notes.of(name, notes) if any(notes) else name


def _holder(value: Value) -> Any:
    """By what a recorder knows a value that it reads: numbers by themselves, others by memory."""
    return value.buffer if value.number is None else value
