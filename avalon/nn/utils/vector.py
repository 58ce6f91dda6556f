"""Parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable

from avalon.functions import cat
from avalon.tensor import Tensor


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters, flattened, one after the other."""
    return cat([p.reshape(-1) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Write the elements of a vector into the parameters."""
    start = 0
    for parameter in parameters:
        piece = vec[start : start + parameter.numel()]
        parameter.data = piece.reshape(parameter.shape).clone()
        start += parameter.numel()
