"""Convolutions and their transposes in one, two and three dimensions.

Comes in: (N, C, *spatial) or (C, *spatial) tensors and kernels as PyTorch lays them out. Goes out:
the same layout. Guaranteed: everything becomes one primitive, `convolve`, with groups as its
leading axis.

Source: https://docs.pytorch.org/docs/stable/nn.functional.html#convolution-functions
"""

from __future__ import annotations

from collections.abc import Sequence

from avalon import ops
from avalon.errors import DTypeError, ShapeError
from avalon.functions.support import broadcast, pair, reshape
from avalon.shape import Shape
from avalon.tensor import Tensor
from avalon.tensor.composite import composite

Ints = int | Sequence[int]


def _check(
    operation: str, input: Tensor, weight: Tensor, bias: Tensor | None, count: int,
    channels: int, expected: int,
) -> None:  # fmt: skip
    if weight.ndim != count + 2:
        raise ShapeError(
            f"[{operation}] weight of shape {tuple(weight.shape)} must have {count + 2} axes"
        )
    if input.ndim not in (count + 1, count + 2):
        raise ShapeError(
            f"[{operation}] input of shape {tuple(input.shape)} must have {count + 2} axes "
            f"(batch, channels, {count} spatial), or {count + 1} without the batch"
        )
    if channels != expected:
        raise ShapeError(
            f"[{operation}] input of shape {tuple(input.shape)} has {channels} channels; weight of "
            f"shape {tuple(weight.shape)} expects {expected}"
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype is not input.dtype:
            remedy = (
                "convert the input with .float()"
                if not input.dtype.is_floating_point
                else f"convert the input with .to({tensor.dtype!r}), or the layer with "
                f".to({input.dtype!r})"
            )
            raise DTypeError(
                f"[{operation}] input is {input.dtype!r} and {name} is {tensor.dtype!r}: {remedy}"
            )


def _add_bias(operation: str, y: Tensor, bias: Tensor | None, count: int) -> Tensor:
    if bias is None:
        return y
    channels = y.shape[-count - 1]
    if tuple(bias.shape) != (channels,):
        raise ShapeError(
            f"[{operation}] bias of shape {tuple(bias.shape)} must have shape ({channels},), one "
            "element per output channel"
        )
    return y + broadcast(reshape(bias, (channels,) + (1,) * count), y.shape)


def _grouped(x: Tensor, groups: int, axis: int) -> Tensor:
    """Cut `axis` in `groups` parts, which become the leading axis."""
    shape = tuple(x.shape)
    cut = reshape(x, (*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :]))
    if axis == 0:
        return cut
    return ops.transpose(cut, permutation=(axis, *range(axis), *range(axis + 1, cut.ndim)))


def _ungrouped(y: Tensor) -> Tensor:
    """[G, N, C, *O] to (N, G * C, *O)."""
    groups, batch, channels, *extents = y.shape
    if groups > 1:
        y = ops.transpose(y, permutation=(1, 0, *range(2, y.ndim)))
    return reshape(y, (batch, groups * channels, *extents))


def _divides(operation: str, groups: int, **channels: int) -> None:
    if groups < 1:
        raise ShapeError(f"[{operation}] groups must be at least 1, got {groups}")
    for name, number in channels.items():
        if number % groups:
            raise ShapeError(
                f"[{operation}] groups = {groups} must divide {number} {name} channels"
            )


def _padding(
    operation: str, padding: str | Ints, stride: Shape, dilation: Shape, kernel: Shape
) -> tuple[Shape, Shape]:
    """Padding before and after each spatial axis."""
    if isinstance(padding, str):
        if padding == "valid":
            return (0,) * len(kernel), (0,) * len(kernel)
        if padding != "same":
            raise ValueError(
                f"[{operation}] padding must be 'same', 'valid' or ints, got {padding!r}"
            )
        if any(s != 1 for s in stride):
            raise RuntimeError(f"[{operation}] padding='same' needs stride 1, got {stride}")
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    both = pair(padding, len(kernel), operation, "padding")
    if any(p < 0 for p in both):
        raise RuntimeError(f"[{operation}] negative padding {both} is not supported")
    return both, both


@composite
def convolution(
    operation: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: str | Ints,
    dilation: Ints,
    groups: int,
    count: int,
) -> Tensor:
    """Convolution over `count` spatial axes; what conv1d, conv2d and conv3d share."""
    _divides(operation, groups, output=weight.shape[0] if weight.ndim else 0)
    channels = input.shape[-count - 1] if input.ndim > count else -1
    expected = weight.shape[1] * groups if weight.ndim == count + 2 else -1
    _check(operation, input, weight, bias, count, channels, expected)
    strides = pair(stride, count, operation, "stride")
    dilations = pair(dilation, count, operation, "dilation")
    if any(n < 1 for n in (*strides, *dilations)):
        raise RuntimeError(
            f"[{operation}] stride {strides} and dilation {dilations} must be positive"
        )
    kernel = tuple(weight.shape[2:])
    low, high = _padding(operation, padding, strides, dilations, kernel)
    x = input if input.ndim == count + 2 else reshape(input, (1, *input.shape))
    for extent, k, d, a, b in zip(x.shape[2:], kernel, dilations, low, high, strict=True):
        if d * (k - 1) + 1 > extent + a + b:
            raise ShapeError(
                f"[{operation}] the kernel of size {kernel} with dilation {dilations} is larger "
                "than "
                f"the input of shape {tuple(input.shape)} with padding {low}"
            )
    y = ops.convolve(
        _grouped(x, groups, 1),
        _grouped(weight, groups, 0),
        stride=strides,
        input_dilation=(1,) * count,
        kernel_dilation=dilations,
        low=low,
        high=high,
        flip=False,
    )
    y = _ungrouped(y)
    y = y if input.ndim == count + 2 else reshape(y, tuple(y.shape[1:]))
    return _add_bias(operation, y, bias, count)


