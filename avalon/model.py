"""What can be asked of any model, `nn.Module` or plain object: parameters, state, mode,
predictions.

Comes in: a structure with tensors in its fields. Goes out: tensors by name, or the model itself in
another mode. Guaranteed: names are PyTorch's where the parts are modules; a state that does not fit
changes nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from avalon import struct
from avalon.data.dataset import TensorDataset
from avalon.errors import CheckpointError
from avalon.functions.shaping import cat
from avalon.tensor import Tensor, as_tensor, no_grad


class LoadResult(NamedTuple):
    """What `load_state_dict` found missing or superfluous, when it was not strict."""

    missing_keys: list[str]
    unexpected_keys: list[str]


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
    return list(named_parameters(model).values())


def named_parameters(model: Any) -> dict[str, Tensor]:
    """The tensors of `parameters`, by their path in the model."""
    found = struct.trained(model)
    for tensor in found.values():
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


def load_state_dict(model: Any, state: Mapping[str, Any], strict: bool = True) -> LoadResult:
    """Copy the tensors of a state into the model's own.

    Args:
        model: the model; its tensors keep their identity and dtype.
        state: tensors or arrays by name, as `state_dict` or `av.load` give them.
        strict: refuse names that are missing or superfluous.

    Raises:
        CheckpointError: names or shapes do not fit; nothing was copied.
    """
    own = state_dict(model)
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    wrong = [
        f"{name!r}: the model has shape {tuple(own[name].shape)}, the state {tuple(value.shape)}"
        for name, value in state.items()
        if name in own and tuple(own[name].shape) != tuple(value.shape)
    ]
    problems = wrong
    if strict:
        problems = [
            *(f"missing {name!r}{_near(name, unexpected)}" for name in missing),
            *(f"unexpected {name!r}" for name in unexpected),
            *wrong,
        ]
    if problems:
        shown = problems[:20] + ([f"and {len(problems) - 20} more"] if len(problems) > 20 else [])
        remedy = "" if problems == wrong else "\nstrict=False loads the names that both have"
        raise CheckpointError(
            f"[load_state_dict] the state does not fit {type(model).__name__}:\n  "
            + "\n  ".join(shown)
            + remedy
        )
    with no_grad():
        for name, tensor in own.items():
            if name in state:
                tensor.copy_(as_tensor(state[name]))
    return LoadResult(missing, unexpected)


def train(model: Any, mode: bool = True) -> Any:
    """Put a model into training mode: every part with a `training` field gets True. Returns it."""
    for _, node in struct.walk(model):
        if hasattr(node, "training") and not isinstance(node, Tensor):
            node.training = mode
    return model


def evaluate(model: Any) -> Any:
    """Put a model into evaluation mode: dropout passes all, batch normalisation does not learn."""
    return train(model, False)


@contextmanager
def in_mode(model: Any, training: bool) -> Iterator[None]:
    """A block in which the model is in training or evaluation mode; afterwards it is as before."""
    before = [
        (node, node.training)
        for _, node in struct.walk(model)
        if hasattr(node, "training") and not isinstance(node, Tensor)
    ]
    train(model, training)
    try:
        yield
    finally:
        for node, mode in before:
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


def _near(name: str, others: list[str]) -> str:
    near = difflib.get_close_matches(name, others, n=1)
    return f" (the state has {near[0]!r})" if near else ""
