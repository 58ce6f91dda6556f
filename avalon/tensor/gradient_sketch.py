"""A recorded stretch with its gradient, cut into two operations: forward and backward.

Comes in: a recorder that holds the stretch, a tensor that it made, and what it read. Goes out: the
operation that computes its results and, after them, what the gradient reads; and the gradient as a
`Backward`. Guaranteed: the gradient's steps are those of a walk over the tensor's history, so the
bits are those of the stretch recorded call by call; movements are done again, not kept; gradients
of the gradient find the histories that the calls would have had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from avalon import ops
from avalon.errors import AutogradError, TraceError
from avalon.graph.primitive import Movement
from avalon.tensor.core import Tensor, wrap
from avalon.tracing import history as walk
from avalon.tracing.backward import Backward, Differentiate
from avalon.tracing.history import GradientFunction, History, Leaf
from avalon.tracing.modes import set_grad_enabled
from avalon.tracing.operation import Operation, Step
from avalon.tracing.recorded import Notes
from avalon.tracing.sketch import Sketch
from avalon.tracing.values import Recorder, Value, recorder

# (histories made anew by the serials of the trace's, the call's own, its cotangent, kept values)
# -> cotangents
Differentiated = Callable[[dict[int, Any], History, Any, Sequence[Value]], list[Any]]


class GradientSketch(Sketch):
    """What this thread's recorder holds after a function ran, and the walk back over it.

    Attributes:
        operands: the numbers of what was read.
        leaves: for each operand, the history that its cotangent goes to, or None.
        note: what to note on the forward operation, once it was cut.
        once: why the gradient has no gradient of its own, or "".
    """

    def __init__(
        self, name: str, own: Recorder, result: Tensor, operands: Sequence[Value],
        leaves: Sequence[History | None],
    ) -> None:  # fmt: skip
        """Record the walk from `result`, whose cotangent is an input of its own.

        Raises:
            TraceError: what was recorded reads memory that is no operand.
            DeclarationError: it draws random numbers whose counters are no operands.
        """
        self.leaves = leaves
        self.note = name
        self.once = ""
        self.edge = result._history
        self.found: dict[int, Value] = {}
        end = own.count
        seed = own.stand_in(result.shape, result.dtype) if self.edge is not None else None
        if seed is not None and self.edge is not None:
            with set_grad_enabled(False):
                self.found = walk.backward(
                    [(self.edge, seed)], wrap=wrap, accumulate=accumulate_nothing, retain=True,
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
            TraceError: a hook is to be called on the way, or a tensor that is no operand gathers a
                gradient.
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
        self.result = results[0]
        held = [places[number] for number in kept]
        backward = self._backward(kept, held, forward)
        again = self._again if not self.once else self._refusal
        backward.again = again(backward, kept, templates)
        return forward, numbers, backward

    def _backward(
        self, kept: Sequence[int], places: Sequence[int], forward: Operation
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
            forward=forward,
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
        for history in () if self.once else templates:
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

    def _again(
        self, made: Backward, kept: list[int], templates: Sequence[History]
    ) -> Differentiate:
        """How `made` is recorded on tensors: over the histories that the calls would have had, made
        anew from the kept values.
        """
        held = {self.number_of(value) for history in templates for value in history._kept}
        missing = sorted(held.difference(kept).difference(self.numbers))
        remade, numbers, _ = self.cut(self.name, kept, missing)
        leaves = {leaf.serial: place for place, leaf in enumerate(self.leaves) if leaf is not None}
        plans = [  # without the templates themselves, which a walk releases, or which hold values
            (
                template.serial,
                [one if one is None else one.serial for one in template.inputs],
                template.like((), ()),
                [self.number_of(value) for value in template._kept],
            )
            for template in templates
        ]
        constants = self.numbers
        differentiate = self._differentiated(made, kept)

        def again(
            history: History, cotangent: Any, values: Sequence[Value], wrap: Callable[..., Any]
        ) -> list[Any]:
            known = dict(zip(kept, values, strict=True)) | constants
            if missing:
                new = recorder().put(remade, [*values, *numbers], history.line, history.name)
                known.update(zip(missing, new, strict=True))
            real: dict[int, Any] = {leaf: history.inputs[place] for leaf, place in leaves.items()}
            for serial, sources, template, numbers_kept in plans:
                inputs = tuple([None if one is None else real[one] for one in sources])
                real[serial] = template.like(inputs, [known[number] for number in numbers_kept])
            return differentiate(real, history, cotangent, values)

        return again

    def _differentiated(self, made: Backward, kept: list[int]) -> Differentiated:
        """The cotangents, given the histories made anew: by the gradient's steps, on what is kept
        with the history that it has.
        """
        assert self.edge is not None
        histories = {number: one.serial for number, one in self._histories().items()}
        edge = self.edge.serial

        def differentiate(
            real: dict[int, Any], history: History, cotangent: Any, values: Sequence[Value]
        ) -> list[Any]:
            real[edge] = history
            tensors = [
                wrap(value, real.get(histories.get(number, -1)))
                for number, value in zip(kept, values, strict=True)
            ]
            return made.on_tensors(cotangent, tensors, wrap)

        return differentiate

    def _refusal(self, *_: Any) -> Differentiate:
        """What says why it cannot be recorded on tensors."""
        message = (
            f"[backward] the gradient of {self.name} cannot be differentiated: {self.once}. Call "
            "the function itself, not its compiled form, where you need gradients of gradients."
        )

        def refuse(*_: Any) -> Any:
            raise AutogradError(message)

        return refuse

    def _histories(self) -> dict[int, History]:
        """The history of every number on the way from the operands to the result."""
        found: dict[int, History] = {}
        waiting: list[tuple[int, History]] = []
        if self.edge is not None:
            waiting.append((self.result, self.edge))
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
            TraceError: one of them has a hook, or belongs to a tensor that is no operand.
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
                self.once = f"the gradient of {history.name} in it is a Python function"
            waiting += [one for one in history.inputs if one is not None]
        return sorted(found, key=lambda history: history.serial)


def _is_cheap(step: Step) -> bool:
    """Whether doing a step again costs less than keeping what it made."""
    primitive = step.primitive
    return primitive is None or primitive.kind is Movement or primitive is ops.iota


def accumulate_nothing(leaf: Leaf, cotangent: Any) -> None:
    """What a walk does at a leaf that nobody asked for: there is none."""
    raise AssertionError("a trace asks for its cotangents")
