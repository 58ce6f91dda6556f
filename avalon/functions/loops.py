"""Loops over tensors whose bodies are recorded once: what `av.scan` and the recurrent layers use.

Comes in: a function of tensors, carried tensors, sequences. Goes out: the last carried tensors and
stacked results. Guaranteed: nothing unrolls: the function is recorded once, whatever the length;
the tensors from outside that it reads are found and get their gradients; draws of random numbers
are new in every round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from avalon import dtype as dtypes, ops
from avalon.dtype import DType
from avalon.errors import TraceError
from avalon.functions.support import broadcast, iota
from avalon.graph.body import Body
from avalon.graph.graph import Graph
from avalon.random import Counter
from avalon.shape import Shape
from avalon.tensor import Tensor, wrap
from avalon.tracing.body import trace

Function = Callable[..., Sequence[Tensor]]


class Traced(NamedTuple):
    """A recorded body and the tensors from outside that it takes behind its own operands."""

    body: Body
    captured: list[Tensor]


def trace_body(name: str, kinds: Sequence[tuple[Shape, DType]], function: Function) -> Traced:
    """Record a function of tensors of these shapes and dtypes, which returns tensors."""
    body, recorder = trace(
        name,
        kinds,
        lambda values: [made.value() for made in function(*[wrap(v, None) for v in values])],
    )
    met = recorder.met
    captured = [met[id(v)] if id(v) in met else wrap(v, None) for v in recorder.captured]
    return Traced(body, captured)


def run_scan(
    traced: Traced,
    carries: Sequence[Tensor],
    sequences: Sequence[Tensor],
    length: int,
    reverse: bool = False,
) -> tuple[Tensor, ...]:
    """Run a recorded body."""
    body, captured = _fresh_draws(traced, len(carries) + len(sequences), length)
    more = len(captured.moving)
    operands = [*carries, *sequences, *captured.moving, *captured.fixed]
    if not operands:
        raise TraceError("[scan] a loop without carried values and sequences computes nothing")
    made: tuple[Tensor, ...] = ops.scan(
        *operands,
        body=body,
        carries=len(carries),
        sequences=len(sequences) + more,
        length=None if sequences or more else length,
        reverse=reverse,
    )
    return made


class _Captured(NamedTuple):
    """What a body takes from outside: sequences, and what is the same in every round."""

    moving: list[Tensor]
    fixed: list[Tensor]


def _fresh_draws(traced: Traced, own: int, length: int) -> tuple[Body, _Captured]:
    """Let the first counter of each draw in the body move on from round to round, by as much as all
    draws of a round take.
    """
    places = draws(traced.captured)
    if not places:
        return traced.body, _Captured([], traced.captured)
    moving = []
    offsets: list[Any] = [traced.captured[place].value().number for place in places]
    streams = {id(offset.generator): offset.generator for offset in offsets}
    used = {
        key: stream.offset - min(int(o) for o in offsets if o.generator is stream)
        for key, stream in streams.items()
    }
    rounds = ops.cast(iota((length,), 0), dtype=dtypes.uint64)
    for place, offset in zip(places, offsets, strict=True):
        first = broadcast(traced.captured[place], (length,))
        step = rounds.constant(used[id(offset.generator)])
        moving.append(ops.add(first, ops.multiply(rounds, step)))
    for key, stream in streams.items():
        stream.offset += used[key] * max(length - 1, 0)
    graph = traced.body.graph.copy()
    first_inputs, captured = graph.inputs[:own], graph.inputs[own:]
    graph.inputs = [  # the order in which operands are handed over
        *first_inputs,
        *(captured[k] for k in places),
        *(node for k, node in enumerate(captured) if k not in places),
    ]
    fixed = [one for k, one in enumerate(traced.captured) if k not in places]
    return Body(in_order(graph)), _Captured(moving, fixed)


def in_order(graph: Graph) -> Graph:
    """The graph with its input nodes in the order of its list of inputs."""
    made = Graph(graph.name)
    inputs = [made.input(node.shape, node.dtype, node.name) for node in graph.inputs]
    made.outputs = made.inline(graph, inputs)
    return made


def draws(captured: Sequence[Tensor]) -> list[int]:
    """The places of tensors that are the first counter of a draw of random numbers."""
    return [
        place
        for place, one in enumerate(captured)
        if not one._moves
        and isinstance(one._cell.value.number, Counter)
        and not one._cell.value.number.is_key
    ]
