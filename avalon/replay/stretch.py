"""What a call with a gradient leaves to record: its graph and its gradient, one entry each.

Comes in: a recorder that holds a call whose result has a gradient history, and where its inputs
come from. Goes out: a `Stretch`, or the reason why there is none. Guaranteed: what is recorded
stays as it is; the gradient is that of a walk over the result's history.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from avalon.dtype import DType
from avalon.errors import DeclarationError, TraceError
from avalon.shape import Shape
from avalon.tensor.core import Tensor, wrap
from avalon.tensor.gradient_sketch import Differentiated, GradientSketch, accumulate_nothing
from avalon.tracing import history as walk
from avalon.tracing.backward import Backward
from avalon.tracing.history import GradientFunction, History
from avalon.tracing.operation import Operation
from avalon.tracing.values import Recorder, Value

if TYPE_CHECKING:
    from avalon.replay.recording import Origin


class Edge(NamedTuple):
    """Where the gradient of an input goes: the number of a tensor, and the history that it has, or
    -1 and None.
    """

    place: int
    history: History | None


class Stretch(NamedTuple):
    """What a differentiable call records.

    Attributes:
        name: of the function.
        note: what is noted on its steps.
        forward, numbers, backward: as in the trace of a composite function; `forward` puts out the
            differentiable tensor first.
        origins: where its operands come from, in their order; the step's own data as values.
        sources: for each operand the number of the tensor that gets its cotangent, or -1.
        places: where each output position of the recording lies among what `forward` puts out.
        cell: which of the cells that the call makes is the differentiable tensor's.
        strides: how its elements lie.
    """

    name: str
    note: str
    forward: Operation
    numbers: list[Value]
    backward: Backward
    origins: list[Origin]
    sources: list[int]
    places: dict[int, int]
    cell: int
    strides: Any


def root_of(tensor: Tensor) -> Tensor:
    """The tensor of which this one is a view, or itself."""
    return tensor if tensor._base is None else tensor._base


def stretch_of(
    name: str,
    own: Recorder,
    root: Tensor,
    cell: int,
    origins: Sequence[Origin],
    edges: Sequence[Edge | None],
    outputs: Sequence[Value],
) -> Stretch | str:
    """What `own` holds, which made `root`, the differentiable tensor, on the made cell number
    `cell`; or why that cannot be put down again. `origins` says where its inputs come from, `edges`
    where their gradients go; `outputs` are the other values that it must put out.
    """
    value = root.value()
    if value.recorder is not own:
        return "it leaves a tensor behind that has a gradient and the value of an input"
    known_edges = [edge for edge in edges if edge is not None]
    histories = [edge.history for edge in known_edges if edge.history is not None]
    if len(known_edges) < len(edges) or len(set(histories)) < len(histories):
        return "two tensors of one storage that it reads have gradients of their own"
    read = [place for place, origin in enumerate(origins) if origin.kind != "number"]
    kinds, positions = own.recorded.results(), list(own.entered.values())
    operands = [_operand(own.holders[place], *kinds[positions[place]]) for place in read]
    values = [value, *outputs]
    try:
        with own.trial():
            leaves = [known_edges[place].history for place in read]
            sketch = _StretchSketch(name, own, root, operands, leaves)
            forward, numbers, backward = sketch.operations(values)
    except (TraceError, DeclarationError) as reason:
        return str(reason)
    assert backward is not None
    known = [
        origins[place]._replace(value=operand) if origins[place].kind == "host" else origins[place]
        for place, operand in zip(read, operands, strict=True)
    ]
    places: dict[int, int] = {}
    for place, one in enumerate(values):
        places.setdefault(one.position, place)
    return Stretch(
        name, sketch.note, forward, numbers, backward, known,
        [known_edges[place].place for place in read], places, cell, root._strides,
    )  # fmt: skip


class _StretchSketch(GradientSketch):
    """A sketch of entries that may be composite functions, with gradients of gradients of their
    own: who differentiates twice walks back over them.
    """

    def _templates(self, edge: History) -> list[History]:
        found = super()._templates(edge)
        for history in found:
            if isinstance(history._backward, GradientFunction):
                self.once = f"the gradient of {history.name} in it is a Python function"
        return found

    def _differentiated(self, made: Backward, kept: list[int]) -> Differentiated:
        assert self.edge is not None
        edge = self.edge.serial

        def differentiate(
            real: dict[int, Any], history: History, cotangent: Any, values: Sequence[Value]
        ) -> list[Any]:
            found = walk.backward(
                [(real[edge], cotangent)], wrap=wrap, accumulate=accumulate_nothing, retain=True,
                differentiable=True, wanted=[one for one in history.inputs if one is not None],
                stop=True,
            )  # fmt: skip
            return [None if one is None else found.get(one.serial) for one in history.inputs]

        return differentiate


def _operand(holder: Any, shape: Shape, dtype: DType) -> Value:
    """An input as a value by which its recorder knows it: a number, or memory."""
    return holder if isinstance(holder, Value) else Value(shape, dtype, holder)
