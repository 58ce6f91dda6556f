"""Activation functions, softmax and its relatives.

Comes in: floating tensors of any shape. Goes out: tensors of the same shape and dtype (`glu` halves an
axis). Guaranteed: no overflow inside a formula reaches the result or its gradient, and at kinks the
gradient is PyTorch's (https://docs.pytorch.org/docs/stable/nn.functional.html): relu, hardtanh and relu6
give 0 there.
"""

from __future__ import annotations

import math

from avalon import ops
from avalon.dtype import DType
from avalon.errors import ShapeError
from avalon.functions.custom import with_gradient
from avalon.functions.support import (
    Number,
    broadcast,
    cast,
    floating,
    in_place,
    must_float,
    part,
    scalar,
    spread,
)
from avalon.shape import normalize_axis
from avalon.tensor import Tensor, as_tensor, method


@method("relu")
def relu(x: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0), of any shape and numeric dtype; the gradient at 0 is 0.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.relu.html

    >>> import avalon as av
    >>> av.relu(av.tensor([-1.0, 0.0, 2.0]))
    tensor([0., 0., 2.])
    """
    x = as_tensor(x)
    zero = x.constant(0)
    return _result(x, ops.where(ops.less_equal(x, zero), zero, x), inplace)


def _result(x: Tensor, y: Tensor, inplace: bool) -> Tensor:
    return x.assign_(y) if inplace else y


def relu6(x: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x, 0), 6); the gradient at 0 and 6 is 0."""
    return hardtanh(x, 0.0, 6.0, inplace)


def hardtanh(
    x: Tensor, min_val: Number = -1.0, max_val: Number = 1.0, inplace: bool = False
) -> Tensor:
    """`x` limited to [min_val, max_val]; unlike `clamp`, the gradient at the limits is 0."""
    if min_val > max_val:
        raise ValueError(f"[hardtanh] min_val {min_val} must not exceed max_val {max_val}")
    low, high = scalar(x, min_val), scalar(x, max_val)

    def formula(x: Tensor) -> Tensor:
        limited = ops.where(ops.less_equal(x, low), low, x)
        return ops.where(ops.less_equal(high, limited), high, limited)

    def backward(g: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor]:
        return (ops.where(ops.less(low, x) & ops.less(x, high), g, g.constant(0)),)

    return _result(x, with_gradient("hardtanh", formula, backward, x), inplace)


def leaky_relu(x: Tensor, negative_slope: Number = 0.01, inplace: bool = False) -> Tensor:
    """x where it is positive, else negative_slope * x; the gradient at 0 is negative_slope."""
    zero = x.constant(0)
    return _result(x, ops.where(ops.less(zero, x), x, x * negative_slope), inplace)


@method("prelu")
def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """x where it is positive, else weight * x; `weight` has 1 element or one per channel (axis 1).

    Raises:
        ShapeError: the number of weights is neither 1 nor that of the channels.
    """
    channels = x.shape[1] if x.ndim > 1 else 1
    if weight.ndim > 1 or (weight.numel() != 1 and weight.numel() != channels):
        raise ShapeError(
            f"[prelu] weight of shape {weight.shape} must have 1 element or one per channel; "
            f"the input of shape {x.shape} has {channels}"
        )
    if x.ndim > 1 and weight.numel() != 1:
        weight = ops.reshape(weight, shape=(channels,) + (1,) * (x.ndim - 2))
    elif weight.ndim != 0:
        weight = ops.reshape(weight, shape=())
    zero = x.constant(0)
    return ops.where(ops.less(zero, x), x, x * broadcast(weight, x.shape))


