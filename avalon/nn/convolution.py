"""Convolutions and transposed convolutions as layers, in one, two and three dimensions.

Source: https://docs.pytorch.org/docs/stable/nn.html#convolution-layers
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from avalon.dtype import DType
from avalon.errors import ShapeError
from avalon.functions import empty, pad
from avalon.functions.convolution import convolution, transposed
from avalon.functions.support import pair
from avalon.nn import init
from avalon.nn.module import Module
from avalon.nn.parameter import Parameter
from avalon.tensor import Tensor

Ints = int | Sequence[int]
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Convolution(Module):
    """What all convolutions share. `axes` is the number of spatial axes."""

    axes: int
    transposed = False
    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints,
        padding: str | Ints,
        output_padding: Ints,
        dilation: Ints,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: Any,
        dtype: DType | None,
    ) -> None:
        super().__init__()
        name, count = type(self).__name__, self.axes
        if groups <= 0:
            raise ValueError(f"[{name}] groups must be a positive integer, got {groups}")
        if in_channels % groups:
            raise ValueError(
                f"[{name}] in_channels {in_channels} must be divisible by groups {groups}"
            )
        if out_channels % groups:
            raise ValueError(
                f"[{name}] out_channels {out_channels} must be divisible by groups {groups}"
            )
        if padding_mode not in PADDING_MODES:
            raise ValueError(
                f"[{name}] padding_mode must be one of {PADDING_MODES}, got {padding_mode!r}"
            )
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise ValueError(f"[{name}] padding must be 'same', 'valid' or ints, got {padding!r}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = pair(kernel_size, count, name, "kernel_size")
        self.stride = pair(stride, count, name, "stride")
        self.padding = (
            padding if isinstance(padding, str) else pair(padding, count, name, "padding")
        )
        self.dilation = pair(dilation, count, name, "dilation")
        self.output_padding = pair(output_padding, count, name, "output_padding")
        self.groups = groups
        self.padding_mode = padding_mode
        if padding == "same" and any(s != 1 for s in self.stride):
            raise ValueError(f"[{name}] padding='same' is not supported for strided convolutions")
        channels = (
            (in_channels, out_channels // groups)
            if self.transposed
            else (out_channels, in_channels // groups)
        )
        self.weight = Parameter(empty((*channels, *self.kernel_size), device=device, dtype=dtype))
        own = Parameter(empty(out_channels, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", own)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        if self.weight.numel():
            init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in = self.weight.shape[1] * math.prod(self.kernel_size)
            if fan_in:
                bound = 1 / math.sqrt(fan_in)
                init.uniform_(self.bias, -bound, bound)

    def _amounts(self) -> list[int]:
        """Padding before and after each axis, last axis first, as `pad` takes it."""
        amounts = []
        for axis in reversed(range(self.axes)):
            if self.padding == "same":
                total = self.dilation[axis] * (self.kernel_size[axis] - 1)
                amounts += [total // 2, total - total // 2]
            elif self.padding == "valid":
                amounts += [0, 0]
            else:
                amounts += [int(self.padding[axis])] * 2
        return amounts

    def forward(self, input: Tensor) -> Tensor:
        operation = type(self).__name__.lower()
        padding: str | Ints = self.padding
        if self.padding_mode != "zeros":
            input, padding = pad(input, self._amounts(), self.padding_mode), 0
        return convolution(
            operation, input, self.weight, self.bias, self.stride, padding, self.dilation,
            self.groups, self.axes,
        )  # fmt: skip

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}"
        )
        if self.padding != (0,) * self.axes:
            text += f", padding={self.padding}"
        if self.dilation != (1,) * self.axes:
            text += f", dilation={self.dilation}"
        if self.output_padding != (0,) * self.axes:
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return text


class _Forward(_Convolution):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: str | Ints = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, 0, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip


class Conv1d(_Forward):
    """Convolution of (N, C, L), weight (out, in / groups, K)."""

    axes = 1


class Conv2d(_Forward):
    """Convolution of (N, C, H, W), weight (out, in / groups, KH, KW).

    Weight and bias start uniform in +-1 / sqrt(in / groups * KH * KW).
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.Conv2d.html

    >>> import avalon as av
    >>> av.nn.Conv2d(1, 20, 5)
    Conv2d(1, 20, kernel_size=(5, 5), stride=(1, 1))
    """

    axes = 2


class Conv3d(_Forward):
    """Convolution of (N, C, D, H, W), weight (out, in / groups, KD, KH, KW)."""

    axes = 3


class _Transposed(_Convolution):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints = 0,
        output_padding: Ints = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Ints = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(f'[{type(self).__name__}] only "zeros" padding mode is supported')
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, dilation,
            groups, bias, padding_mode, device, dtype,
        )  # fmt: skip

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        extra = self.output_padding if output_size is None else self._extra(input, output_size)
        padding = self.padding if not isinstance(self.padding, str) else 0
        return transposed(
            type(self).__name__.lower(), input, self.weight, self.bias, self.stride, padding, extra,
            self.groups, self.dilation, self.axes,
        )  # fmt: skip

    def _extra(self, input: Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
        """The output padding that gives `output_size`."""
        wanted = tuple(output_size)[-self.axes :]
        extra = []
        for axis, size in enumerate(wanted):
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            least = (input.shape[axis - self.axes] - 1) * self.stride[axis] + reach
            least -= 2 * int(self.padding[axis])
            if not least <= size <= least + self.stride[axis] - 1:
                raise ShapeError(
                    f"[{type(self).__name__}] output size {size} of axis {axis} must lie in "
                    f"[{least}, {least + self.stride[axis] - 1}] for input {tuple(input.shape)}"
                )
            extra.append(size - least)
        return tuple(extra)


class ConvTranspose1d(_Transposed):
    """Transposed convolution of (N, C, L), weight (in, out / groups, K)."""

    axes = 1


class ConvTranspose2d(_Transposed):
    """Transposed convolution of (N, C, H, W), weight (in, out / groups, KH, KW).

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.ConvTranspose2d.html
    """

    axes = 2


class ConvTranspose3d(_Transposed):
    """Transposed convolution of (N, C, D, H, W), weight (in, out / groups, KD, KH, KW)."""

    axes = 3
