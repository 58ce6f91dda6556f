"""Gradient history: what a tensor remembers of how it was made, and the walk back over it.

Comes in: calls recorded on tensors that need gradients. Goes out: cotangents of leaves and of
asked-for histories. Guaranteed: a history keeps only the values that its gradient reads, as they
were when forward read them; the walk is iterative, in the reverse order of recording, so that sums
of cotangents have one order; a history that was walked without `retain_graph` gives its values back
and says so when it is walked again.
"""

from __future__ import annotations

import heapq
import itertools
import weakref
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from avalon import ops
from avalon.differentiation import accumulate as add_to
from avalon.dtype import DType
from avalon.errors import AutogradError
from avalon.shape import Shape
from avalon.tracing.backward import Backward, backward_of
from avalon.tracing.modes import modes
from avalon.tracing.operation import Operation, sum_of
from avalon.tracing.recorded import Line, user_place
from avalon.tracing.values import Value, recorder

_serial = itertools.count()
_SMALL = 1 << 16  # bytes
Hook = Callable[[Any], Any]


class History:
    """How one value was made. Also what `tensor.grad_fn` shows.

    Attributes:
        inputs: histories of the operands (None: no gradient goes there).
        shape, dtype: of the value.
        hooks: functions called with the value's cotangent, in order; a result replaces it.
        keepers: tensors that asked to keep this cotangent as their `.grad`.
        ends: cotangents get lost here, as they do in PyTorch at a view that was made in `no_grad`.
        line: where it was recorded.
        once: walked once, it cannot be walked again (PyTorch's rule for writes to views).
    """

    __slots__ = (
        "__weakref__", "_backward", "_kept", "dtype", "ends", "hooks", "inputs", "keepers", "line",
        "name", "once", "serial", "shape",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        inputs: tuple[History | None, ...],
        like: Any,
        backward: Any = None,
        kept: Sequence[Value | None] = (),
        line: Line = None,
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.shape: Shape = like.shape
        self.dtype: DType = like.dtype
        self.serial = next(_serial)
        self.hooks: dict[int, Hook] | None = None
        self.keepers: list[weakref.ref[Any]] | None = None
        self.once = False
        self.ends = False
        self.line = line
        self._backward = backward
        self._kept: Any = kept

    @staticmethod
    def of_call(
        operation: Operation,
        operands: Sequence[Any],
        values: Sequence[Value | None],
        inputs: tuple[History | None, ...],
        result: Any,
        value: Value | None,
        line: Line = None,
    ) -> History | None:
        """The history of a call of one primitive; `operands` and `result` say shapes and dtypes,
        `values` and `value` what may have to be kept.
        """
        needed = tuple([history is not None and not history.ends for history in inputs])
        if True not in needed:
            return History._lost(operation, result)
        backward = backward_of(operation, operands, needed)
        if backward is None:
            return None
        kept: Sequence[Value | None] = ()
        if backward.keep:
            count = len(inputs)
            kept = [values[place] if place < count else value for place in backward.keep]
        return History(operation.name, inputs, result, backward, kept, line)

    @staticmethod
    def _lost(operation: Operation, result: Any) -> History | None:
        """The history of a call on operands at which cotangents get lost."""
        primitive = operation.steps[0].primitive
        if primitive is None or primitive.no_gradient_reason:
            return None
        lost = History.of_function(operation.name, (), result, lambda g: ())
        # promotion and broadcasting are part of the operation that they serve
        lost.ends = primitive is ops.cast or primitive is ops.broadcast
        return lost

    @staticmethod
    def of_function(
        name: str,
        inputs: tuple[History | None, ...],
        result: Any,
        function: Callable[[Any], Sequence[Any]],
    ) -> History:
        """A history whose gradient is a Python function of tensors: cotangent -> cotangents."""
        return History(name, inputs, result, function)

    def like(self, inputs: tuple[History | None, ...], kept: Sequence[Value]) -> History:
        """The same history of other operands."""
        made = History(self.name, inputs, self, self._backward, kept, self.line)
        made.once, made.ends = self.once, self.ends
        return made

    def __repr__(self) -> str:
        return f"<{self.name} backward>"

    @property
    def next_functions(self) -> tuple[tuple[History | None, int], ...]:
        """The operands' histories, in PyTorch's form."""
        return tuple((history, 0) for history in self.inputs)

    def back(self, cotangent: Any, wrap: Callable[..., Any], differentiable: bool) -> Sequence[Any]:
        """The cotangents of the operands: values, or tensors if `differentiable`."""
        backward = self._backward
        if backward is None:
            raise AutogradError(
                f"[backward] Trying to backward through the graph a second time (at {self.name}): "
                "the values that it saved were freed by the first time. Specify retain_graph=True "
                "if you need to backward through the graph a second time."
            )
        if isinstance(backward, Backward):
            if differentiable:
                return backward.differentiate(self, cotangent, self._kept, wrap)
            return backward.record(cotangent, self._kept, self.line)
        given = cotangent if differentiable else wrap(cotangent, None)
        if type(backward) is GradientFunction:
            made = backward.apply(self, given, self._kept, wrap, differentiable)
        else:
            made = backward(given)
        return made if differentiable else [x if x is None else x.value() for x in made]

    def keep(self, tensor: Any) -> None:
        """Let `tensor` have this cotangent as its `.grad`."""
        self.keepers = [*(self.keepers or ()), weakref.ref(tensor)]

    def keeps(self, tensor: Any) -> bool:
        """True if `tensor` will get this cotangent."""
        return any(keeper() is tensor for keeper in self.keepers or ())

    def forget(self, tensor: Any) -> bool:
        """Undo `keep`; True if there was something to undo."""
        found = self.keeps(tensor)
        if found:
            self.keepers = [keeper for keeper in self.keepers or () if keeper() is not tensor]
        return found

    def holds_values(self) -> bool:
        """Whether a walk from here would read a kept value, or call a function that might.

        A history that was walked holds none: a loss after its `backward()`.
        """
        seen: set[History] = set()
        pending: list[History] = [self]
        while pending:
            history = pending.pop()
            backward = history._backward
            if backward is not None and getattr(backward, "releases", True):
                return True
            for operand in history.inputs:
                if operand is not None and operand not in seen:
                    seen.add(operand)
                    pending.append(operand)
        return False

    def release(self) -> None:
        """Give back what was kept. What kept nothing can be walked again, as in PyTorch."""
        if self.once or getattr(self._backward, "releases", False):
            self._backward = self._kept = None


class GradientFunction:
    """A gradient that is a function of tensors: (cotangent, result, *operands) -> cotangents."""

    __slots__ = ("function",)
    releases = True

    def __init__(self, function: Callable[..., Sequence[Any]]) -> None:
        self.function = function

    def apply(
        self,
        history: History,
        cotangent: Any,
        kept: Sequence[Value],
        wrap: Callable[..., Any],
        differentiable: bool,
    ) -> list[Any]:
        """The cotangents of the operands; `kept` are the result and the operands."""
        edges = (history, *history.inputs) if differentiable else (None,) * len(kept)
        y, *operands = [wrap(value, edge) for value, edge in zip(kept, edges, strict=True)]
        found = self.function(cotangent, y, *operands)
        return [
            None if edge is None else one for one, edge in zip(found, history.inputs, strict=True)
        ]


class Leaf(History):
    """The history of a tensor that gathers its own gradient."""

    __slots__ = ("is_small", "tensor")

    def __init__(self, tensor: Any) -> None:
        super().__init__("accumulate", (), tensor)
        self.tensor = weakref.ref(tensor)
        # whether its cotangents may wait for one another, to be added at the end
        self.is_small = prod(self.shape) * self.dtype.itemsize <= _SMALL


def backward(
    roots: Sequence[tuple[History, Any]],
    *,
    wrap: Callable[..., Any],
    accumulate: Callable[[Leaf, Any], None],
    retain: bool,
    differentiable: bool,
    wanted: Sequence[History] | None = None,
    stop: bool = False,
) -> dict[int, Any]:
    """Walk back from `roots`, pairs of a history and its cotangent.

    Leaves get theirs through `accumulate`, unless `wanted` names the histories whose cotangents are
    asked for; the result has those, by the history's `serial`. They get them at the end: a walk
    that fails adds nothing to any of them. With `stop` the walk ends at whatever is wanted, before
    its hooks.

    Raises:
        AutogradError: a history on the way was freed by an earlier walk.
    """
    recorder().graded = True
    cotangents: dict[int, Any] = {}
    waiting: list[tuple[int, History]] = []
    asked = None if wanted is None else {history.serial for history in wanted}
    useful = None if wanted is None else _leading_to(roots, asked or set())
    found: dict[int, Any] = {}
    gathered: list[tuple[Leaf, Any]] = []
    together = not differentiable and modes.replay is None  # small cotangents are added at the end

    def send(history: History, cotangent: Any) -> None:
        serial = history.serial
        before = cotangents.get(serial)
        if before is None:
            heapq.heappush(waiting, (-serial, history))
        if together and type(history) is Leaf and history.is_small:
            if before is None:
                cotangents[serial] = [cotangent]
            else:
                before.append(cotangent)
        elif before is None:
            cotangents[serial] = cotangent
        else:
            cotangents[serial] = add_to(before, cotangent)

    for history, cotangent in roots:
        send(history, cotangent)
    while waiting:
        _, history = heapq.heappop(waiting)
        cotangent = cotangents.pop(history.serial)
        if type(cotangent) is list:
            cotangent = _sum(cotangent)
        if stop and asked is not None and history.serial in asked:
            found[history.serial] = cotangent
            continue
        # as in PyTorch, who asks for a cotangent in the middle gets it as it was before the hooks
        ends = useful is not None and not _leads_on(history, useful)
        if asked is not None and not ends and history.serial in asked:
            found[history.serial] = cotangent
        if history.hooks or history.keepers:
            cotangent = _observe(history, cotangent, wrap, differentiable)
        if ends:
            if asked is not None and history.serial in asked:
                found[history.serial] = cotangent
            continue
        if isinstance(history, Leaf):
            gathered.append((history, cotangent))
            continue
        inputs = history.inputs  # held, so that nothing is joined while it is walked
        made = history.back(cotangent, wrap, differentiable)
        if not retain:
            history.release()
        for source, one in zip(inputs, made, strict=True):
            if (
                source is not None
                and one is not None
                and (useful is None or source.serial in useful)
            ):
                send(source, one)
    for leaf, cotangent in gathered:
        accumulate(leaf, cotangent)
    return found


def _sum(cotangents: list[Value]) -> Value:
    """The sum as `add_to` makes it one by one, in one entry."""
    if len(cotangents) == 1:
        return cotangents[0]
    operation = sum_of(len(cotangents), cotangents[0].shape, cotangents[0].dtype)
    return recorder().put(operation, cotangents, user_place())[0]


def _leads_on(history: History, useful: set[int]) -> bool:
    return any(source is not None and source.serial in useful for source in history.inputs)


def _observe(
    history: History, cotangent: Any, wrap: Callable[..., Any], differentiable: bool
) -> Any:
    """Call the hooks, then let the keepers have the result."""
    tensor = cotangent if differentiable else wrap(cotangent, None)
    for hook in list((history.hooks or {}).values()):
        changed = hook(tensor)
        if changed is not None:
            if changed.shape != tensor.shape:
                raise AutogradError(
                    f"[hook] returned a gradient of shape {changed.shape} for one of {tensor.shape}"
                )
            tensor = changed
    for reference in history.keepers or ():
        keeper = reference()
        if keeper is not None:
            keeper._keep_gradient(tensor, history)
    return tensor if differentiable else tensor.value()


def _leading_to(roots: Sequence[tuple[History, Any]], asked: set[int]) -> set[int]:
    """Serials of the histories between `roots` and those asked for, both included."""
    order: list[History] = []
    seen: set[int] = set()
    waiting = [history for history, _ in roots]
    while waiting:
        history = waiting.pop()
        if history.serial not in seen:
            seen.add(history.serial)
            order.append(history)
            waiting.extend(source for source in history.inputs if source is not None)
    useful = set(asked)
    for history in sorted(order, key=lambda made: made.serial):
        if any(source is not None and source.serial in useful for source in history.inputs):
            useful.add(history.serial)
    return useful


def next_hook_number() -> int:
    """A number for a hook, by which it can be removed."""
    return next(_serial)


def grad_enabled() -> bool:
    """True where operations on this thread record history."""
    return modes.grad
