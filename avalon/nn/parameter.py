"""Parameters: tensors that training changes, and buffers, which belong to a model but are not
trained.
"""

from __future__ import annotations

from avalon.struct import buffer
from avalon.tensor import Tensor, constant_tensor, get_default_dtype


class Parameter(Tensor):
    """A tensor that a module lists among its parameters; it shares the memory of `data`.

    >>> import avalon as av
    >>> av.nn.Parameter(av.zeros(2))
    Parameter containing:
    tensor([0., 0.], requires_grad=True)

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.parameter.Parameter.html
    """

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = True) -> Parameter:
        if data is None:
            data = constant_tensor(0.0, (0,), get_default_dtype())
        made: Parameter = Tensor._make_subclass(cls, data, requires_grad)
        return made

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()


class Buffer(Tensor):
    """A tensor that a module lists among its buffers: saved with the model, not trained."""

    def __new__(cls, data: Tensor | None = None, *, persistent: bool = True) -> Buffer:
        if data is None:
            data = constant_tensor(0.0, (0,), get_default_dtype())
        made: Buffer = Tensor._make_subclass(cls, data, data.requires_grad)
        made.persistent = persistent
        buffer(made)
        return made

    persistent: bool
