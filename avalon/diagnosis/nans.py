"""Where a number stopped being one: the first operation that made a NaN, or an infinity.

Comes in: recorded work whose results are not finite. Goes out: an error that names the operation,
the line that called it, the layer it is in or follows, and the ranges of its operands. The recorded
graph is evaluated call by call by the primitives' meanings, as in no other use.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np

from avalon import struct
from avalon.errors import NonFiniteError
from avalon.graph.graph import Graph
from avalon.graph.interpret import evaluate, from_storage
from avalon.graph.node import Call, Constant, Input, Node
from avalon.tensor import Tensor
from avalon.tracing.modes import modes
from avalon.tracing.recorded import Layered
from avalon.tracing.values import Value, recorder

Array = np.ndarray[Any, Any]
Bad = Callable[[Array], Array]

_REMEDY = "look for logarithms, divisions and square roots of numbers near 0."
_GRADIENT = "gradient of "
_LIBRARY = str(Path(__file__).resolve().parent.parent)
_WALKED = 10_000  # objects of a variable that are looked at for the model


@contextmanager
def debug_nans(infinities: bool = False) -> Iterator[None]:
    """Inside the block, work whose results hold a NaN is an error that names its first operation.

    The message names the operation and its layer ("net.conv2"), the line that called it, in the
    backward pass the line whose gradient it is, and the ranges of its operands. A NaN that reaches
    no result, such as one that `where` masks, is none. Tensors that failed raise the same error
    again; parameters and optimizer are as before the step. Compiled steps are recorded meanwhile,
    not replayed, so leave the block out when you are done.

    Args:
        infinities: look for infinities too.

    Raises:
        NonFiniteError: from the line that asks for a value.

    >>> import avalon as av
    >>> x = av.tensor([4.0, -1.0])
    >>> with av.debug_nans():
    ...     av.sqrt(x).sum().item()  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    avalon.errors.NonFiniteError: [debug_nans] [sqrt] at ... made the first nan...
    """
    outer = modes.watch, modes.layers
    recorder().flush()
    bad: Bad = _not_finite if infinities else np.isnan

    def watch(pending: Any, buffers: Sequence[Any]) -> None:
        if outer[0] is not None:
            outer[0](pending, buffers)
        spoiled = [
            value.position
            for value, buffer in zip(pending.live, buffers, strict=True)
            if _spoiled(value, buffer, bad)
        ]
        if spoiled:
            graph, nodes = pending.recorded.build()
            paths = _paths_of_callers()
            told = _first([nodes[place] for place in spoiled], graph, pending.feeds, paths, bad)
            raise NonFiniteError(f"[debug_nans] {told or 'a result is not a number'}: {_REMEDY}")

    modes.watch, modes.layers = watch, True
    try:
        yield
        recorder().flush()
    finally:
        modes.watch, modes.layers = outer


def explain(model: Any, compute: Callable[[], Sequence[Tensor]], what: str) -> NonFiniteError:
    """The error for a step that is not finite: `what`, and where in `compute()` that arose."""
    here = recorder()
    here.flush()
    outer, modes.layers = modes.layers, True
    try:
        values = [made.value() for made in compute()]
    finally:
        modes.layers = outer
    pending = [value.position for value in values if value.recorder is here]
    told = ""
    if pending:
        graph, nodes = here.recorded.build()
        paths = {id(leaf.value().buffer): path for path, leaf in struct.leaves(model).items()}
        told = _first([nodes[place] for place in pending], graph, here.feeds, paths, _not_finite)
    return NonFiniteError(
        f"{what}: {told or 'every operation is finite when it is computed again by itself'}. Try a "
        f"lower learning rate or clip=1.0; {_REMEDY} The model is as it was before this batch."
    )


def is_finite(tensor: Tensor) -> bool:
    """Whether every element is a number."""
    if not tensor.dtype.is_floating_point:
        return True
    array = from_storage(tensor.detach().value().host(), tensor.dtype)
    return bool(np.isfinite(array).all())


# --- the search ---------------------------------------------------------------------------------


def _first(
    roots: Sequence[Node], graph: Graph, feeds: Sequence[Any], paths: Mapping[int, str], bad: Bad
) -> str:
    """What the first bad call before `roots` is, in words; "" if there is none."""
    fed = dict(zip(graph.inputs, feeds, strict=True))
    needed = _ancestors(roots)
    values: dict[Node, Array] = {}
    for node in graph.nodes:
        if node not in needed:
            continue
        values[node] = _value_of(node, values, fed)
        if values[node].dtype.kind not in "fc" or not bad(values[node]).any():
            continue
        if isinstance(node, Input):
            name = paths.get(id(fed[node]), "")
            named = f"{name}, an input of shape {node.shape}," if name else ""
            given = named or f"an input of shape {node.shape}"
            return f"{given} holds {_kind(values[node])}: look at the data"
        if isinstance(node, Call):
            return _tell(node, values, fed, paths)
    return ""


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


def _tell(
    node: Call, values: dict[Node, Array], feeds: dict[Input, Any], paths: Mapping[int, str]
) -> str:
    line = f" at {node.source[0]}:{node.source[1]}" if node.source else ""
    ranges = " and ".join(
        f"[{values[operand].min():.4g}, {values[operand].max():.4g}]"
        for operand in node.operands
        if values[operand].size
    )
    backward = node.note.startswith(_GRADIENT)
    what = f"{node.primitive.name}, {node.note}" if backward else node.primitive.name
    layer = _layer_of_forward(node) if backward else _layer_of(node)
    after = "" if layer else _nearest_parameter(node, feeds, paths)
    where = f", in {layer}," if layer else f", after {after}" if after else ""
    return f"[{what}]{line}{where} made the first {_kind(values[node])}, of numbers in {ranges}"


def _layer_of_forward(node: Call) -> str:
    """The layer of the call whose gradient `node` belongs to: of those of the same name and line,
    the one that it shares a value with.
    """
    name = node.note.removeprefix(_GRADIENT)
    shared = set(node.operands)
    found = ""
    for other in node.graph.nodes:
        if other is node:
            break
        if isinstance(other, Call) and other.source == node.source:
            same = other.primitive.name == name or other.note.endswith(f" > {name}")
            if not same or not _layer_of(other):
                continue
            found = _layer_of(other)
            if other in shared or not shared.isdisjoint(other.operands):
                break
    return found


def _layer_of(node: Node) -> str:
    return node.note.layer if isinstance(node.note, Layered) else ""


def _nearest_parameter(node: Node, feeds: dict[Input, Any], paths: Mapping[int, str]) -> str:
    """The path of the layer whose tensor is the fewest calls away from `node`, against the flow."""
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


def _paths_of_callers() -> dict[int, str]:
    """The names, in the callers' variables, of the tensors that have memory: "net.conv1.weight"."""
    found: dict[int, str] = {}
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_LIBRARY):
            for name, value in [*frame.f_locals.items(), *frame.f_globals.items()]:
                if not isinstance(value, type | ModuleType) and not name.startswith("_"):
                    _note_tensors(found, name, value)
        frame = frame.f_back
    return found


def _note_tensors(found: dict[int, str], name: str, value: Any) -> None:
    try:
        for path, tensor in islice(struct.walk(value), _WALKED):
            if isinstance(tensor, Tensor) and isinstance(tensor._cell.value, Value):
                found.setdefault(id(tensor._cell.value.buffer), struct.join(name, path).strip("."))
    except Exception:  # an object that cannot be walked is not the model
        return


def _ancestors(roots: Sequence[Node]) -> set[Node]:
    found, pending = set(roots), list(roots)
    while pending:
        here = pending.pop()
        for operand in here.operands if isinstance(here, Call) else ():
            if operand not in found:
                found.add(operand)
                pending.append(operand)
    return found


def _spoiled(value: Value, buffer: Any, bad: Bad) -> bool:
    if not value.dtype.is_floating_point:
        return False
    return bool(bad(from_storage(buffer.as_numpy(value.dtype, value.shape), value.dtype)).any())


def _kind(array: Array) -> str:
    return "nan" if np.isnan(array).any() else "infinity"


def _not_finite(array: Array) -> Array:
    return np.asarray(~np.isfinite(array))
