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

from avalon.dtype import DType
from avalon.errors import TraceError
from avalon.shape import Shape
from avalon.tensor.cell import moves_along
from avalon.tensor.core import Tensor
from avalon.tensor.creation import get_default_dtype
from avalon.tensor.gradient_sketch import GradientSketch
from avalon.tensor.sized_trace import Form
from avalon.tracing.backward import Backward
from avalon.tracing.history import History
from avalon.tracing.joining import Joining
from avalon.tracing.modes import modes, set_grad_enabled
from avalon.tracing.operation import Operation, on_moved
from avalon.tracing.recorded import note_behind, user_place
from avalon.tracing.values import Recorder, Value, recorder, recording_into

Function = TypeVar("Function", bound=Callable[..., Any])

_CAPACITY = 2_000  # traces of one function
_FORBIDDEN = "[composite] a function that is being traced looks at a tensor's value"


class Composite:
    """A function that is recorded as one entry, with its traces by case."""

    __slots__ = ("_forms", "_function", "_name", "traces")

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name = name
        self._function = function
        self._forms: dict[Any, Form] = {}
        self.traces: dict[Any, Trace | None] = {}

    def trace(
        self,
        key: Any,
        arguments: Sequence[Any],
        named: dict[str, Any],
        edges: Sequence[History | None],
    ) -> Trace | None:
        """The trace of a call; None if it cannot be traced. `key` says all of the call but values:
        equal keys mean the same trace.
        """
        try:
            return self.traces[key]
        except KeyError:
            if len(self.traces) >= _CAPACITY:
                self.traces.clear()
                self._forms.clear()
            case = _Case(self._name, self._function, arguments, named, edges)
            found = self.traces[key] = case.trace(self._forms)
            return found
        except TypeError:  # an argument that has no hash
            return None


def is_tracing() -> bool:
    """True inside the trace of a composite function, where calls of others are part of it."""
    return modes.replay is _FORBIDDEN


def composite(function: Function) -> Function:
    """Record calls of `function` as one entry. It must give one tensor, or several of which only
    the first has a gradient, write to none, and draw no random numbers.
    """
    known = Composite(function.__name__, function)
    trace_of = known.trace

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
        trace = trace_of(tuple(key), arguments, named, edges)
        if trace is None:
            return function(*arguments, **named)
        return trace.record(operands, edges)

    recorded.traces = known.traces  # type: ignore[attr-defined]
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
        note: what is noted for the entry, or for each of its steps.
        forward: puts out the results and, after them, what the gradient reads of what lies between.
        numbers: Python numbers that take part, operands of `forward` after the tensors.
        backward: the gradient, or None.
        strides: how each result lies, if not contiguous.
        several: the results come as a tuple.
    """

    __slots__ = ("backward", "forward", "name", "note", "numbers", "several", "strides")

    def __init__(
        self,
        name: str,
        note: str,
        forward: Operation,
        numbers: Sequence[Value],
        backward: Backward | None,
        strides: list[Any],
        several: bool,
    ) -> None:
        self.name = name
        self.note = note
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
        along = () if backward else [x._moves and moves_along(x) for x in operands]
        if True in along:
            forward, values, others = self._on_moved(operands, along)
            note = note_behind(self.note, len(forward.steps) - len(self.forward.steps))
        else:
            forward, others, note = self.forward, list(self.numbers), self.note
            values = [
                cell.value
                if (cell := operand._cell).memory is None and not operand._moves
                else operand.value()
                for operand in operands
            ]
        if modes.body is not None:
            modes.body.meet(operands, values)
        line = user_place()
        made = here.put(forward, [*values, *others], line, note)
        result = Tensor._make(made[0])
        if backward is not None:
            count = len(values)
            kept = [
                values[place] if place < count else made[place - count] for place in backward.keep
            ]
            result._history = History(self.name, tuple(edges), made[0], backward, kept, line)
            if backward.may_keep_less:
                Joining.note(here, result._history, [*values, *self.numbers])
        if self.strides[0] is not None:
            result._set_strides(self.strides[0])
        if not self.several:
            return result
        further = [Tensor._make(value) for value in made[1 : len(self.strides)]]
        for other, strides in zip(further, self.strides[1:], strict=True):
            if strides is not None:
                other._set_strides(strides)
        return (result, *further)

    def _on_moved(
        self, operands: Sequence[Tensor], along: Sequence[Any]
    ) -> tuple[Operation, list[Value], list[Value]]:
        """The entry that does the movements of some views along, what it reads in the place of the
        operands, and besides.
        """
        values: list[Value] = []
        others = list(self.numbers)
        links = []
        for operand, goes_along in zip(operands, along, strict=True):
            moves = operand._moves if goes_along is True else ()
            values.append(operand._cell.value if moves else operand.value())
            links.append(tuple([move.operation for move in moves]))
            for move in moves:
                others += move.operands
        return on_moved(self.forward, tuple(links)), values, others

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
                sketch = GradientSketch(
                    name, own, results[0], [x._cell.value for x in stand_ins],
                    [x._leaf for x in stand_ins],
                )  # fmt: skip
                forward, numbers, backward = sketch.operations([one.value() for one in results])
                if sketch.once:
                    return None
                strides = [one._strides for one in results]
                return Trace(
                    name, sketch.note, forward, numbers, backward, strides, type(result) is tuple
                )
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