def conv1d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Ints = 1,
    padding: str | Ints = 0, dilation: Ints = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """Convolution (N, C, L) with (O, C / groups, K) to (N, O, L')."""
    return convolution("conv1d", input, weight, bias, stride, padding, dilation, groups, 1)


def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Ints = 1,
    padding: str | Ints = 0, dilation: Ints = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """Convolution (N, C, H, W) with (O, C / groups, KH, KW) to (N, O, H', W').

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.conv2d.html

    Raises:
        ShapeError: channels, groups or sizes do not fit.

    >>> import avalon as av
    >>> av.conv2d(av.ones(1, 2, 5, 5), av.ones(3, 2, 3, 3), padding=1).shape
    (1, 3, 5, 5)
    """
    return convolution("conv2d", input, weight, bias, stride, padding, dilation, groups, 2)


def conv3d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Ints = 1,
    padding: str | Ints = 0, dilation: Ints = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """Convolution (N, C, D, H, W) with (O, C / groups, KD, KH, KW) to (N, O, D', H', W')."""
    return convolution("conv3d", input, weight, bias, stride, padding, dilation, groups, 3)


def transposed(
    operation: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    output_padding: Ints,
    groups: int,
    dilation: Ints,
    count: int,
) -> Tensor:
    """The gradient of a convolution with respect to its input, as a layer of its own."""
    channels = input.shape[-count - 1] if input.ndim > count else -1
    _check(operation, input, weight, bias, count, channels, weight.shape[0] if weight.ndim else -1)
    _divides(operation, groups, input=channels)
    strides = pair(stride, count, operation, "stride")
    dilations = pair(dilation, count, operation, "dilation")
    paddings = pair(padding, count, operation, "padding")
    extra = pair(output_padding, count, operation, "output_padding")
    for e, s, d in zip(extra, strides, dilations, strict=True):
        if e >= max(s, d):
            raise RuntimeError(
                f"[{operation}] output_padding {extra} must be smaller than stride {strides} or "
                f"dilation {dilations}"
            )
    x = input if input.ndim == count + 2 else reshape(input, (1, *input.shape))
    reach = tuple(d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True))
    made = tuple(
        (n - 1) * s - 2 * p + r + e + 1
        for n, s, p, r, e in zip(x.shape[2:], strides, paddings, reach, extra, strict=True)
    )
    if 0 not in x.shape and any(extent < 1 for extent in made):
        raise ShapeError(
            f"[{operation}] the output would have size {made}: padding {paddings} cuts away all "
            f"that the kernel of size {tuple(weight.shape[2:])} makes of the input of shape "
            f"{input.shape}"
        )
    kernel = _grouped(weight, groups, 0)  # [G, C, O, *K]
    y = ops.convolve(
        _grouped(x, groups, 1),
        ops.transpose(kernel, permutation=(0, 2, 1, *range(3, kernel.ndim))),
        stride=(1,) * count,
        input_dilation=strides,
        kernel_dilation=dilations,
        low=tuple(r - p for r, p in zip(reach, paddings, strict=True)),
        high=tuple(r - p + e for r, p, e in zip(reach, paddings, extra, strict=True)),
        flip=True,
    )
    y = _ungrouped(y)
    y = y if input.ndim == count + 2 else reshape(y, tuple(y.shape[1:]))
    return _add_bias(operation, y, bias, count)


def conv_transpose1d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Ints = 1, padding: Ints = 0,
    output_padding: Ints = 0, groups: int = 1, dilation: Ints = 1,
) -> Tensor:  # fmt: skip
    """Transposed convolution (N, C, L) with (C, O / groups, K) to (N, O, L')."""
    return transposed(
        "conv_transpose1d",
        input,
        weight,
        bias,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        1,
    )


def conv_transpose2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Ints = 1, padding: Ints = 0,
    output_padding: Ints = 0, groups: int = 1, dilation: Ints = 1,
) -> Tensor:  # fmt: skip
    """Transposed convolution (N, C, H, W) with (C, O / groups, KH, KW) to (N, O, H', W').

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.ConvTranspose2d.html
    """
    return transposed(
        "conv_transpose2d",
        input,
        weight,
        bias,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        2,
    )


def conv_transpose3d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Ints = 1, padding: Ints = 0,
    output_padding: Ints = 0, groups: int = 1, dilation: Ints = 1,
) -> Tensor:  # fmt: skip
    """Transposed convolution over three spatial axes."""
    return transposed(
        "conv_transpose3d",
        input,
        weight,
        bias,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        3,
    )
