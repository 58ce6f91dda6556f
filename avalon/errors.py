"""Every error class of the library. Messages open with the operation in brackets, then say the
shapes or values at hand, the relation that was expected, and what to write instead.

Each class derives from the built-in error that PyTorch raises in its place, so that `except
RuntimeError` in moved code keeps working.
"""

from __future__ import annotations


class AvalonError(Exception):
    """Base of the library's own errors."""


class ShapeError(AvalonError, RuntimeError):
    """Operand shapes do not fit the operation.

    Fails: `av.ones(2, 3) @ av.ones(2, 3)`. Works: `av.ones(2, 3) @ av.ones(2, 3).T`.
    """


class DTypeError(AvalonError, RuntimeError):
    """Operand element types do not fit the operation.

    Fails: `nn.Linear(2, 2)(av.ones(1, 2, dtype=av.int64))`. Works: the same with `.float()`.
    """


class DeviceError(AvalonError, RuntimeError):
    """Operands live on different devices, or a device does not exist here."""


class IndexOutOfRange(AvalonError, IndexError):
    """An index or a class label lies outside the axis it points into.

    Attributes:
        check: which check of a program failed, in the program's order; -1 if the value was known
            when the operation was recorded.
        value: the index or label.
    """

    check: int = -1
    value: int = 0


class AutogradError(AvalonError, RuntimeError):
    """A gradient that cannot be had: no history, freed history, a leaf written in place."""


class TraceError(AvalonError, RuntimeError):
    """Python needs a traced tensor's value, or a compiled step changed the world."""


class DeclarationError(AvalonError, TypeError):
    """A primitive was declared incompletely or twice."""


class GraphError(AvalonError, ValueError):
    """A graph violates its law: a use before the definition, or a wrong shape."""


class DataError(AvalonError, ValueError):
    """A data file is missing, truncated or of another format."""


class CheckpointError(AvalonError, RuntimeError, ValueError):
    """A checkpoint is missing, damaged or of another model."""


class NonFiniteError(AvalonError, ArithmeticError):
    """A loss became infinite or not a number.

    Fails: training with `loss = x.log().mean()` once an `x` reaches 0. Works:
    `x.clamp(min=1e-6).log().mean()`, or a loss that takes logits.
    """
