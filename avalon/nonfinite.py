"""Where a number stopped being one: the first operation that made an infinity or a NaN.

Comes in: a model and a function that computes its loss. Goes out: an error that names the
operation, the line that called it, the layer whose weights it worked with, and what to do. The
loss is recorded, and its graph evaluated call by call by the primitives' meanings, as in no other
use.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from avalon import struct
from avalon.errors import NonFiniteError
from avalon.graph.interpret import evaluate, from_storage
from avalon.graph.node import Call, Constant, Input, Node
from avalon.tensor import Tensor, no_grad
from avalon.tracing.values import recorder

Array = np.ndarray[Any, Any]

_REMEDY = (
    "Try a lower learning rate or clip=1.0; look for logarithms, divisions and square roots of "
    "numbers near 0. The model is as it was before this batch."
)


def explain(model: Any, loss: Callable[[], Tensor], what: str) -> NonFiniteError:
    """The error for a loss that is not finite; `what` is its first sentence."""
    spoiled = [path for path, leaf in struct.leaves(model).items() if not _is_finite(leaf)]
    if spoiled:
        return NonFiniteError(
            f"{what}: {spoiled[0]} was not finite before it, so an earlier gradient was not. "
            f"{_REMEDY}"
        )
    return NonFiniteError(f"{what}: {_first_in(model, loss)}. {_REMEDY}")


def _first_in(model: Any, loss: Callable[[], Tensor]) -> str:
    """The first call of the recorded loss whose result is not finite though its operands are."""
    here = recorder()
    here.flush()
    with no_grad():
        value = loss().value()
    if value.recorder is None:
        return "the loss reads values on its way, so where it arose was not recorded"
    graph, nodes = here.recorded.build()
    feeds = dict(zip(graph.inputs, here.feeds, strict=True))
    needed = _ancestors(nodes[value.position])
    values: dict[Node, Array] = {}
    for node in graph.nodes:
        if node not in needed:
            continue
        values[node] = _value_of(node, values, feeds)
        if isinstance(node, Input) and not np.isfinite(values[node]).all():
            return f"an input of shape {node.shape} holds {_kind(values[node])}: look at the data"
        if isinstance(node, Call) and not np.isfinite(values[node]).all():
            return _tell(model, node, values, feeds)
    return "every operation of the loss is finite when it is computed again by itself"


def _value_of(node: Node, values: dict[Node, Array], feeds: dict[Input, Any]) -> Array:
    if isinstance(node, Call):
        operands = [values[operand] for operand in node.operands]
        return evaluate(node.primitive, operands, node.parameters, node.dtype)
    if isinstance(node, Constant):
        return np.full(node.shape, node.value, node.dtype.reference)
    assert isinstance(node, Input)
    fed = feeds[node]
    if node.scalar:
        return np.asarray(fed, node.dtype.reference)
    return from_storage(fed.as_numpy(node.dtype, node.shape), node.dtype)


def _tell(model: Any, node: Call, values: dict[Node, Array], feeds: dict[Input, Any]) -> str:
    line = f" at {node.source[0]}:{node.source[1]}" if node.source else ""
    ranges = " and ".join(
        f"[{values[operand].min():.4g}, {values[operand].max():.4g}]"
        for operand in node.operands
        if values[operand].size
    )
    layer = _nearest_parameter(model, node, feeds)
    where = f", after {layer}" if layer else ""
    return (
        f"[{node.primitive.name}]{line}{where} made the first {_kind(values[node])}, of numbers in "
        f"{ranges}"
    )


def _nearest_parameter(model: Any, node: Node, feeds: dict[Input, Any]) -> str:
    """The path of the layer whose tensor is the fewest calls away from `node`, against the flow."""
    paths = {id(leaf.value().buffer): path for path, leaf in struct.leaves(model).items()}
    pending, seen = deque([node]), {node}
    while pending:
        here = pending.popleft()
        if isinstance(here, Input) and id(feeds[here]) in paths:
            path = paths[id(feeds[here])]
            return path.rpartition(".")[0] or path
        for operand in here.operands if isinstance(here, Call) else ():
            if operand not in seen:
                seen.add(operand)
                pending.append(operand)
    return ""


def _ancestors(node: Node) -> set[Node]:
    found, pending = {node}, [node]
    while pending:
        here = pending.pop()
        for operand in here.operands if isinstance(here, Call) else ():
            if operand not in found:
                found.add(operand)
                pending.append(operand)
    return found


def _kind(array: Array) -> str:
    return "nan" if np.isnan(array).any() else "infinity"


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.dtype.is_floating_point:
        return True
    array = from_storage(tensor.detach().value().host(), tensor.dtype)
    return bool(np.isfinite(array).all())
