"""Pooling layers.

Source: https://docs.pytorch.org/docs/stable/nn.html#pooling-layers
"""

from __future__ import annotations

from typing import Any

from avalon import functions
from avalon.functions.pooling import Ints
from avalon.functions.support import pair
from avalon.nn.module import Module
from avalon.tensor import Tensor


class _MaxPool(Module):
    axes: int

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> Any:
        pool = getattr(functions, f"max_pool{self.axes}d")
        return pool(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode,
            self.return_indices,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """Largest element of every window of (N, C, L)."""

    axes = 1


class MaxPool2d(_MaxPool):
    """Largest element of every window of (N, C, H, W)."""

    axes = 2


class MaxPool3d(_MaxPool):
    """Largest element of every window of (N, C, D, H, W)."""

    axes = 3


class AvgPool1d(Module):
    """Mean of every window of (N, C, L)."""

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = pair(kernel_size, 1, "AvgPool1d", "kernel_size")
        self.stride = self.kernel_size if stride is None else pair(stride, 1, "AvgPool1d", "stride")
        self.padding = pair(padding, 1, "AvgPool1d", "padding")
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad

    def forward(self, input: Tensor) -> Tensor:
        return functions.avg_pool1d(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode,
            self.count_include_pad,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _AvgPool(Module):
    axes: int

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: Tensor) -> Tensor:
        pool = functions.avg_pool2d if self.axes == 2 else functions.avg_pool3d
        return pool(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode,
            self.count_include_pad, self.divisor_override,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(_AvgPool):
    """Mean of every window of (N, C, H, W)."""

    axes = 2


class AvgPool3d(_AvgPool):
    """Mean of every window of (N, C, D, H, W)."""

    axes = 3


class _LPPool(Module):
    def __init__(
        self,
        norm_type: float,
        kernel_size: Ints,
        stride: Ints | None = None,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.norm_type = norm_type
        self.kernel_size = kernel_size
        self.stride = stride
        self.ceil_mode = ceil_mode

    def extra_repr(self) -> str:
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )


class LPPool1d(_LPPool):
    """p-norm of every window of (N, C, L)."""

    def forward(self, input: Tensor) -> Tensor:
        return functions.lp_pool1d(
            input, self.norm_type, self.kernel_size, self.stride, self.ceil_mode
        )


class LPPool2d(_LPPool):
    """p-norm of every window of (N, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        return functions.lp_pool2d(
            input, self.norm_type, self.kernel_size, self.stride, self.ceil_mode
        )


class _AdaptiveAvgPool(Module):
    axes: int

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = getattr(functions, f"adaptive_avg_pool{self.axes}d")(
            input, self.output_size
        )
        return result

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """Means over `output_size` windows of (N, C, L)."""

    axes = 1


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """Means over as many windows of (N, C, H, W) as `output_size` says."""

    axes = 2


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """Means over as many windows of (N, C, D, H, W) as `output_size` says."""

    axes = 3


class _AdaptiveMaxPool(Module):
    axes: int

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__()
        self.output_size = output_size
        self.return_indices = return_indices

    def forward(self, input: Tensor) -> Any:
        pool = getattr(functions, f"adaptive_max_pool{self.axes}d")
        return pool(input, self.output_size, self.return_indices)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """Largest elements over `output_size` windows of (N, C, L)."""

    axes = 1


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """Largest elements over as many windows of (N, C, H, W) as `output_size` says."""

    axes = 2


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """Largest elements over as many windows of (N, C, D, H, W) as `output_size` says."""

    axes = 3
