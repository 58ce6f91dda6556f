"""Padding layers.

Source: https://docs.pytorch.org/docs/stable/nn.html#padding-layers
"""

from __future__ import annotations

from collections.abc import Sequence

from avalon.errors import ShapeError
from avalon.functions import pad
from avalon.nn.module import Module
from avalon.tensor import Tensor


class _Pad(Module):
    axes: int
    mode: str
    value: float = 0.0

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        amounts = (padding,) * (2 * self.axes) if isinstance(padding, int) else tuple(padding)
        if len(amounts) != 2 * self.axes:
            raise ShapeError(
                f"[{type(self).__name__}] padding must be one int or {2 * self.axes}, got {padding}"
            )
        self.padding = amounts

    def forward(self, input: Tensor) -> Tensor:
        value = self.value if self.mode == "constant" else None
        return pad(input, self.padding, self.mode, value)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ZeroPad1d(_Pad):
    """Zeros at the ends of the last axis."""

    axes, mode = 1, "constant"


class ZeroPad2d(_Pad):
    """Zeros around the last two axes: (left, right, top, bottom)."""

    axes, mode = 2, "constant"


class ZeroPad3d(_Pad):
    """Zeros around the last three axes."""

    axes, mode = 3, "constant"


class _ConstantPad(_Pad):
    mode = "constant"

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(_ConstantPad):
    """A number at the ends of the last axis."""

    axes = 1


class ConstantPad2d(_ConstantPad):
    """A number around the last two axes."""

    axes = 2


class ConstantPad3d(_ConstantPad):
    """A number around the last three axes."""

    axes = 3


class ReflectionPad1d(_Pad):
    """The last axis mirrored at its ends."""

    axes, mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """The last two axes mirrored at their ends."""

    axes, mode = 2, "reflect"


class ReflectionPad3d(_Pad):
    """The last three axes mirrored at their ends."""

    axes, mode = 3, "reflect"


class ReplicationPad1d(_Pad):
    """The ends of the last axis repeated."""

    axes, mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """The edges of the last two axes repeated."""

    axes, mode = 2, "replicate"


class ReplicationPad3d(_Pad):
    """The edges of the last three axes repeated."""

    axes, mode = 3, "replicate"


class CircularPad1d(_Pad):
    """The last axis continued from its other side."""

    axes, mode = 1, "circular"


class CircularPad2d(_Pad):
    """The last two axes continued from their other sides."""

    axes, mode = 2, "circular"


class CircularPad3d(_Pad):
    """The last three axes continued from their other sides."""

    axes, mode = 3, "circular"
