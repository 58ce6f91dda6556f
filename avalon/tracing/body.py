"""Recording the body of a loop or of a branch: calls on stand-ins become a graph of their own.

Comes in: shapes and dtypes of what the body takes, a function that records. Goes out: a `Body`, and
the values from outside that it reads, which are handed to it as further operands. Guaranteed:
nothing of the body is left in the thread's own recorder; a body neither reads a value while it is
recorded nor writes to a tensor from outside, and says so at the user's line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType
from typing import Any

from avalon.dtype import DType
from avalon.errors import TraceError
from avalon.graph.body import Body
from avalon.shape import Shape
from avalon.tracing.modes import Scope
from avalon.tracing.operation import input_of
from avalon.tracing.recorded import user_line
from avalon.tracing.values import Recorder, Value, recorder, set_recorder


class BodyRecorder(Recorder):
    """Records a body.

    Attributes:
        captured: the values from outside that the body reads, in the order in which it met them.
        met: what they were the values of, by the value's id.
    """

    def __init__(self, name: str, outer: Recorder) -> None:
        super().__init__()
        self.title = name
        self.outer = outer
        self.captured: list[Value] = []
        self.met: dict[int, Any] = {}

    def stand_in(self, shape: Shape, dtype: DType) -> Value:
        """A value that the body is handed."""
        return self.put(input_of(shape, dtype, False), (), None)[0]

    def admit(self, value: Value) -> None:
        """A value that is pending outside is read when the body runs."""
        owner: Any = self.outer
        while owner is not None and owner is not value.recorder:
            owner = getattr(owner, "outer", None)
        if owner is None:
            value.force()

    def enter(self, value: Value) -> int:
        found = self.entered.get(id(value))
        if found is None:
            found = self.entered[id(value)] = self.count
            self.count += 1
            self.recorded.key.append(input_of(value.shape, value.dtype, False))
            self.recorded.lines.append((None, ""))
            self.captured.append(value)
            self.holders.append(value)
        return found

    def position(self, value: Value) -> int:
        """Where a value stands in the body, captured if it is from outside."""
        return value.position if value.recorder is self else self.enter(value)

    def flush(self) -> None:
        line = user_line()
        where = f" Asked at {line[0]}:{line[1]}." if line else ""
        raise TraceError(
            f"[{self.title}] the body is recorded once for all rounds, so a tensor in it has no "
            "value yet: no .item(), print, bool or if on one. Choose between values with av.where "
            f"or av.cond, and give out what you want to look at as a result.{where}"
        )

    def bound(self) -> None:
        """A body waits for as long as it takes."""

    def come_round(self, line: tuple[CodeType, int]) -> None:
        """A loop in a body is part of it."""

    def meet(self, tensors: Sequence[Any], values: Sequence[Value]) -> None:
        """Remember which tensors the values from outside belong to."""
        for tensor, value in zip(tensors, values, strict=True):
            if value.recorder is not self:
                self.met.setdefault(id(value), tensor)

    def refuse_write(self, value: Value) -> None:
        """Raise if `value`, which is about to be replaced, is not of this body."""
        if value.recorder is not self:
            line = user_line()
            where = f" Written at {line[0]}:{line[1]}." if line else ""
            raise TraceError(
                f"[{self.title}] the body writes to a tensor from outside; it is recorded once and "
                f"cannot leave anything behind. Carry the tensor instead.{where}"
            )

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Record where the body itself was called."""
        before = recorder()
        body = getattr(self.outer, "as_body", None)
        set_recorder(self.outer)
        try:
            with Scope(body=body):
                yield
        finally:
            set_recorder(before)

    @property
    def as_body(self) -> BodyRecorder:
        """This recorder, as what `modes.body` holds."""
        return self


def trace(
    name: str,
    kinds: Sequence[tuple[Shape, DType]],
    function: Callable[[list[Value]], Sequence[Value]],
) -> tuple[Body, BodyRecorder]:
    """Record `function` on stand-ins of these shapes and dtypes; the body takes them first, then
    the captured values.
    """
    outer = recorder()
    inner = BodyRecorder(name, outer)
    set_recorder(inner)
    try:
        with Scope(grad=False, eager=False, body=inner):
            outputs = function([inner.stand_in(shape, dtype) for shape, dtype in kinds])
            places = [inner.position(value) for value in outputs]
    finally:
        set_recorder(outer)
    graph, nodes = inner.recorded.build()
    graph.name = name
    graph.outputs = [nodes[place] for place in places]
    return Body(graph), inner
