"""Contractions: sums of products. Both are closed under their gradients.

`contract` is the batched matrix product; `convolve` covers every convolution, its transposes and
its gradients: stride, input dilation, kernel dilation, padding that may be negative, flipped
kernels, groups as the leading axis of both operands.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from avalon.errors import DTypeError, ShapeError
from avalon.graph.primitive import Contraction, primitive
from avalon.ops import placement_samples as samples
from avalon.ops.movement import reverse, transpose


def _check_same_dtype(operation: str, a: Any, b: Any) -> None:
    if a.dtype is not b.dtype:
        raise DTypeError(
            f"[{operation}] dtypes {a.dtype.name} and {b.dtype.name} must be equal; cast one"
        )


def _wide(x):
    """16-bit floats are multiplied and summed in float32."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


@primitive(Contraction, accepts="number", samples=samples.matrix_products)
def contract(a, b):
    """Batched matrix product: [B, M, K] and [B, K, N] to [B, M, N]."""
    return np.matmul(_wide(a), _wide(b)).astype(a.dtype)


@contract.shape
def _(a, b):
    _check_same_dtype("contract", a, b)
    if not (a.ndim == b.ndim == 3 and a.shape[0] == b.shape[0] and a.shape[2] == b.shape[1]):
        raise ShapeError(
            f"[contract] shapes {a.shape} and {b.shape} do not multiply; expected [B, M, K] and "
            "[B, K, N]"
        )
    return (a.shape[0], a.shape[1], b.shape[2]), a.dtype


@contract.gradient
def _(g, y, a, b):
    swap = (0, 2, 1)
    return contract(g, transpose(b, permutation=swap)), contract(transpose(a, permutation=swap), g)


contract.lowering("contract")


def dilated(extent: int, dilation: int) -> int:
    """Length of `extent` elements that lie `dilation` apart."""
    return (extent - 1) * dilation + 1 if extent else 0


@primitive(Contraction, accepts="number", samples=samples.convolutions)
def convolve(x, w, stride, input_dilation, kernel_dilation, low, high, flip):
    """Convolution: x [G, N, Ci, *S] and w [G, Co, Ci, *K] to [G, N, Co, *O].

    Elements of x are set `input_dilation` apart, `low` and `high` zeros are added at the ends
    (negative: elements are cut off), then out[o] = sum over taps k of x[o * stride + k *
    kernel_dilation] w[k], or w[K - 1 - k] if `flip`. All but `flip` have one entry per spatial
    axis.
    """
    spread, kernel = _spread(_wide(x), input_dilation, low, high), _wide(w)
    if flip:
        kernel = np.flip(kernel, tuple(range(3, w.ndim)))
    extents = _output_extents(spread.shape[3:], w.shape[3:], stride, kernel_dilation)
    result = np.zeros((x.shape[0], x.shape[1], w.shape[1], *extents), spread.dtype)
    for tap in itertools.product(*map(range, w.shape[3:])):
        seen = tuple(
            slice(k * d, k * d + (count - 1) * s + 1 if count else k * d, s)
            for k, d, s, count in zip(tap, kernel_dilation, stride, extents, strict=True)
        )
        pixels = spread[(slice(None),) * 3 + seen].reshape(*x.shape[:3], -1)
        summed = np.matmul(kernel[(..., *tap)][:, None], pixels)
        result += summed.reshape(result.shape)
    return result.astype(x.dtype)


def _spread(x, dilation, low, high):
    """x with its elements `dilation` apart, then padded or cut."""
    extents = tuple(dilated(n, d) for n, d in zip(x.shape[3:], dilation, strict=True))
    apart = np.zeros((*x.shape[:3], *extents), x.dtype)
    apart[(slice(None),) * 3 + tuple(slice(None, None, d) for d in dilation)] = x
    padded = tuple(max(0, a + n + b) for n, a, b in zip(extents, low, high, strict=True))
    result = np.zeros((*x.shape[:3], *padded), x.dtype)
    source, target = [], []
    for n, a, total in zip(extents, low, padded, strict=True):
        first, last = max(0, -a), min(n, total - a)
        source.append(slice(first, max(first, last)))
        target.append(slice(first + a, first + a + max(0, last - first)))
    result[(slice(None),) * 3 + tuple(target)] = apart[(slice(None),) * 3 + tuple(source)]
    return result


def _output_extents(padded, kernel, stride, kernel_dilation):
    return tuple(
        (n - dilated(k, d)) // s + 1
        for n, k, s, d in zip(padded, kernel, stride, kernel_dilation, strict=True)
    )


@convolve.shape
def _(x, w, stride, input_dilation, kernel_dilation, low, high, flip):
    _check_same_dtype("convolve", x, w)
    if x.ndim != w.ndim or x.ndim < 3 or x.shape[0] != w.shape[0] or x.shape[2] != w.shape[2]:
        raise ShapeError(
            f"[convolve] shapes {x.shape} and {w.shape} do not fit; expected [groups, batch, "
            "channels, "
            "*space] and [groups, channels out, channels, *kernel]"
        )
    space = x.ndim - 3
    steps = {
        "stride": stride, "input_dilation": input_dilation, "kernel_dilation": kernel_dilation
    }  # fmt: skip
    for name, given in {**steps, "low": low, "high": high}.items():
        if len(given) != space or (name in steps and min(given, default=1) < 1):
            raise ShapeError(
                f"[convolve] {name} {given} needs one entry for each of {space} spatial axes"
                + (", at least 1" if name in steps else "")
            )
    padded = tuple(
        dilated(n, d) + a + b
        for n, d, a, b in zip(x.shape[3:], input_dilation, low, high, strict=True)
    )
    extents = _output_extents(padded, w.shape[3:], stride, kernel_dilation)
    if any(extent < 1 for extent in extents) or 0 in w.shape[3:]:
        raise ShapeError(
            f"[convolve] a kernel of size {w.shape[3:]} with dilation {kernel_dilation} is "
            "larger than "
            f"the padded input of size {padded}"
        )
    return (x.shape[0], x.shape[1], w.shape[1], *extents), x.dtype


@convolve.gradient
def _(g, y, x, w, stride, input_dilation, kernel_dilation, low, high, flip):
    space, extents, kernel = x.shape[3:], y.shape[3:], w.shape[3:]
    axes = range(len(space))
    reach = [dilated(kernel[i], kernel_dilation[i]) for i in axes]
    covered = [dilated(extents[i], stride[i]) for i in axes]
    spread = [dilated(space[i], input_dilation[i]) for i in axes]
    swap = (0, 2, 1, *range(3, x.ndim))

    back = tuple(reach[i] - 1 - low[i] for i in axes)
    by_input = convolve(
        g,
        transpose(w, permutation=swap),
        stride=input_dilation,
        input_dilation=stride,
        kernel_dilation=kernel_dilation,
        low=back,
        high=tuple(spread[i] - 1 + reach[i] - covered[i] - back[i] for i in axes),
        flip=not flip,
    )
    if 0 in space:
        by_input = g.constant(0, shape=x.shape)
    by_kernel = convolve(
        transpose(x, permutation=swap),
        transpose(g, permutation=swap),
        stride=kernel_dilation,
        input_dilation=input_dilation,
        kernel_dilation=stride,
        low=low,
        high=tuple(reach[i] - 1 + covered[i] - spread[i] - low[i] for i in axes),
        flip=False,
    )
    by_kernel = transpose(by_kernel, permutation=swap)
    return by_input, reverse(by_kernel, axes=tuple(range(3, x.ndim))) if flip else by_kernel


convolve.lowering("convolve")
