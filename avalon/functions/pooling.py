"""Pooling: the largest element or the mean of every window.

Comes in: (N, C, *spatial) or (C, *spatial). Goes out: the same layout with the number of windows.
Guaranteed: PyTorch's sizes with `ceil_mode` and padding, NaN wins a maximum, its gradient goes to
the first of equals; adaptive windows are PyTorch's (from floor(i * in / out) to ceil((i + 1) * in /
out)).

Source: https://docs.pytorch.org/docs/stable/nn.functional.html#pooling-functions
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avalon import ops
from avalon.errors import DTypeError, ShapeError
from avalon.functions.statistics import pick
from avalon.functions.support import broadcast, cast, dtypes, iota, pair, reshape
from avalon.ops.reduction import lowest
from avalon.shape import Shape, size_of
from avalon.tensor import Tensor, as_tensor
from avalon.tensor.composite import composite

Ints = int | Sequence[int]


def _windows_of(
    operation: str, extent: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool
) -> int:
    """Number of windows along one axis; with ceil_mode the last one may hang over the end."""
    reach = dilation * (kernel - 1) + 1
    room = extent + 2 * padding - reach
    count = (-(-room // stride) if ceil else room // stride) + 1
    if ceil and (count - 1) * stride >= extent + padding:
        count -= 1
    if count < 1:
        raise ShapeError(
            f"[{operation}] a window of {kernel} (dilation {dilation}) does not fit an axis of "
            "size "
            f"{extent} with padding {padding}"
        )
    return count


def _arguments(
    operation: str, input: Tensor, kernel_size: Ints, stride: Any, padding: Ints, dilation: Ints,
    ceil_mode: bool, count: int,
) -> tuple[Shape, Shape, Shape, Shape, Shape]:  # fmt: skip
    """Kernel, stride, padding, dilation and number of windows, one entry per spatial axis."""
    if input.ndim not in (count + 1, count + 2):
        raise ShapeError(
            f"[{operation}] expected (N, C, {count} spatial axes) or (C, ...), got shape "
            f"{tuple(input.shape)}"
        )
    kernel = pair(kernel_size, count, operation, "kernel_size")
    strides = kernel if stride in (None, (), []) else pair(stride, count, operation, "stride")
    paddings = pair(padding, count, operation, "padding")
    dilations = pair(dilation, count, operation, "dilation")
    for k, s, p, d in zip(kernel, strides, paddings, dilations, strict=True):
        if k < 1 or s < 1 or d < 1:
            raise RuntimeError(
                f"[{operation}] kernel_size {kernel}, stride {strides} and dilation {dilations} "
                "must "
                "be positive"
            )
        if p < 0 or 2 * p > k:
            raise RuntimeError(
                f"[{operation}] padding {paddings} must be at most half of kernel_size {kernel}"
            )
    windows = tuple(
        _windows_of(operation, extent, k, s, p, d, ceil_mode)
        for extent, k, s, p, d in zip(
            input.shape[-count:], kernel, strides, paddings, dilations, strict=True
        )
    )
    return kernel, strides, paddings, dilations, windows


def _padded(
    x: Tensor, value: Any, kernel: Shape, strides: Shape, paddings: Shape, dilations: Shape,
    windows: Shape,
) -> Tensor:  # fmt: skip
    """x with `value` around its last axes, so that exactly the windows fit."""
    count, lead = len(kernel), x.ndim - len(kernel)
    high = []
    for i in range(count):
        end = (windows[i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1
        high.append(end - paddings[i] - x.shape[lead + i])
    low = (0,) * lead + paddings
    if not any(low) and not any(high):
        return x
    return ops.pad(x, x.constant(value, shape=()), low=low, high=(0,) * lead + tuple(high))


def _windows(x: Tensor, kernel: Shape, strides: Shape, dilations: Shape) -> Tensor:
    """The windows over the last axes, each flattened to one last axis."""
    count = len(kernel)
    axes = tuple(range(x.ndim - count, x.ndim))
    cut = ops.window(x, axes=axes, sizes=kernel, strides=strides, dilations=dilations)
    return reshape(cut, (*cut.shape[: x.ndim], size_of(kernel)))


@composite
def _max_pool(
    operation: str, input: Tensor, kernel_size: Ints, stride: Any, padding: Ints, dilation: Ints,
    ceil_mode: bool, return_indices: bool, count: int,
) -> Any:  # fmt: skip
    kernel, strides, paddings, dilations, windows = _arguments(
        operation, input, kernel_size, stride, padding, dilation, ceil_mode, count
    )
    edge = lowest(input.dtype)
    padded = _padded(input, edge, kernel, strides, paddings, dilations, windows)
    cut = _windows(padded, kernel, strides, dilations)
    axis = cut.ndim - 1
    if cut.numel() == 0:
        place = cut.constant(0, shape=tuple(cut.shape[:-1]), dtype=dtypes.int64)
        found = ops.reduce_sum(cut, axes=(axis,))  # of no elements, but with a history
    else:
        place = ops.argmax(cut, axis=axis)
        found = pick(cut, place, axis)
    if not return_indices:
        return found
    return found, _flat_places(place, input.shape[-count:], kernel, strides, paddings, dilations)


def _flat_places(
    place: Tensor, extents: Shape, kernel: Shape, strides: Shape, paddings: Shape, dilations: Shape
) -> Tensor:
    """Places inside windows as positions in the flattened spatial axes of the input."""
    count = len(kernel)
    flat, rest = place.constant(0), place
    for i in range(count):
        inside = size_of(kernel[i + 1 :])
        step = ops.floor_divide(rest, rest.constant(inside))
        rest = ops.remainder(rest, rest.constant(inside))
        window = iota(place.shape, place.ndim - count + i)
        position = window * window.constant(strides[i]) + step * step.constant(dilations[i])
        position = position - position.constant(paddings[i])
        flat = flat * flat.constant(extents[i]) + position
    return flat


def max_pool1d(
    input: Tensor, kernel_size: Ints, stride: Any = None, padding: Ints = 0, dilation: Ints = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """Largest element of every window of (N, C, L)."""
    return _max_pool(
        "max_pool1d", input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, 1
    )


def max_pool2d(
    input: Tensor, kernel_size: Ints, stride: Any = None, padding: Ints = 0, dilation: Ints = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """Largest element of every window of (N, C, H, W); its gradient goes to the first of equals.

    With `return_indices` also their int64 positions in the flattened image.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.max_pool2d.html

    >>> import avalon as av
    >>> av.max_pool2d(av.arange(16.0).reshape(1, 4, 4), 2)
    tensor([[[ 5.,  7.],
             [13., 15.]]])
    """
    return _max_pool(
        "max_pool2d", input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, 2
    )


def max_pool3d(
    input: Tensor, kernel_size: Ints, stride: Any = None, padding: Ints = 0, dilation: Ints = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """Largest element of every window of (N, C, D, H, W)."""
    return _max_pool(
        "max_pool3d", input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, 3
    )


@composite
def _avg_pool(
    operation: str, input: Tensor, kernel_size: Ints, stride: Any, padding: Ints, ceil_mode: bool,
    count_include_pad: bool, divisor_override: int | None, count: int,
) -> Tensor:  # fmt: skip
    if not input.dtype.is_floating_point:
        raise DTypeError(f"[{operation}] is defined for floats, got {input.dtype!r}; use .float()")
    kernel, strides, paddings, dilations, windows = _arguments(
        operation, input, kernel_size, stride, padding, 1, ceil_mode, count
    )
    if divisor_override == 0:
        raise RuntimeError(f"[{operation}] divisor_override must not be zero")
    padded = _padded(input, 0, kernel, strides, paddings, dilations, windows)
    cut = _windows(padded, kernel, strides, dilations)
    total = ops.reduce_sum(cut, axes=(cut.ndim - 1,))
    if divisor_override is not None:
        return total / total.constant(divisor_override)
    sizes = [
        _window_sizes(input.shape[input.ndim - count + i], kernel[i], strides[i], paddings[i],
                      windows[i], count_include_pad)
        for i in range(count)
    ]  # fmt: skip
    if all(size == sizes[i][0] for i in range(count) for size in sizes[i]):
        return total / total.constant(size_of([size[0] for size in sizes]))
    divisor = total.constant(1)
    for i, along_axis in enumerate(sizes):
        vector = as_tensor([float(size) for size in along_axis], dtype=input.dtype)
        shape = (len(along_axis),) + (1,) * (count - i - 1)
        divisor = divisor * broadcast(reshape(vector, shape), total.shape)
    return total / divisor


def _window_sizes(
    extent: int, kernel: int, stride: int, padding: int, windows: int, include_padding: bool
) -> list[int]:
    """How many elements each window along one axis counts."""
    sizes = []
    for window in range(windows):
        start = window * stride - padding
        end = min(start + kernel, extent + padding)
        sizes.append(end - start if include_padding else min(end, extent) - max(start, 0))
    return sizes


def avg_pool1d(
    input: Tensor, kernel_size: Ints, stride: Any = None, padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:  # fmt: skip
    """Mean of every window of (N, C, L)."""
    return _avg_pool(
        "avg_pool1d", input, kernel_size, stride, padding, ceil_mode, count_include_pad, None, 1
    )


def avg_pool2d(
    input: Tensor, kernel_size: Ints, stride: Any = None, padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """Mean of every window of (N, C, H, W); padding counts as zeros unless count_include_pad=False.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.avg_pool2d.html
    """
    return _avg_pool(
        "avg_pool2d", input, kernel_size, stride, padding, ceil_mode, count_include_pad,
        divisor_override, 2,
    )  # fmt: skip


def avg_pool3d(
    input: Tensor, kernel_size: Ints, stride: Any = None, padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Tensor:  # fmt: skip
    """Mean of every window of (N, C, D, H, W)."""
    return _avg_pool(
        "avg_pool3d", input, kernel_size, stride, padding, ceil_mode, count_include_pad,
        divisor_override, 3,
    )  # fmt: skip


def lp_pool1d(
    input: Tensor, norm_type: float, kernel_size: Ints, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """p-norm of every window of (N, C, L)."""
    return _lp_pool(avg_pool1d, input, norm_type, kernel_size, stride, ceil_mode, 1)


def lp_pool2d(
    input: Tensor, norm_type: float, kernel_size: Ints, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """p-norm of every window of (N, C, H, W)."""
    return _lp_pool(avg_pool2d, input, norm_type, kernel_size, stride, ceil_mode, 2)


def _lp_pool(
    average: Any, input: Tensor, p: float, kernel_size: Ints, stride: Any, ceil: bool, count: int
) -> Tensor:
    size = size_of(pair(kernel_size, count, "lp_pool", "kernel_size"))
    mean = average(input**p, kernel_size, stride, 0, ceil)
    return (mean * size).relu() ** (1.0 / p)


# --- adaptive: the number of windows is given ---------------------------------------------------


def _adaptive_sizes(operation: str, input: Tensor, output_size: Any, count: int) -> Shape:
    if input.ndim not in (count + 1, count + 2):
        raise ShapeError(
            f"[{operation}] expected (N, C, {count} spatial axes) or (C, ...), got shape "
            f"{tuple(input.shape)}"
        )
    asked = (
        (output_size,) * count
        if output_size is None or isinstance(output_size, int)
        else output_size
    )
    if len(asked) != count:
        raise ShapeError(f"[{operation}] output_size must be one int or {count}, got {output_size}")
    own = input.shape[-count:]
    return tuple(own[i] if size is None else int(size) for i, size in enumerate(asked))


def _adaptive_axis(x: Tensor, axis: int, size: int) -> tuple[Tensor, Tensor | None]:
    """Windows of one axis as a new axis after it, and a mask of the places that count (or None)."""
    extent = x.shape[axis]
    starts = [i * extent // size for i in range(size)]
    ends = [-(-(i + 1) * extent // size) for i in range(size)]
    widths = [end - start for start, end in zip(starts, ends, strict=True)]
    widest = max(widths, default=0)
    if extent % size == 0:
        shape = tuple(x.shape)
        return reshape(x, (*shape[:axis], size, widest, *shape[axis + 1 :])), None
    places = [[min(start + k, extent - 1) for k in range(widest)] for start in starts]
    front = ops.transpose(x, permutation=(axis, *(a for a in range(x.ndim) if a != axis)))
    cut = ops.take(front, as_tensor(places, dtype=dtypes.int64))  # [size, widest, *rest]
    order = (*range(2, axis + 2), 0, 1, *range(axis + 2, cut.ndim))
    counts = [[k < width for k in range(widest)] for width in widths]
    mask = reshape(as_tensor(counts), (size, widest) + (1,) * (x.ndim - axis - 1))
    return ops.transpose(cut, permutation=order), mask


def _adaptive_average(operation: str, input: Tensor, output_size: Any, count: int) -> Tensor:
    sizes = _adaptive_sizes(operation, input, output_size, count)
    lead, spatial = tuple(input.shape[:-count]), tuple(input.shape[-count:])
    if all(size and extent % size == 0 for size, extent in zip(sizes, spatial, strict=True)):
        # Windows of one size that do not overlap: all of their axes are summed at once.
        widths = [extent // size for size, extent in zip(sizes, spatial, strict=True)]
        paired = [n for pair in zip(sizes, widths, strict=True) for n in pair]
        axes = tuple(len(lead) + 1 + 2 * i for i in range(count))
        total = ops.reduce_sum(reshape(input, (*lead, *paired)), axes=axes)
        return total / total.constant(size_of(widths))
    x = input
    for i, size in enumerate(sizes):
        axis = input.ndim - count + i
        if size == x.shape[axis]:
            continue
        cut, mask = _adaptive_axis(x, axis, size)
        if mask is None:
            total = ops.reduce_sum(cut, axes=(axis + 1,))
            x = total / total.constant(cut.shape[axis + 1])
            continue
        spread_mask = broadcast(mask, cut.shape)
        total = ops.reduce_sum(ops.where(spread_mask, cut, cut.constant(0)), axes=(axis + 1,))
        number = ops.reduce_sum(cast(spread_mask, x.dtype), axes=(axis + 1,))
        x = total / number
    return x


def adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    """Means of (N, C, L) over `output_size` windows."""
    return _adaptive_average("adaptive_avg_pool1d", input, output_size, 1)


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Means of (N, C, H, W) over windows that make the given output size; None keeps an axis."""
    return _adaptive_average("adaptive_avg_pool2d", input, output_size, 2)


