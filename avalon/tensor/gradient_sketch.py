"""A recorded stretch with its gradient, cut into two operations: forward and backward.

Comes in: a recorder that holds the stretch, a tensor that it made, and what it read. Goes out: the
operation that computes its results and, after them, what the gradient reads; and the gradient as a
`Backward`. Guaranteed: the gradient's steps are those of a walk over the tensor's history, so the
bits are those of the stretch recorded call by call; movements are done again, not kept; gradients
of the gradient find the histories that the calls would have had.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avalon import ops
from avalon.errors import TraceError
from avalon.graph.primitive import Movement
from avalon.tensor.core import Tensor, wrap
from avalon.tracing import history as walk
from avalon.tracing.backward import Backward
from avalon.tracing.history import GradientFunction, History, Leaf
from avalon.tracing.modes import set_grad_enabled
from avalon.tracing.operation import Operation, Step
from avalon.tracing.recorded import Notes
from avalon.tracing.sketch import Sketch
from avalon.tracing.values import Recorder, Value, recorder


class GradientSketch(Sketch):
    """What this thread's recorder holds after a function ran, and the walk back over it.

    Attributes:
        operands: the numbers of what was read.
        leaves: for each operand, the history that its cotangent goes to, or None.
        note: what to note on the forward operation, once it was cut.
    """

    def __init__(
        self, name: str, own: Recorder, result: Tensor, operands: Sequence[Value],
        leaves: Sequence[History | None],
    ) -> None:  # fmt: skip
        """Record the walk from `result`, whose cotangent is an input of its own.

        Raises:
            TraceError: a gradient on the way is a Python function, or what was recorded reads
                memory that is no operand.
            DeclarationError: it draws random numbers whose counters are no operands.
        """
        self.leaves = leaves
        self.note = name
        self.edge = result._history
        self.found: dict[int, Value] = {}
        end = own.count
        seed = own.stand_in(result.shape, result.dtype) if self.edge is not None else None
        if seed is not None and self.edge is not None:
            with set_grad_enabled(False):
                self.found = walk.backward(
                    [(self.edge, seed)], wrap=wrap, accumulate=_accumulate_nothing, retain=True,
                    differentiable=False, wanted=[leaf for leaf in leaves if leaf is not None],
                    stop=True,
                )  # fmt: skip
        super().__init__(name, own, operands)
        self.forward_end = len(self.steps) if seed is None else self.at[end]
        self.operands = [self.number_of(operand) for operand in operands]
        self.seed = None if seed is None else self.at[seed.position]

    def operations(self, values: Sequence[Value]) -> tuple[Operation, list[Value], Backward | None]:
        """Forward, which puts out `values` first, of which the first one has the gradient; the
        numbers that it reads besides the operands; the gradient, if there is one.

        Raises:
            TraceError: a gradient on the way is a Python function.
        """
        results = [self.number_of(value) for value in values]
        templates = [] if self.edge is None else self._templates(self.edge)
        kept = self._kept(results[0], templates)
        known = {*self.operands, *results}
        outputs = [*results, *[number for number in kept if number not in known]]
        forward, numbers, slots = self.cut(self.name, self.operands, outputs)
        self.note = self.noted(self.name, forward, slots)
        if self.edge is None:
            return forward, numbers, None
        count = len(self.operands)
        places = {number: count + place for place, number in enumerate(outputs)}
        places.update({number: place for place, number in enumerate(self.operands)})
        unfold = self._unfolding(kept, templates, results[0])
        held = [places[number] for number in kept]
        return forward, numbers, self._backward(kept, held, unfold, forward)

    def _backward(
        self, kept: Sequence[int], places: Sequence[int], unfold: Any, forward: Operation
    ) -> Backward:
        """The gradient of `forward`; it reads the numbers `kept`, at `places` of a call."""
        assert self.seed is not None
        wanted = [
            None
            if leaf is None or leaf.serial not in self.found
            else self.number_of(self.found[leaf.serial])
            for leaf in self.leaves
        ]
        given = [self.seed, *kept]
        name = f"gradient of {self.name}"
        operation, numbers, slots = self.cut(
            name,
            given,
            [n for n in dict.fromkeys(wanted) if n is not None and n not in given],
        )
        slot_of = {number: slot for slot, number in enumerate(given)} | slots
        made = Backward(
            self.name,
            places,
            operation if operation.outputs else None,
            [None if number is None else slot_of[number] for number in wanted],
            bool(kept),
            numbers,
            unfold,
            forward,
        )
        if isinstance(self.note, Notes):
            made.note = self.noted(name, operation, slots)
        return made

    def _kept(self, result: int, templates: Sequence[History]) -> list[int]:
        """What must be kept for the gradient, and for the gradient's gradient."""
        read: set[int] = set()
        wanted = [self.number_of(value) for value in self.found.values()]
        reached = self.needed(wanted, [] if self.seed is None else [self.seed])
        for number in reached:
            step = self.steps[number]
            if number >= self.forward_end and step is not None:
                read.update(place for place in step.places if place < self.forward_end)
        read.update(number for number in wanted if number < self.forward_end)
        for history in templates:
            read.update(self.number_of(value) for value in history._kept)
        kept: set[int] = set()
        waiting = list(read)
        while waiting:
            number = waiting.pop()
            step = self.steps[number]
            if number in self.numbers or number in kept:
                continue
            if step is None or number == result or not _is_cheap(step):
                kept.add(number)
            else:
                waiting += step.places
        return sorted(kept)

    def _unfolding(self, kept: list[int], templates: Sequence[History], result: int) -> Any:
        """What turns kept values into tensors with the histories that they would have had."""
        held = {self.number_of(value) for history in templates for value in history._kept}
        missing = sorted(held.difference(kept).difference(self.numbers))
        again, numbers, _ = self.cut(self.name, kept, missing)
        histories = self._histories(result)
        leaves = {leaf: place for place, leaf in enumerate(self.leaves) if leaf is not None}
        plans = [
            (template, [self.number_of(value) for value in template._kept])
            for template in templates
        ]
        constants = self.numbers

        def unfold(history: History, values: Sequence[Value], _: Any) -> list[Tensor]:
            known = dict(zip(kept, values, strict=True)) | constants
            if missing:
                made = recorder().put(again, [*values, *numbers], history.line, history.name)
                known.update(zip(missing, made, strict=True))
            real: dict[History, Any] = {
                leaf: history.inputs[place] for leaf, place in leaves.items()
            }
            for template, numbers_kept in plans:
                inputs = tuple([None if one is None else real[one] for one in template.inputs])
                copied = [known[number] for number in numbers_kept]
                real[template] = template.like(inputs, copied)
            if self_edge is not None:
                real[self_edge] = history
            return [
                wrap(value, real.get(histories.get(number)))  # type: ignore[arg-type]
                for number, value in zip(kept, values, strict=True)
            ]

        self_edge = self.edge
        return unfold

    def _histories(self, result: int) -> dict[int, History]:
        """The history of every number on the way from the operands to the result."""
        found: dict[int, History] = {}
        waiting: list[tuple[int, History]] = []
        if self.edge is not None:
            waiting.append((result, self.edge))
        while waiting:
            number, history = waiting.pop()
            if number in found:
                continue
            found[number] = history
            operands = self.read.get(number, ())
            if isinstance(history._backward, GradientFunction):
                operands = [self.number_of(value) for value in history._kept[1:]]
            if len(operands) >= len(history.inputs):  # a composite reads numbers after its tensors
                pairs = zip(operands, history.inputs, strict=False)
                waiting += [(place, one) for place, one in pairs if one is not None]
        return found

    def _templates(self, edge: History) -> list[History]:
        """The histories from `edge` back to the operands, in the order in which they were made.

        Raises:
            TraceError: one of them is a Python function or has a hook, which cannot be copied, or
                belongs to a tensor that is no operand.
        """
        found: list[History] = []
        seen: set[History] = {leaf for leaf in self.leaves if leaf is not None}
        waiting = [edge]
        while waiting:
            history = waiting.pop()
            if history in seen:
                continue
            seen.add(history)
            found.append(history)
            if isinstance(history, Leaf):
                raise TraceError(f"[{self.name}] makes a tensor that gathers a gradient")
            if history.hooks or history.keepers:
                raise TraceError(f"[{self.name}] observes a gradient on the way")
            if not isinstance(history._backward, (Backward, GradientFunction)) and history.inputs:
                raise TraceError(f"[{self.name}] has a gradient that is a Python function")
            waiting += [one for one in history.inputs if one is not None]
        return sorted(found, key=lambda history: history.serial)


def _is_cheap(step: Step) -> bool:
    """Whether doing a step again costs less than keeping what it made."""
    primitive = step.primitive
    return primitive is None or primitive.kind is Movement or primitive is ops.iota


def _accumulate_nothing(leaf: Leaf, cotangent: Any) -> None:
    raise AssertionError("a trace asks for its cotangents")
