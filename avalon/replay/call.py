"""A compiled function whose result has a gradient: one differentiable call, recorded on each run.

Comes in: a recording that leaves one tensor with a gradient history in its result. Goes out: a
`DifferentiableCall`, which puts that down as one entry, with one history, among whatever else is
recorded. Guaranteed: it runs where the function's own calls would have run, fused with what follows
(a loss, `backward()`, the optimizer's step), with the same bits, but for gradients of gradients,
whose sums have another order; state that it rebinds waits with it; none of the function's Python
runs.
"""

from __future__ import annotations

from typing import Any

from avalon import dtype as dtypes
from avalon.random import Counter
from avalon.rebinding import rebindings
from avalon.replay.guards import Guards
from avalon.replay.recording import Origin, Recording
from avalon.replay.stretch import Stretch
from avalon.replay.templates import Outcome, Template, build, rebuild
from avalon.tensor.cell import Cell
from avalon.tensor.core import Tensor
from avalon.tracing.history import History
from avalon.tracing.joining import Joining
from avalon.tracing.recorded import user_place
from avalon.tracing.values import Value, recorder

_WORD = (1 << 64) - 1


class DifferentiableCall(Guards):
    """A recording that is put down again, without Python, on the tensors of another call."""

    def __init__(self, recording: Recording, stretch: Stretch) -> None:
        super().__init__(recording)
        self._stretch = stretch
        self._rebound = recording.rebound
        self._made = recording.made
        self._fields = recording.fields
        self._result = recording.result
        self._advance = recording.advance

    def run(self) -> Any:
        """The result of the call on the tensors that `matches` found."""
        stretch, tensors, here = self._stretch, self.tensors, recorder()
        if here.updated:
            here.flush()
        operands = [self._operand(origin) for origin in stretch.origins]
        edges = [None if place < 0 else tensors[place]._edge() for place in stretch.sources]
        started = [self._start(outcome) for outcome in self._outcomes()]
        line = user_place()
        made = here.put(stretch.forward, [*operands, *stretch.numbers], line, stretch.note)
        count = len(operands)
        backward = stretch.backward
        kept = [
            operands[place] if place < count else made[place - count] for place in backward.keep
        ]
        history = History(stretch.name, tuple(edges), made[0], backward, kept, line)
        if backward.may_keep_less:
            Joining.note(here, history, [*operands, *stretch.numbers])
        for generator, words in self._advance:
            generator.offset += words
        result = self._take_effect(made, started, history)
        self.forget_gradients()
        return result

    def _outcomes(self) -> list[Outcome]:
        return [*[outcome for _, outcome in self._rebound], *self._made]

    def _operand(self, origin: Origin) -> Value:
        if origin.kind in ("cell", "window"):
            return self.tensors[origin.place].value()
        if origin.kind == "host":
            value: Value = origin.value
            return value
        generator = origin.value
        is_key = origin.kind == "key"
        number = generator.initial_seed() if is_key else generator.offset + origin.place
        return Value.from_number(Counter.of(generator, number & _WORD, is_key), dtypes.uint64)

    def _start(self, outcome: Outcome) -> Value | None:
        """What a cell will hold, if the call does not compute it."""
        if outcome.kind == "start":
            return self.tensors[outcome.place].value()
        return outcome.value if outcome.kind == "host" else None

    def _take_effect(
        self, made: list[Value], started: list[Value | None], history: History
    ) -> Any:
        """Rebind what the call rebinds; its result, whose gradient is `history`'s."""
        places = self._stretch.places
        values = [
            made[places[outcome.place]] if value is None else value
            for outcome, value in zip(self._outcomes(), started, strict=True)
        ]
        here = recorder()
        for (index, _), value in zip(self._rebound, values, strict=False):
            cell = self.tensors[index]._cell
            here.remember(cell, cell.value)
            cell.value = value
            cell.version += 1
        rebindings.count += 1
        cells = [Cell(value, value.shape) for value in values[len(self._rebound) :]]
        root = Tensor._make(made[0], history)
        root._cell = cells[-1 - self._stretch.cell]
        if self._stretch.strides is not None:
            root._set_strides(self._stretch.strides)

        def built(template: Template, cells: Any, tensors: Any) -> Tensor:
            like = build(template, cells, tensors)
            if like._history is None:
                return like
            if not like._moves:
                return root
            return root._view(like._moves, like.stride(), like.storage_offset())

        for change, template in self._fields:
            change.set(build(template, cells, self.tensors))
        return rebuild(self._result, cells, self.tensors, built)
