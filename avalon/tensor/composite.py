"""Composite functions: recorded as one entry, whose steps were traced once.

Comes in: a function of tensors, written with ordinary operations. Goes out: the same function,
which runs in Python once for each combination of dtypes, needed gradients and other arguments (and
shapes, where `sized_trace` finds no formulas), and is one entry in the recorder from then on; its
gradient is one too. Guaranteed: values, bits, errors and gradients are those of the function
itself; what the gradient reads is kept, but for movements, which are done again; a function that
cannot be traced (it looks at values, or makes tensors from data) runs as it is.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from avalon import ops
from avalon.dtype import DType
from avalon.errors import TraceError
from avalon.graph.primitive import Movement
from avalon.shape import Shape
from avalon.tensor.core import Tensor, wrap
from avalon.tensor.creation import get_default_dtype
from avalon.tensor.sized_trace import Form
from avalon.tracing import history as walk
from avalon.tracing.backward import Backward
from avalon.tracing.history import GradientFunction, History, Leaf
from avalon.tracing.modes import modes, set_grad_enabled
from avalon.tracing.operation import Operation, Step
from avalon.tracing.recorded import user_place
from avalon.tracing.sketch import Sketch
from avalon.tracing.values import Recorder, Value, recorder, recording_into

Function = TypeVar("Function", bound=Callable[..., Any])

_CAPACITY = 2_000  # traces of one function
_FORBIDDEN = "[composite] a function that is being traced looks at a tensor's value"


def composite(function: Function) -> Function:
    """Record calls of `function` as one entry. It must give one tensor, or several of which only
    the first has a gradient, write to none, and draw no random numbers.
    """
    name = function.__name__
    traces: dict[Any, Trace | None] = {}
    forms: dict[Any, Form] = {}

    @functools.wraps(function)
    def recorded(*arguments: Any, **named: Any) -> Any:
        if modes.replay is _FORBIDDEN:  # part of another one's trace
            return function(*arguments, **named)
        operands: list[Tensor] = []
        edges: list[History | None] = []
        key: list[Any] = [get_default_dtype()]
        grad = modes.grad
        plain = not modes.eager
        for argument in (*arguments, *named, *named.values()) if named else arguments:
            if isinstance(argument, Tensor):
                edge = argument._edge() if grad else None
                if edge is not None and edge.ends:
                    plain = False
                operands.append(argument)
                edges.append(edge)
                key += (argument.shape, argument.dtype, argument._strides, edge is not None)
            elif type(argument) is float:
                key.append(argument.hex())
            else:
                key += (type(argument), argument)
        if not plain or not operands:
            return function(*arguments, **named)
        whole = tuple(key)
        try:
            trace = traces[whole]
        except KeyError:
            if len(traces) >= _CAPACITY:
                traces.clear()
                forms.clear()
            trace = traces[whole] = _Case(name, function, arguments, named, edges).trace(forms)
        except TypeError:  # an argument that has no hash
            trace = None
        if trace is None:
            return function(*arguments, **named)
        return trace.record(operands, edges)

    recorded.traces = traces  # type: ignore[attr-defined]
    return recorded  # type: ignore[return-value]


class _Operand(NamedTuple):
    """What a trace knows of an operand, besides its shape."""

    dtype: DType
    strides: Shape | None
    needed: bool  # its gradient


class _Case:
    """A call of a composite function, without the operands' values and shapes."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        arguments: Sequence[Any],
        named: dict[str, Any],
        edges: Sequence[History | None],
    ) -> None:
        self.name = name
        self.function = function
        self._shapes: list[Shape] = []
        left = iter(edges)

        def described(argument: Any) -> Any:
            if not isinstance(argument, Tensor):
                return argument
            self._shapes.append(argument.shape)
            return _Operand(argument.dtype, argument._strides, next(left) is not None)

        self.arguments = [described(argument) for argument in arguments]
        self.named = {key: described(argument) for key, argument in named.items()}

    def trace(self, forms: dict[Any, Form]) -> Trace | None:
        """The trace of this call, by formulas if calls of this form gave some."""
        given = [*self.arguments, *self.named.values()]
        if any(isinstance(one, _Operand) and one.strides is not None for one in given):
            return self(self._shapes)
        key = (
            get_default_dtype(), *self.named, *map(len, self._shapes),
            *[one.hex() if type(one) is float else (type(one), one) for one in given],
        )  # fmt: skip
        found: Trace | None = forms.setdefault(key, Form()).trace(self._shapes, self)
        return found

    def __call__(self, shapes: Sequence[Shape]) -> Trace | None:
        """The trace for operands of these shapes."""
        return Trace.of(self, shapes)


