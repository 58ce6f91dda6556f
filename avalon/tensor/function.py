"""Operations with a gradient of their own, as classes: PyTorch's `autograd.Function`.

Comes in: a subclass with `forward` and `backward`. Goes out: `apply`, which runs forward without
recording and gives its result the history of backward. Guaranteed: backward gets and returns
tensors, so that it can be differentiated itself. A function has one tensor as its result.

Source: https://docs.pytorch.org/docs/stable/notes/extending.html
"""

from __future__ import annotations

from typing import Any

from avalon.errors import AutogradError
from avalon.tensor.core import Tensor, wrap
from avalon.tracing.history import History
from avalon.tracing.modes import modes, no_grad


class Context:
    """What `forward` leaves for `backward`; any other field may be set on it too.

    Attributes:
        needs_input_grad: for each argument of forward, whether it needs a gradient.
    """

    needs_input_grad: tuple[bool, ...] = ()

    def __init__(self) -> None:
        self._saved: tuple[Tensor | None, ...] = ()

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors as they are now, with their histories."""
        # values never change, so what is kept is safe from writes
        self._saved = tuple(
            None if tensor is None else wrap(tensor.value(), tensor._edge()) for tensor in tensors
        )

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What was kept."""
        return self._saved

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """For PyTorch's sake: results that are no floats never get a gradient."""

    def mark_dirty(self, *tensors: Tensor) -> None:
        """For PyTorch's sake: writes are always seen."""

    def set_materialize_grads(self, value: bool) -> None:
        """For PyTorch's sake: the one result always has a gradient."""


class Function:
    """Base of operations with a gradient of their own.

    >>> import avalon as av
    >>> class Square(av.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x * x
    ...     @staticmethod
    ...     def backward(ctx, g):
    ...         x, = ctx.saved_tensors
    ...         return 2 * x * g
    >>> x = av.tensor([1.0, 3.0], requires_grad=True)
    >>> Square.apply(x).sum().backward()
    >>> x.grad
    tensor([2., 6.])
    """

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        """The result, from a context and the arguments (from the arguments alone where
        `setup_context` is there too).
        """
        raise NotImplementedError("[autograd.Function] forward(ctx, ...) is missing")

    @staticmethod
    def backward(ctx: Context, gradient: Tensor) -> Any:
        """One gradient for each argument of forward, None for those that have none."""
        raise NotImplementedError("[autograd.Function] backward(ctx, gradient) is missing")

    @classmethod
    def apply(cls, *arguments: Any) -> Tensor:
        """Run forward, and give the result the history of backward."""
        context = Context()
        edges = tuple(
            argument._edge() if modes.grad and isinstance(argument, Tensor) else None
            for argument in arguments
        )
        context.needs_input_grad = tuple(edge is not None for edge in edges)
        set_up = getattr(cls, "setup_context", None)
        with no_grad():
            if set_up is None:
                result = cls.forward(context, *arguments)
            else:
                result = cls.forward(*arguments)
                set_up(context, arguments, result)
        if not isinstance(result, Tensor):
            raise AutogradError(
                f"[autograd.Function] {cls.__name__}.forward must return one tensor, not "
                f"{type(result).__name__}; for several results, write one function for each"
            )
        if not any(context.needs_input_grad) or not result.dtype.is_floating_point:
            return result

        def cotangents(gradient: Tensor) -> list[Tensor | None]:
            made = cls.backward(context, gradient)
            every = list(made) if isinstance(made, (tuple, list)) else [made]
            if len(every) != len(arguments):
                raise AutogradError(
                    f"[autograd.Function] {cls.__name__}.backward returned {len(every)} gradients "
                    f"for the {len(arguments)} arguments of forward"
                )
            return every

        history = History.of_function(cls.__name__, edges, result, cotangents)
        return wrap(result.value(), history)