def rrelu(
    x: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """Leaky relu with the slope (lower + upper) / 2; drawn slopes belong to training mode only.

    Raises:
        NotImplementedError: in training mode with lower < upper.
    """
    if training and lower != upper:
        raise NotImplementedError(
            "[rrelu] draws no slopes in training mode; use leaky_relu, or rrelu(training=False)"
        )
    return leaky_relu(x, (lower + upper) / 2, inplace)


def elu(x: Tensor, alpha: Number = 1.0, inplace: bool = False) -> Tensor:
    """x where it is positive, else alpha * (exp(x) - 1)."""
    negative, below = _negative_part(x)
    return _result(x, ops.where(negative, ops.expm1(below) * alpha, x), inplace)


def _negative_part(x: Tensor) -> tuple[Tensor, Tensor]:
    """Where x <= 0, and x there, with 0 elsewhere to keep exponentials finite."""
    zero = x.constant(0)
    negative = ops.less_equal(x, zero)
    return negative, ops.where(negative, x, zero)


def selu(x: Tensor, inplace: bool = False) -> Tensor:
    """The self-normalizing elu, scale * elu(x, alpha), with Klambauer's constants."""
    alpha, scale = (
        x.constant(1.6732632423543772848170429916717),
        x.constant(1.0507009873554804934193349852946),
    )
    negative, below = _negative_part(x)
    value = ops.where(negative, ops.expm1(below) * (alpha * scale), x * scale)
    return _result(x, value, inplace)


def celu(x: Tensor, alpha: Number = 1.0, inplace: bool = False) -> Tensor:
    """x where it is positive, else alpha * (exp(x / alpha) - 1)."""
    if alpha == 0:
        raise ZeroDivisionError("[celu] alpha must not be 0")
    negative, below = _negative_part(x)
    return _result(x, ops.where(negative, ops.expm1(below / alpha) * alpha, x), inplace)


@method("sigmoid")
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)); integers and bools become the default float dtype.

    >>> import avalon as av
    >>> av.sigmoid(av.tensor(0.0))
    tensor(0.5000)
    """
    return ops.sigmoid(floating(x))


def logsigmoid(x: Tensor) -> Tensor:
    """log(sigmoid(x)), exact for large |x|: min(x, 0) - log1p(exp(-|x|))."""
    zero = x.constant(0)
    negative = ops.less(x, zero)
    minus_size = ops.where(negative, x, -x)  # its slope at 0 is -1, which abs would lose
    return ops.where(negative, x, zero) - ops.log1p(ops.exp(minus_size))


def softplus(x: Tensor, beta: Number = 1.0, threshold: Number = 20.0) -> Tensor:
    """log(1 + exp(beta * x)) / beta; x itself where beta * x > threshold."""
    scaled = x * beta
    linear = scaled > threshold
    inside = ops.where(linear, x.constant(0), scaled)  # keeps exp, and its gradient, finite
    return ops.where(linear, x, ops.log1p(ops.exp(inside)) / beta)


def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return x / (x.constant(1) + ops.absolute(x))


def silu(x: Tensor, inplace: bool = False) -> Tensor:
    """x * sigmoid(x), also called swish."""
    return _result(x, x * ops.sigmoid(x), inplace)


def mish(x: Tensor, inplace: bool = False) -> Tensor:
    """x * tanh(softplus(x))."""
    return _result(x, x * ops.tanh(softplus(x)), inplace)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x * Phi(x), with the normal distribution's Phi by erf ("none") or by its "tanh" formula.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.GELU.html
    """
    must_float("gelu", x)
    half, one = x.constant(0.5), x.constant(1)
    if approximate == "none":
        return x * half * (one + ops.erf(x * x.constant(math.sqrt(0.5))))
    if approximate == "tanh":
        cubic = x * x * x * x.constant(0.044715)
        inner = (x + cubic) * x.constant(math.sqrt(2 / math.pi))
        return half * x * (one + ops.tanh(inner))
    raise RuntimeError(f"[gelu] approximate must be 'none' or 'tanh', got {approximate!r}")


def tanhshrink(x: Tensor) -> Tensor:
    """x - tanh(x)."""
    return x - ops.tanh(x)


def hardshrink(x: Tensor, lambd: Number = 0.5) -> Tensor:
    """x where |x| > lambd, else 0."""
    inside = (x >= -lambd) & (x <= lambd)
    return ops.where(inside, x.constant(0), x)


def softshrink(x: Tensor, lambd: Number = 0.5) -> Tensor:
    """x moved towards 0 by lambd; 0 where |x| <= lambd."""
    if lambd < 0:
        raise RuntimeError(f"[softshrink] lambd must be at least 0, got {lambd}")
    outer = ops.where(x > lambd, x - lambd, x + lambd)
    return ops.where((x >= -lambd) & (x <= lambd), x.constant(0), outer)


def hardsigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    """relu6(x + 3) / 6; the gradient at -3 and 3 is 0."""
    return _result(x, hardtanh(x + x.constant(3), 0.0, 6.0) / x.constant(6), inplace)


def hardswish(x: Tensor, inplace: bool = False) -> Tensor:
    """x * relu6(x + 3) / 6."""
    three = x.constant(3)
    inner = x * (x + three) / x.constant(6)
    low = ops.where(ops.less_equal(x, -three), x.constant(0), inner)
    return _result(x, ops.where(ops.less_equal(three, x), x, low), inplace)


def threshold(x: Tensor, threshold: Number, value: Number, inplace: bool = False) -> Tensor:
    """x where it exceeds `threshold`, else `value`."""
    limit, other = scalar(x, threshold), scalar(x, value)
    return _result(x, ops.where(ops.less_equal(x, limit), other, x), inplace)


def glu(x: Tensor, dim: int = -1) -> Tensor:
    """The first half of axis `dim` times the sigmoid of the second half."""
    axis = normalize_axis("glu", dim, x.ndim)
    if x.ndim == 0 or x.shape[axis] % 2:
        raise ShapeError(
            f"[glu] axis {dim} of shape {x.shape} must have an even size: it is cut in two halves"
        )
    half = x.shape[axis] // 2
    first, second = (part(x, axis, start, half) for start in (0, half))
    return first * ops.sigmoid(second)


def _shifted(x: Tensor, axis: int) -> Tensor:
    """x minus its largest value along `axis`; the shift takes no part in the gradient."""
    largest = ops.reduce_max(ops.stop_gradient(x), axes=(axis,))
    return x - spread(largest, x.shape, (axis,))


@method("softmax")
def softmax(
    x: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None
) -> Tensor:
    """exp(x) / sum(exp(x)) along `dim`, computed from x - max(x).

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.softmax.html

    >>> import avalon as av
    >>> av.softmax(av.tensor([0.0, 0.0]), dim=0)
    tensor([0.5000, 0.5000])
    """
    x, axis = _prepared("softmax", x, dim, dtype)
    if x.ndim == 0 or x.numel() == 0:
        return x / x if x.ndim == 0 else ops.exp(x)
    powers = ops.exp(_shifted(x, axis))
    return powers / spread(ops.reduce_sum(powers, axes=(axis,)), x.shape, (axis,))


@method("log_softmax")
def log_softmax(
    x: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None
) -> Tensor:
    """log(softmax(x)) along `dim`, without forming the quotient.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.log_softmax.html
    """
    x, axis = _prepared("log_softmax", x, dim, dtype)
    if x.ndim == 0 or x.numel() == 0:
        return x - x if x.ndim == 0 else ops.exp(x)
    shifted = _shifted(x, axis)
    total = ops.log(ops.reduce_sum(ops.exp(shifted), axes=(axis,)))
    return shifted - spread(total, x.shape, (axis,))


def _prepared(
    operation: str, x: Tensor, dim: int | None, dtype: DType | None
) -> tuple[Tensor, int]:
    if dtype is not None:
        x = cast(x, dtype)
    must_float(operation, x)
    if dim is None:  # PyTorch's implicit choice, which it deprecates
        dim = 0 if x.ndim in (0, 1, 3) else 1
    return x, normalize_axis(operation, dim, x.ndim)


def softmin(
    x: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None
) -> Tensor:
    """softmax(-x) along `dim`."""
    return softmax(-x, dim, dtype=dtype)


def softmax2d(x: Tensor) -> Tensor:
    """softmax over the channels of an image batch (N, C, H, W) or an image (C, H, W)."""
    if x.ndim not in (3, 4):
        raise ShapeError(f"[softmax2d] expected (N, C, H, W) or (C, H, W), got shape {x.shape}")
    return softmax(x, dim=-3)


def relu_(x: Tensor) -> Tensor:
    """In-place relu."""
    return relu(x, inplace=True)


in_place(relu)
in_place(sigmoid)