def adaptive_avg_pool3d(input: Tensor, output_size: Any) -> Tensor:
    """Means of (N, C, D, H, W) over windows that make the given output size."""
    return _adaptive_average("adaptive_avg_pool3d", input, output_size, 3)


def _adaptive_max(
    operation: str, input: Tensor, output_size: Any, return_indices: bool, count: int
) -> Any:
    sizes = _adaptive_sizes(operation, input, output_size, count)
    spatial = tuple(input.shape[-count:])
    lead = tuple(input.shape[:-count])
    positions = reshape(iota((size_of(spatial),), 0), spatial)
    x, where_from = input, broadcast(positions, input.shape)
    # The last axis first: among equals the first row wins, and within it the first column.
    for i in reversed(range(count)):
        axis = len(lead) + i
        cut, mask = _adaptive_axis(x, axis, sizes[i])
        origin, _ = _adaptive_axis(where_from, axis, sizes[i])
        if mask is not None:
            inside = broadcast(mask, cut.shape)
            cut = ops.where(inside, cut, cut.constant(lowest(x.dtype)))
        place = ops.argmax(cut, axis=axis + 1)
        x, where_from = pick(cut, place, axis + 1), pick(origin, place, axis + 1)
    return (x, where_from) if return_indices else x


def adaptive_max_pool1d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Largest elements of (N, C, L) over `output_size` windows."""
    return _adaptive_max("adaptive_max_pool1d", input, output_size, return_indices, 1)


def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Largest elements of (N, C, H, W) over windows that make the given output size."""
    return _adaptive_max("adaptive_max_pool2d", input, output_size, return_indices, 2)


def adaptive_max_pool3d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Largest elements of (N, C, D, H, W) over windows that make the given output size."""
    return _adaptive_max("adaptive_max_pool3d", input, output_size, return_indices, 3)