class Trace:
    """One traced case of a composite function.

    Attributes:
        forward: puts out the results and, after them, what the gradient reads of what lies between.
        numbers: Python numbers that take part, operands of `forward` after the tensors.
        backward: the gradient, or None.
        strides: how each result lies, if not contiguous.
        several: the results come as a tuple.
    """

    __slots__ = ("backward", "forward", "name", "numbers", "several", "strides")

    def __init__(
        self,
        name: str,
        forward: Operation,
        numbers: Sequence[Value],
        backward: Backward | None,
        strides: list[Any],
        several: bool,
    ) -> None:
        self.name = name
        self.forward = forward
        self.numbers = numbers
        self.backward = backward
        self.strides = strides
        self.several = several

    def record(self, operands: Sequence[Tensor], edges: Sequence[History | None]) -> Any:
        """One call, recorded."""
        here = recorder()
        backward = self.backward
        if backward is not None and here.updated:
            here.flush()
        values = [operand.value() for operand in operands]
        if modes.body is not None:
            modes.body.meet(operands, values)
        line = user_place()
        made = here.put(self.forward, [*values, *self.numbers], line, self.name)
        result = Tensor._make(made[0])
        if backward is not None:
            count = len(values)
            kept = [
                values[place] if place < count else made[place - count] for place in backward.keep
            ]
            result._history = History.of_backward(
                self.name, backward, kept, tuple(edges), made[0], line
            )
        if self.strides[0] is not None:
            result._set_strides(self.strides[0])
        if not self.several:
            return result
        others = [Tensor._make(value) for value in made[1 : len(self.strides)]]
        for other, strides in zip(others, self.strides[1:], strict=True):
            if strides is not None:
                other._set_strides(strides)
        return (result, *others)

    @staticmethod
    def of(case: _Case, shapes: Sequence[Shape]) -> Trace | None:
        """Trace a function; None if it cannot be traced. Its errors are the user's."""
        name, own = case.name, Recorder()
        stand_ins: list[Tensor] = []

        def stand_in(argument: Any) -> Any:
            if not isinstance(argument, _Operand):
                return argument
            made = Tensor._make(own.stand_in(shapes[len(stand_ins)], argument.dtype))
            made._strides = argument.strides
            made._requires = argument.needed
            stand_ins.append(made)
            return made

        operands = [*case.arguments, *case.named.values()]
        needed = any(isinstance(one, _Operand) and one.needed for one in operands)
        with recording_into(own, _FORBIDDEN), set_grad_enabled(needed):
            given = [stand_in(argument) for argument in case.arguments]
            given_named = {key: stand_in(argument) for key, argument in case.named.items()}
            try:
                with warnings.catch_warnings(record=True) as noticed:
                    warnings.simplefilter("always")
                    result = case.function(*given, **given_named)
                if noticed:
                    return None  # who warns, warns each time
                results = result if type(result) is tuple else (result,)
                if not results or not all(_is_fresh(one, stand_ins) for one in results):
                    return None
                if any(one._history is not None for one in results[1:]):
                    return None
                return _Tracing(name, own, stand_ins, results).finish(type(result) is tuple)
            except TraceError:
                return None


def _is_fresh(result: Any, operands: Sequence[Tensor]) -> bool:
    """Whether a result is a tensor of its own, not an operand or a view."""
    return (
        isinstance(result, Tensor)
        and type(result) is Tensor
        and result._base is None
        and not result._moves
        and all(result._cell.value is not operand._cell.value for operand in operands)
    )


