"""Loops and branches: calls that hold graphs and have several results.

Comes in: bodies (graphs) as parameters, arrays as operands. Goes out: `scan`, `branch`, `repeat`,
and `result`, which picks one of the values of such a call. Guaranteed: what a body takes and gives
fits the operands; a body is compiled once, whatever the number of its rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from avalon import dtype as dtypes
from avalon.errors import GraphError, ShapeError
from avalon.graph.body import Body, Type
from avalon.graph.interpret import interpret
from avalon.graph.primitive import Structure, primitive
from avalon.ops import loop_samples as samples

_rules: dict[str, Callable[..., Any]] = {}


def differentiate_loops_by(**rules: Callable[..., Any]) -> None:
    """Hand over the gradient rules of `scan` and `branch`. They take bodies apart and differentiate
    them, which is the work of `differentiation`, which comes after the primitives.
    """
    _rules.update(rules)


@primitive(Structure, samples=samples.none)
def result(bundle, index):
    """Value number `index` of a call that has several."""
    return bundle[index]


@result.shape
def _(bundle, index):
    return bundle.results[index]


result.no_gradient("differentiation sees the call that it belongs to")
result.lowering("result")


@primitive(Structure, samples=samples.scans)
def scan(*operands, body, carries, sequences, length=None, reverse=False):
    """A loop over the first axis of some operands. The operands are, in order: `carries` initial
    values, `sequences` arrays of equal length, and what is the same in every round. The body takes
    the carried values, one element of each sequence and the rest, and gives the next carried values
    and elements of results. The results are the last carried values, then the stacked elements.
    `length` counts the rounds where there is no sequence; with `reverse` the last element comes
    first.
    """
    carried = list(operands[:carries])
    stacks = operands[carries : carries + sequences]
    rest = operands[carries + sequences :]
    kinds = body.outputs[carries:]
    count = stacks[0].shape[0] if stacks else length
    made = [np.zeros((count, *shape), dtype.reference) for shape, dtype in kinds]
    for place in reversed(range(count)) if reverse else range(count):
        found = interpret(body.graph, [*carried, *(x[place] for x in stacks), *rest])
        carried = found[:carries]
        for stack, one in zip(made, found[carries:], strict=True):
            stack[place] = one
    return (*carried, *made)


@scan.results
def _(
    *operands: Any,
    body: Body,
    carries: int,
    sequences: int,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[Type, ...]:
    kinds = [(x.shape, x.dtype) for x in operands]
    stacks = kinds[carries : carries + sequences]
    if any(not shape for shape, _ in stacks):
        raise ShapeError("[scan] a sequence must have at least one axis, the one that is walked")
    lengths = [shape[0] for shape, _ in stacks]
    count = lengths[0] if lengths else length
    if count is None or any(other != count for other in lengths):
        raise ShapeError(f"[scan] sequences must be equally long, got lengths {lengths}")
    given = [*kinds[:carries], *((shape[1:], t) for shape, t in stacks)]
    _must_fit("scan", body, [*given, *kinds[carries + sequences :]])
    if list(body.outputs[:carries]) != kinds[:carries]:
        raise ShapeError(
            f"[scan] the carried values are {_listed(kinds[:carries])} and become "
            f"{_listed(body.outputs[:carries])}; they must stay of one shape and dtype"
        )
    return (*kinds[:carries], *(((count, *s), t) for s, t in body.outputs[carries:]))


@scan.gradient
def _(g, y, *operands, **parameters):
    return _rules["scan"](g, y, *operands, **parameters)


scan.lowering("scan")


@primitive(Structure, samples=samples.branches)
def branch(predicate, *operands, then, otherwise):
    """What `then` gives for the operands if the predicate is true, else what `otherwise` gives."""
    return tuple(interpret((then if predicate else otherwise).graph, operands))


@branch.results
def _(predicate: Any, *operands: Any, then: Body, otherwise: Body) -> tuple[Type, ...]:
    _must_be_one("branch", "predicate", [(predicate.shape, predicate.dtype)])
    kinds = [(x.shape, x.dtype) for x in operands]
    _must_fit("branch", then, kinds)
    _must_fit("branch", otherwise, kinds)
    if then.outputs != otherwise.outputs:
        raise ShapeError(
            f"[branch] one branch gives {_listed(then.outputs)}, the other "
            f"{_listed(otherwise.outputs)}; they must give the same"
        )
    return then.outputs


@branch.gradient
def _(g, y, *operands, **parameters):
    return _rules["branch"](g, y, *operands, **parameters)


branch.lowering("branch")


@primitive(Structure, samples=samples.repeats)
def repeat(*operands, condition, body, carries):
    """The first `carries` operands, replaced by what the body makes of them and the other operands
    for as long as the condition holds for all of these.
    """
    carried, rest = list(operands[:carries]), operands[carries:]
    while interpret(condition.graph, [*carried, *rest])[0]:
        carried = interpret(body.graph, [*carried, *rest])
    return tuple(carried)


@repeat.results
def _(*operands: Any, condition: Body, body: Body, carries: int) -> tuple[Type, ...]:
    kinds = [(x.shape, x.dtype) for x in operands]
    _must_fit("repeat", condition, kinds)
    _must_fit("repeat", body, kinds)
    _must_be_one("repeat", "condition", condition.outputs)
    if list(body.outputs) != kinds[:carries]:
        raise ShapeError(
            f"[repeat] the carried values are {_listed(kinds[:carries])} and become "
            f"{_listed(body.outputs)}; they must stay of one shape and dtype"
        )
    return tuple(kinds[:carries])


repeat.no_gradient("the number of rounds is not known beforehand; use scan for a fixed number")
repeat.lowering("repeat")


def _must_fit(name: str, body: Body, kinds: Sequence[Type]) -> None:
    if list(body.inputs) != list(kinds):
        raise GraphError(
            f"[{name}] {body.graph.name} takes {_listed(body.inputs)}; {_listed(kinds)} are given"
        )


def _must_be_one(name: str, what: str, kinds: Sequence[Type]) -> None:
    if list(kinds) != [((), dtypes.bool_)]:
        raise ShapeError(f"[{name}] the {what} must be one bool, got {_listed(kinds)}")


def _listed(kinds: Sequence[Type]) -> str:
    return ", ".join(f"{dtype.name} {shape}" for shape, dtype in kinds) or "nothing"
