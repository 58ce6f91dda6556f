"""Other sizes of images: interpolation, pixels moved between channels and space, patches as
columns.

Comes in: (N, C, *spatial). Goes out: the same layout in another size. Guaranteed: PyTorch's
sampling positions, with and without aligned corners.

Source: https://docs.pytorch.org/docs/stable/nn.functional.html#vision-functions
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from avalon import ops
from avalon.errors import ShapeError
from avalon.functions.indexing import along_axis
from avalon.functions.pooling import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d
from avalon.functions.support import along, broadcast, dtypes, must_float, pair, reshape
from avalon.shape import size_of
from avalon.tensor import Tensor, as_tensor

Ints = int | Sequence[int]
_RANKS = {"linear": 3, "bilinear": 4, "bicubic": 4, "trilinear": 5}


def interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """(N, C, *spatial) in another size: nearest, nearest-exact, linear, bilinear, bicubic,
    trilinear, area.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.interpolate.html
    """
    count = input.ndim - 2
    if count not in (1, 2, 3):
        raise NotImplementedError(
            f"[interpolate] expected 3 to 5 axes, (N, C, *spatial), got shape {tuple(input.shape)}"
        )
    if antialias:
        raise NotImplementedError("[interpolate] antialias=True is not there")
    if (size is None) == (scale_factor is None):
        raise ValueError("[interpolate] give either size or scale_factor")
    extents = tuple(input.shape[2:])
    factors: list[float | None] = [None] * count
    if size is not None:
        sizes = pair(size, count, "interpolate", "size")
    else:
        given = [scale_factor] * count if isinstance(scale_factor, (int, float)) else scale_factor
        sizes = tuple(math.floor(n * float(f)) for n, f in zip(extents, given, strict=True))
        if not recompute_scale_factor:
            factors = [float(f) for f in given]
    if mode == "area":
        pool = (adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)[count - 1]
        return pool(input, sizes)
    if mode in ("nearest", "nearest-exact"):
        return _nearest(input, sizes, factors, exact=mode == "nearest-exact")
    if _RANKS.get(mode) != input.ndim:
        raise NotImplementedError(
            f"[interpolate] mode {mode!r} does not fit an input of {input.ndim} axes, shape "
            f"{tuple(input.shape)}"
        )
    must_float("interpolate", input)
    x = input
    for axis in reversed(range(2, input.ndim)):  # the innermost first, as PyTorch adds them up
        steps = _positions(
            extents[axis - 2], sizes[axis - 2], factors[axis - 2], bool(align_corners),
            cubic=mode == "bicubic",
        )  # fmt: skip
        x = _blended(x, axis, steps, cubic=mode == "bicubic")
    return x


def _nearest(x: Tensor, sizes: tuple[int, ...], factors: list[float | None], exact: bool) -> Tensor:
    for i, (size, factor) in enumerate(zip(sizes, factors, strict=True)):
        axis, extent = i + 2, x.shape[i + 2]
        if size == extent and factor in (None, 1.0):
            continue
        step = np.float32(1 / factor if factor else extent / size)
        shift = np.float32(0.5 if exact else 0)
        index = np.floor((np.arange(size, dtype=np.float32) + shift) * step).astype(np.int64)
        index = np.minimum(index, extent - 1)
        times, rest = divmod(size, extent)
        if rest == 0 and (index == np.arange(size) // times).all():
            x = _repeated(x, axis, times)
        else:
            x = along_axis(x, axis, as_tensor(index.tolist(), dtype=dtypes.int64))
    return x


def _repeated(x: Tensor, axis: int, times: int) -> Tensor:
    shape = tuple(x.shape)
    apart = reshape(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    full = broadcast(apart, (*shape[: axis + 1], times, *shape[axis + 1 :]))
    return reshape(full, (*shape[:axis], shape[axis] * times, *shape[axis + 1 :]))


def _positions(
    extent: int, size: int, factor: float | None, align_corners: bool, cubic: bool
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Where along the input each output element lies."""
    place = np.arange(size, dtype=np.float64)
    if align_corners:
        return place * ((extent - 1) / (size - 1) if size > 1 else 0.0)
    found = (place + 0.5) * (1 / factor if factor else extent / size) - 0.5
    return found if cubic else np.maximum(found, 0.0)


def _cubic_weights(t: Any) -> list[Any]:
    a = -0.75  # the constant of PyTorch's bicubic

    def near(x: Any) -> Any:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: Any) -> Any:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def _blended(x: Tensor, axis: int, places: Any, cubic: bool) -> Tensor:
    """Weighted sums of neighbours along one axis."""
    extent = x.shape[axis]
    base = np.floor(places)
    fraction = places - base
    taps = (-1, 0, 1, 2) if cubic else (0, 1)
    weights = _cubic_weights(fraction) if cubic else [1 - fraction, fraction]
    total: Tensor | None = None
    for tap, weight in zip(taps, weights, strict=True):
        index = np.clip(base.astype(np.int64) + tap, 0, extent - 1)
        part = along_axis(x, axis, as_tensor(index.tolist(), dtype=dtypes.int64))
        scale = along(as_tensor(weight.tolist(), dtype=x.dtype), axis, x.ndim)
        part = part * broadcast(scale, tuple(part.shape))
        total = part if total is None else total + part
    assert total is not None
    return total


