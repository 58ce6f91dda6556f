"""Gradients as users ask for them: `loss.backward()` and `autograd.grad(...)`.

Comes in: tensors with history. Goes out: `.grad` of the leaves, or the gradients that were asked
for. Guaranteed: `.grad` accumulates into the same tensor; the values read are those that forward
read, whatever was written since; PyTorch's errors for what has no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avalon.errors import AutogradError, ShapeError
from avalon.rebinding import rebindings
from avalon.tensor.core import Tensor, method, wrap
from avalon.tensor.creation import constant_tensor
from avalon.tensor.layout import is_dense
from avalon.tensor.views import expand
from avalon.tensor.writes import assign_
from avalon.tracing import history as walk
from avalon.tracing.history import History, Leaf
from avalon.tracing.modes import set_grad_enabled
from avalon.tracing.values import Value, recorder


def _root(output: Tensor, gradient: Tensor | None, differentiable: bool) -> tuple[History, Any]:
    """The history of an output and the cotangent that its walk starts from."""
    if gradient is None:
        if output.numel() != 1:
            raise AutogradError(
                f"[backward] grad can be implicitly created only for scalar outputs, not for shape "
                f"{output.shape}; reduce it first, for example with .sum(), or give gradient="
            )
        gradient = constant_tensor(1, output.shape, output.dtype)
    elif gradient.shape != output.shape:
        raise ShapeError(
            f"[backward] Mismatch in shape: the gradient has a shape of {gradient.shape} and the "
            f"output has a shape of {output.shape}"
        )
    edge = output._edge()
    if edge is None or (output.grad_fn is None and not output._requires):
        raise AutogradError(
            "[backward] element 0 of tensors does not require grad and does not have a grad_fn"
        )
    return edge, gradient if differentiable else gradient.value()


def _accumulate(differentiable: bool) -> Any:
    def into(leaf: Leaf, cotangent: Any) -> None:
        tensor = leaf.tensor()
        if tensor is None or not tensor.requires_grad:
            return
        if tensor.grad_fn is not None:
            raise AutogradError("[backward] a leaf variable has been moved into the graph interior")
        before = tensor._grad
        if before is None:
            if differentiable:
                fresh = wrap(cotangent.value(), cotangent._edge())
            else:
                fresh = wrap(cotangent, None)
            if tensor._strides is not None and is_dense(tensor.shape, tensor._strides):
                fresh._set_strides(tensor._strides)
            tensor._grad = fresh
            rebindings.count += 1
        elif differentiable:
            tensor._grad = before + cotangent
            rebindings.count += 1
        else:
            assign_(before, before + wrap(cotangent, None))

    return into


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Add the gradients of `tensors` to the `.grad` of the leaves that they depend on.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.autograd.backward.html
    """
    outputs = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    if grad_tensors is None or isinstance(grad_tensors, Tensor):
        given: list[Tensor | None] = [grad_tensors] * len(outputs)
    else:
        given = list(grad_tensors)
    retain = create_graph if retain_graph is None else retain_graph
    roots = [
        _root(output, gradient, create_graph)
        for output, gradient in zip(outputs, given, strict=True)
    ]
    with set_grad_enabled(create_graph):
        if inputs is None:
            walk.backward(
                roots, wrap=wrap, accumulate=_accumulate(create_graph), retain=retain,
                differentiable=create_graph,
            )  # fmt: skip
            return
        asked = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        edges = [_edge_of(one) for one in asked]
        found = walk.backward(
            roots, wrap=wrap, accumulate=_accumulate(create_graph), retain=retain,
            differentiable=create_graph, wanted=edges,
        )  # fmt: skip
        into = _accumulate(create_graph)
        for one, edge in zip(asked, edges, strict=True):
            if edge.serial in found:
                target = edge if isinstance(edge, Leaf) else Leaf(one)
                into(target, found[edge.serial])


def _edge_of(tensor: Tensor) -> History:
    edge = tensor._edge()
    if edge is None:
        raise AutogradError("[grad] One of the differentiated Tensors does not require grad")
    return edge


@method("backward")
def backward_of(
    self: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Add the gradients of this tensor to the `.grad` of the leaves that it depends on.

    Args:
        gradient: cotangent of this tensor's shape; may be left out for one element.
        retain_graph: keep what the walk needs, so that it can be walked again.
        create_graph: record the walk itself, for gradients of gradients.
        inputs: accumulate only into these.

    >>> import avalon as av
    >>> x = av.tensor(3.0, requires_grad=True)
    >>> (x * x).backward()
    >>> x.grad
    tensor(6.)

    Source: https://docs.pytorch.org/docs/stable/generated/torch.Tensor.backward.html
    """
    backward([self], [gradient], retain_graph, create_graph, inputs)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of `outputs` with respect to `inputs`, without touching any `.grad`.

    Raises:
        RuntimeError: an input does not take part and `allow_unused` is not set.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.autograd.grad.html
    """
    made = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    asked = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if grad_outputs is None or isinstance(grad_outputs, Tensor):
        given: list[Tensor | None] = [grad_outputs] * len(made)
    else:
        given = list(grad_outputs)
    retain = create_graph if retain_graph is None else retain_graph
    roots = [
        _root(output, gradient, create_graph) for output, gradient in zip(made, given, strict=True)
    ]
    edges = [_edge_of(one) for one in asked]
    with set_grad_enabled(create_graph):
        found = walk.backward(
            roots, wrap=wrap, accumulate=_accumulate(create_graph), retain=retain,
            differentiable=create_graph, wanted=edges,
        )  # fmt: skip
    result: list[Tensor | None] = []
    for one, edge in zip(asked, edges, strict=True):
        cotangent = found.get(edge.serial)
        if cotangent is None:
            if materialize_grads:
                result.append(constant_tensor(0, one.shape, one.dtype))
                continue
            if not allow_unused:
                raise AutogradError(
                    "[grad] One of the differentiated Tensors appears to not have been used in the "
                    "graph. Set allow_unused=True if this is the desired behavior."
                )
            result.append(None)
        else:
            result.append(cotangent if create_graph else _unrepeated(cotangent))
    return tuple(result)


def _unrepeated(cotangent: Value) -> Tensor:
    """A gradient as PyTorch returns it: that of a sum is an expanded view."""
    smaller = recorder().repeated(cotangent)
    if smaller is None:
        return wrap(cotangent, None)
    return expand(wrap(smaller, None), cotangent.shape)