class _Tracing(Sketch):
    """What a private recorder holds after the function ran: steps, cut into operations."""

    def __init__(
        self, name: str, own: Recorder, stand_ins: Sequence[Tensor], results: Sequence[Tensor]
    ) -> None:
        self.results = results
        result = results[0]
        self.stand_ins = stand_ins
        self.edge = result._history
        self.found: dict[int, Value] = {}
        end = own.count
        seed = own.stand_in(result.shape, result.dtype) if self.edge is not None else None
        if seed is not None and self.edge is not None:
            with set_grad_enabled(False):
                self.found = walk.backward(
                    [(self.edge, seed)], wrap=wrap, accumulate=_accumulate_nothing, retain=True,
                    differentiable=False,
                    wanted=[x._leaf for x in stand_ins if x._leaf is not None],
                )  # fmt: skip
        super().__init__(name, own)
        self.forward_end = len(self.steps) if seed is None else self.at[end]
        self.operands = [self.at[x._cell.value.position] for x in stand_ins]
        self.seed = None if seed is None else self.at[seed.position]

    def finish(self, several: bool) -> Trace:
        """The operations of forward and backward."""
        results = [self.at[one._cell.value.position] for one in self.results]
        result = results[0]
        templates = [] if self.edge is None else _templates(self.edge)
        kept = self._kept(result, templates)
        known = {*self.operands, *results}
        outputs = [*results, *[number for number in kept if number not in known]]
        forward, numbers, _ = self.cut(self.name, self.operands, outputs)
        strides = [one._strides for one in self.results]
        if self.edge is None:
            return Trace(self.name, forward, numbers, None, strides, several)
        count = len(self.operands)
        places = {number: count + place for place, number in enumerate(outputs)}
        places.update({number: place for place, number in enumerate(self.operands)})
        assert self.seed is not None
        wanted = [
            None
            if x._leaf is None or x._leaf.serial not in self.found
            else self.number_of(self.found[x._leaf.serial])
            for x in self.stand_ins
        ]
        given = [self.seed, *kept]
        name = f"gradient of {self.name}"
        operation, numbers_back, slots = self.cut(
            name, given, [n for n in dict.fromkeys(wanted) if n is not None and n not in given]
        )
        slot_of = {number: slot for slot, number in enumerate(given)} | slots
        backward = Backward(
            self.name,
            [places[number] for number in kept],
            operation if operation.outputs else None,
            [None if number is None else slot_of[number] for number in wanted],
            bool(kept),
            numbers_back,
            self._unfolding(kept, templates, result),
        )
        return Trace(self.name, forward, numbers, backward, strides, several)

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
        leaves = {x._leaf: place for place, x in enumerate(self.stand_ins) if x._leaf is not None}
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
            step = self.steps[number]
            pairs: list[tuple[int, History | None]] = []
            backward = history._backward
            if isinstance(backward, GradientFunction):
                operands = [self.number_of(value) for value in history._kept[1:]]
                pairs = list(zip(operands, history.inputs, strict=True))
            elif step is not None and len(step.places) == len(history.inputs):
                pairs = list(zip(step.places, history.inputs, strict=True))
            waiting += [(place, one) for place, one in pairs if one is not None]
        return found


def _is_cheap(step: Step) -> bool:
    """Whether doing a step again costs less than keeping what it made."""
    primitive = step.primitive
    return primitive is None or primitive.kind is Movement or primitive is ops.iota


def _accumulate_nothing(leaf: Leaf, cotangent: Any) -> None:
    raise AssertionError("a trace asks for its cotangents")


def _templates(edge: History) -> list[History]:
    """The histories from `edge` back to the operands, in the order in which they were made.

    Raises:
        TraceError: one of them is a Python function that cannot be copied.
    """
    found: list[History] = []
    seen: set[History] = set()
    waiting = [edge]
    while waiting:
        history = waiting.pop()
        if history in seen or isinstance(history, Leaf):
            continue
        seen.add(history)
        found.append(history)
        if not isinstance(history._backward, (Backward, GradientFunction)) and history.inputs:
            raise TraceError(_FORBIDDEN)
        waiting += [one for one in history.inputs if one is not None]
    return sorted(found, key=lambda history: history.serial)
