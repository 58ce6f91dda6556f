"""Copying a state, tensors or arrays by name, into tensors that exist.

Comes in: the tensors of a model by name, and a state. Goes out: which names had no partner.
Guaranteed: a state that does not fit is refused whole, with the nearest names, and changes
nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from avalon.errors import CheckpointError
from avalon.tensor import Tensor, as_tensor, no_grad


class IncompatibleKeys(NamedTuple):
    """What loading without `strict` found missing or superfluous."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def copy_state(
    own: Mapping[str, Tensor],
    state: Mapping[str, Any],
    owner: str,
    strict: bool = True,
    assign: Callable[[str, Tensor, Any], None] | None = None,
) -> IncompatibleKeys:
    """Copy the tensors of `state` into those of the same names.

    Args:
        own: the tensors that are written.
        state: their new values, of the same shapes.
        owner: whose tensors they are, for the message.
        strict: refuse names that only one side has.
        assign: called with name, own tensor and new value instead of copying.

    Raises:
        CheckpointError: names or shapes do not fit; nothing was copied.
    """
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    problems = []
    if strict and missing:
        listed = ", ".join(repr(name) + _nearest(name, unexpected) for name in missing)
        problems.append(f"Missing key(s) in state_dict: {listed}.")
    if strict and unexpected:
        problems.append(f"Unexpected key(s) in state_dict: {', '.join(map(repr, unexpected))}.")
    for name, tensor in own.items():
        if name in state and tuple(state[name].shape) != tuple(tensor.shape):
            problems.append(
                f"size mismatch for {name}: the state has shape {tuple(state[name].shape)}, the "
                f"model {tuple(tensor.shape)}."
            )
    if problems:
        raise CheckpointError(
            f"[load_state_dict] Error(s) in loading state_dict for {owner}:\n\t"
            + "\n\t".join(problems)
            + "\nstrict=False loads the names that both have." * (strict and missing != unexpected)
        )
    with no_grad():
        for name, tensor in own.items():
            if name not in state:
                continue
            if assign is not None:
                assign(name, tensor, state[name])
            else:
                tensor.copy_(as_tensor(state[name]))
    return IncompatibleKeys(missing, unexpected)


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f" (the state has {near[0]!r})" if near else ""