def upsample(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """The older name of `interpolate`."""
    return interpolate(input, size, scale_factor, mode, align_corners)


# --- pixels and channels ------------------------------------------------------------------------


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(*, C * r * r, H, W) to (*, C, H * r, W * r)."""
    r = upscale_factor
    *lead, channels, height, width = input.shape
    if channels % (r * r):
        raise ShapeError(
            f"[pixel_shuffle] {channels} channels of shape {tuple(input.shape)} must be divisible "
            "by "
            f"upscale_factor squared, {r * r}"
        )
    cut = reshape(input, (*lead, channels // (r * r), r, r, height, width))
    n = len(lead)
    order = (*range(n + 1), n + 3, n + 1, n + 4, n + 2)
    return reshape(
        ops.transpose(cut, permutation=order), (*lead, channels // (r * r), height * r, width * r)
    )


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """(*, C, H * r, W * r) to (*, C * r * r, H, W)."""
    r = downscale_factor
    *lead, channels, height, width = input.shape
    if height % r or width % r:
        raise ShapeError(
            f"[pixel_unshuffle] height and width of shape {tuple(input.shape)} must be divisible "
            f"by {r}"
        )
    cut = reshape(input, (*lead, channels, height // r, r, width // r, r))
    n = len(lead)
    order = (*range(n + 1), n + 2, n + 4, n + 1, n + 3)
    return reshape(
        ops.transpose(cut, permutation=order), (*lead, channels * r * r, height // r, width // r)
    )


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Channels of `groups` groups, taken in turn from each."""
    batch, channels, *rest = input.shape
    if channels % groups:
        raise ShapeError(f"[channel_shuffle] groups {groups} must divide {channels} channels")
    cut = reshape(input, (batch, groups, channels // groups, *rest))
    swapped = ops.transpose(cut, permutation=(0, 2, 1, *range(3, cut.ndim)))
    return reshape(swapped, tuple(input.shape))


# --- patches ------------------------------------------------------------------------------------


def unfold(
    input: Tensor, kernel_size: Ints, dilation: Ints = 1, padding: Ints = 0, stride: Ints = 1
) -> Tensor:
    """Patches of (N, C, H, W) as columns, (N, C * KH * KW, number of patches)."""
    kernel = pair(kernel_size, 2, "unfold", "kernel_size")
    dilations = pair(dilation, 2, "unfold", "dilation")
    paddings = pair(padding, 2, "unfold", "padding")
    strides = pair(stride, 2, "unfold", "stride")
    if input.ndim == 3:
        columns = unfold(reshape(input, (1, *input.shape)), kernel, dilations, paddings, strides)
        return reshape(columns, tuple(columns.shape[1:]))
    if input.ndim != 4:
        raise ShapeError(f"[unfold] expected (N, C, H, W) or (C, H, W), got {tuple(input.shape)}")
    low = high = (0, 0, *paddings)
    x = ops.pad(input, input.constant(0, shape=()), low=low, high=high) if any(low) else input
    cut = ops.window(x, axes=(2, 3), sizes=kernel, strides=strides, dilations=dilations)
    batch, channels, rows, columns_of, *_ = cut.shape
    moved = ops.transpose(cut, permutation=(0, 1, 4, 5, 2, 3))
    return reshape(moved, (batch, channels * size_of(kernel), rows * columns_of))


def fold(
    input: Tensor,
    output_size: Ints,
    kernel_size: Ints,
    dilation: Ints = 1,
    padding: Ints = 0,
    stride: Ints = 1,
) -> Tensor:
    """Columns of patches added up to images of `output_size`: the adjoint of `unfold`."""
    height, width = pair(output_size, 2, "fold", "output_size")
    kernel = pair(kernel_size, 2, "fold", "kernel_size")
    dilations = pair(dilation, 2, "fold", "dilation")
    paddings = pair(padding, 2, "fold", "padding")
    strides = pair(stride, 2, "fold", "stride")
    if input.ndim == 2:
        image = fold(
            reshape(input, (1, *input.shape)), (height, width), kernel, dilations, paddings, strides
        )
        return reshape(image, tuple(image.shape[1:]))
    padded = (height + 2 * paddings[0], width + 2 * paddings[1])
    windows = tuple(
        (n - d * (k - 1) - 1) // s + 1
        for n, k, d, s in zip(padded, kernel, dilations, strides, strict=True)
    )
    batch, rows, patches = input.shape
    if rows % size_of(kernel) or patches != size_of(windows):
        raise ShapeError(
            f"[fold] input of shape {tuple(input.shape)} must be (N, C * {size_of(kernel)}, "
            f"{size_of(windows)}) for output_size {(height, width)}"
        )
    channels = rows // size_of(kernel)
    cut = reshape(input, (batch, channels, *kernel, *windows))
    moved = ops.transpose(cut, permutation=(0, 1, 4, 5, 2, 3))
    image = ops.fold_window(
        moved, shape=(batch, channels, *padded), axes=(2, 3), sizes=kernel, strides=strides,
        dilations=dilations,
    )  # fmt: skip
    if not any(paddings):
        return image
    cropped = (0, 0, *(-p for p in paddings))
    return ops.pad(image, image.constant(0, shape=()), low=cropped, high=cropped)
