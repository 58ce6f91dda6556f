"""What can be asked of any model, `nn.Module` or plain object: parameters, state, mode,
predictions.

Comes in: a structure with tensors in its fields. Goes out: tensors by name, or the model itself in
another mode. Guaranteed: names are PyTorch's where the parts are modules; a state that does not fit
changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from avalon import struct
from avalon.data.dataset import TensorDataset
from avalon.functions.shaping import cat
from avalon.state import IncompatibleKeys, copy_state
from avalon.tensor import Tensor, no_grad


def parameters(model: Any) -> list[Tensor]:
    """The tensors of a model that training changes, shared ones once.

    These are its `nn.Parameter`s and tensors with `requires_grad`; an object that holds neither is
    trained in its floating fields, but for those marked by `av.buffer`. Such fields get
    `requires_grad`, so that `.backward()` reaches them.

    >>> import avalon as av
    >>> class Line:
    ...     def __init__(self):
    ...         self.slope, self.origin = av.zeros(1), av.zeros(1)
    >>> len(av.parameters(Line()))
    2
    """
    found = list(struct.trained(model).values())
    for tensor in found:
        tensor.requires_grad_()
    return found


def state_dict(model: Any) -> dict[str, Tensor]:
    """The model's tensors by name, as aliases: they change as the model does.

    A module decides itself what belongs to its state; in plain objects every tensor does.
    """
    if isinstance(model, Tensor):
        return {"": model.detach()}
    found: dict[str, Tensor] = {}
    inside: list[str] = []  # prefixes of modules, which have spoken for all that is in them
    for path, node in struct.walk(model):
        if any(path.startswith(prefix) for prefix in inside):
            continue
        if isinstance(node, Tensor):
            found[path] = node.detach()
        elif hasattr(node, "_parameters"):
            prefix = f"{path}." if path else ""
            found.update(node.state_dict(prefix=prefix))
            inside.append(prefix)
    return found


def load_state_dict(model: Any, state: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
    """Copy the tensors of a state into the model's own.

    Args:
        model: the model; its tensors keep their identity and dtype.
        state: tensors or arrays by name, as `state_dict` or `av.load` give them.
        strict: refuse names that are missing or superfluous.

    Raises:
        CheckpointError: names or shapes do not fit; nothing was copied.
    """
    return copy_state(state_dict(model), state, type(model).__name__, strict)


def train(model: Any, mode: bool = True) -> Any:
    """Put a model into training mode: every part with a `training` field gets True. Returns it."""
    for node in _parts_with_modes(model):
        _set_mode(node, mode)
    return model


def evaluate(model: Any) -> Any:
    """Put a model into evaluation mode: dropout passes all, batch normalisation does not learn."""
    return train(model, False)


@contextmanager
def in_mode(model: Any, training: bool) -> Iterator[None]:
    """A block in which the model is in training or evaluation mode; afterwards it is as before."""
    before = [(node, node.training) for node in _parts_with_modes(model)]
    for node, _ in before:
        _set_mode(node, training)
    try:
        yield
    finally:
        for node, mode in before:
            _set_mode(node, mode)


def _parts_with_modes(model: Any) -> list[Any]:
    return [
        node
        for _, node in struct.walk(model)
        if hasattr(node, "training") and not isinstance(node, Tensor)
    ]


def _set_mode(node: Any, mode: bool) -> None:
    if node.training is not mode:  # an assignment makes compiled steps look again
        node.training = mode


def predict(model: Any, x: Any, batch_size: int = 256) -> Any:
    """The model's outputs for all rows of `x`, computed in batches, in evaluation mode.

    Args:
        model: called with a batch of rows; with several if `x` is a tuple.
        x: a tensor or array (N, ...), or a tuple of them.
        batch_size: rows at a time.

    Returns:
        What the model returns (a tensor, or a tuple, list or dict of tensors), for N rows.

    Raises:
        ValueError: `x` has no rows.
    """
    inputs = TensorDataset(*(x if isinstance(x, tuple) else (x,)))
    if len(inputs) == 0:
        raise ValueError("[predict] x has no rows: there is nothing to predict")
    with in_mode(model, training=False), no_grad():
        parts = [
            model(*inputs.take(range(start, min(start + batch_size, len(inputs)))))
            for start in range(0, len(inputs), batch_size)
        ]
        return _joined(parts)


def _joined(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return cat(parts) if len(parts) > 1 else first
    if isinstance(first, Mapping):
        return {key: _joined([part[key] for part in parts]) for key in first}
    if isinstance(first, (tuple, list)):
        return type(first)(_joined(list(column)) for column in zip(*parts, strict=True))
    raise TypeError(
        f"[predict] the model returned {type(first).__name__}: return tensors, or tuples, lists or "
        f"dicts of tensors"
    )
