"""Calls of several results on tensors, and their histories.

Comes in: a primitive of several results, tensors. Goes out: a tensor for each result. Guaranteed:
the results share one history, which is walked once, when the cotangents of all of them have come; a
loop that is differentiated keeps what its way back reads, so that nothing runs twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from avalon import ops
from avalon.differentiation import Parts, differentiated, scan_gradient
from avalon.graph.primitive import Primitive
from avalon.tensor.core import Tensor, method, wrap
from avalon.tracing.history import History
from avalon.tracing.modes import modes
from avalon.tracing.values import Value, recorder

# (cotangents of the results, operands, kept results) -> cotangents of the operands
Rule = Callable[[Parts, Sequence[Any], Sequence[Any]], Sequence[Any]]


class _Kind:
    """The shape and dtype that a history shows."""

    def __init__(self, like: Any) -> None:
        self.shape = like.shape
        self.dtype = like.dtype


class CallHistory(History):
    """The history of a call of several results; `operands` and `results` are values."""

    __slots__ = ("operands", "results", "rule")

    def __init__(
        self,
        name: str,
        inputs: tuple[History | None, ...],
        operands: Sequence[Value],
        results: Sequence[Value],
        rule: Rule,
    ) -> None:
        super().__init__(name, inputs, _Kind(results[0]))
        self.operands: Sequence[Value] = operands
        self.results: Sequence[Value] = results
        self.once = True
        self._backward = rule

    def back(self, cotangent: Any, wrap: Callable[..., Any], differentiable: bool) -> Sequence[Any]:
        rule = self._backward
        if rule is None:
            return super().back(cotangent, wrap, differentiable)
        operands: Sequence[Any] = self.operands
        results: Sequence[Any] = self.results
        if differentiable:
            edges = zip(operands, self.inputs, strict=True)
            operands = [wrap(value, edge) for value, edge in edges]
            results = [
                wrap(value, ResultHistory(self, index, value))
                if value.dtype.is_floating_point
                else wrap(value, None)
                for index, value in enumerate(results)
            ]
        return rule(cotangent, operands, results)

    def release(self) -> None:
        super().release()
        self.operands = self.results = ()


class ResultHistory(History):
    """The history of one of the results."""

    __slots__ = ("index",)

    def __init__(self, call: CallHistory, index: int, like: Any) -> None:
        super().__init__(call.name, (call,), like)
        self.index = index

    def back(self, cotangent: Any, wrap: Callable[..., Any], differentiable: bool) -> Sequence[Any]:
        return [Parts({self.index: cotangent})]


@method("apply_several")
def apply_several(
    self: Tensor, primitive: Primitive, operands: tuple[Any, ...], parameters: dict[str, Any]
) -> tuple[Tensor, ...]:
    """Record a call of several results on tensors."""
    values = tuple([operand.value() for operand in operands])
    if modes.body is not None:
        modes.body.meet(operands, values)
    edges: tuple[History | None, ...] = (None,) * len(operands)
    if modes.grad and not primitive.no_gradient_reason:
        edges = tuple([operand._edge() for operand in operands])
        if recorder().updated:
            recorder().flush()
    wanted = tuple(
        edge is not None and not edge.ends and value.dtype.is_floating_point
        for edge, value in zip(edges, values, strict=True)
    )
    if not any(wanted):
        made = values[0].apply_several(primitive, values, parameters)
        return tuple([wrap(value, None) for value in made])
    results, rule = _differentiable(primitive, values, parameters, wanted)
    history = CallHistory(primitive.name, edges, values, results, rule)
    given = len(primitive.rules["results"](*values, **parameters))
    return tuple(
        [
            wrap(value, ResultHistory(history, i, value) if value.dtype.is_floating_point else None)
            for i, value in enumerate(results[:given])
        ]
    )


def _differentiable(
    primitive: Primitive,
    values: Sequence[Value],
    parameters: dict[str, Any],
    wanted: tuple[bool, ...],
) -> tuple[Sequence[Value], Rule]:
    """Record the call so that it can be differentiated: its results, which may be followed by more
    that are kept for it, and its gradient.
    """
    if primitive is not ops.scan:

        def by_declaration(g: Parts, operands: Sequence[Any], results: Sequence[Any]) -> Any:
            return primitive.cotangents(g, None, operands, parameters)

        return values[0].apply_several(primitive, tuple(values), parameters), by_declaration

    halves = differentiated(parameters["body"], values, parameters, wanted)
    extended = parameters | {"body": halves.forward}
    made = values[0].apply_several(primitive, tuple(values), extended)
    count = len(made) - len(halves.kept)

    def of_scan(g: Parts, operands: Sequence[Any], results: Sequence[Any]) -> Any:
        if any(index >= count for index in g):  # what is kept was differentiated itself
            return scan_gradient(g, None, *operands, **extended)
        cotangents = [g.get(index) for index in range(count)]
        return halves.back(cotangents, operands, results[count:], parameters.get("reverse", False))

    return made, of_scan
