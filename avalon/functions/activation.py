"""Activation functions, softmax and its relatives.

Comes in: floating tensors of any shape. Goes out: tensors of the same shape and dtype (`glu` halves
an axis). Guaranteed: no overflow inside a formula reaches the result or its gradient, and at kinks
the gradient is PyTorch's (https://docs.pytorch.org/docs/stable/nn.functional.html): relu, hardtanh
and relu6 give 0 there.
"""

from __future__ import annotations

import math
from typing import Any

from avalon import ops
from avalon.dtype import DType
from avalon.errors import ShapeError
from avalon.functions.custom import with_gradient
from avalon.functions.precision import activation, in_float32
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
from avalon.tensor.composite import composite


@method("relu")
@activation
def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(input, 0), of any shape and numeric dtype; the gradient at 0 is 0.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.relu.html

    >>> import avalon as av
    >>> av.relu(av.tensor([-1.0, 0.0, 2.0]))
    tensor([0., 0., 2.])
    """
    input = as_tensor(input)
    zero = input.constant(0)
    return ops.where(ops.less_equal(input, zero), zero, input)


@activation
def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(input, 0), 6); the gradient at 0 and 6 is 0."""
    return hardtanh(input, 0.0, 6.0)


@activation
def hardtanh(
    input: Tensor, min_val: Number = -1.0, max_val: Number = 1.0, inplace: bool = False
) -> Tensor:
    """`input` limited to [min_val, max_val]; unlike `clamp`, the gradient at the limits is 0."""
    if min_val > max_val:
        raise ValueError(f"[hardtanh] min_val {min_val} must not exceed max_val {max_val}")
    low, high = scalar(input, min_val), scalar(input, max_val)

    def formula(input: Tensor) -> Tensor:
        limited = ops.where(ops.less_equal(input, low), low, input)
        return ops.where(ops.less_equal(high, limited), high, limited)

    def backward(g: Tensor, y: Tensor, input: Tensor) -> tuple[Tensor]:
        return (ops.where(ops.less(low, input) & ops.less(input, high), g, g.constant(0)),)

    return with_gradient("hardtanh", formula, backward, input)


@activation
def leaky_relu(input: Tensor, negative_slope: Number = 0.01, inplace: bool = False) -> Tensor:
    """input where it is positive, else negative_slope * input, whose gradient holds at 0."""
    zero = input.constant(0)
    return ops.where(ops.less(zero, input), input, input * negative_slope)


@method("prelu")
@composite
@in_float32
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """input where it is positive, else weight * input; `weight` has 1 element or one per channel
    (axis 1).

    Raises:
        ShapeError: the number of weights is neither 1 nor that of the channels.
    """
    channels = input.shape[1] if input.ndim > 1 else 1
    if weight.ndim > 1 or (weight.numel() != 1 and weight.numel() != channels):
        raise ShapeError(
            f"[prelu] weight of shape {weight.shape} must have 1 element or one per channel; "
            f"the input of shape {input.shape} has {channels}"
        )
    if input.ndim > 1 and weight.numel() != 1:
        weight = ops.reshape(weight, shape=(channels,) + (1,) * (input.ndim - 2))
    elif weight.ndim != 0:
        weight = ops.reshape(weight, shape=())
    zero = input.constant(0)
    return ops.where(ops.less(zero, input), input, input * broadcast(weight, input.shape))


@activation
def rrelu(
    input: Tensor,
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
    return leaky_relu(input, (lower + upper) / 2)


@activation
def elu(input: Tensor, alpha: Number = 1.0, inplace: bool = False) -> Tensor:
    """input where it is positive, else alpha * (exp(input) - 1)."""
    negative, below = _negative_part(input)
    return ops.where(negative, ops.expm1(below) * alpha, input)


def _negative_part(x: Tensor) -> tuple[Tensor, Tensor]:
    """Where x <= 0, and x there, with 0 elsewhere to keep exponentials finite."""
    zero = x.constant(0)
    negative = ops.less_equal(x, zero)
    return negative, ops.where(negative, x, zero)


@activation
def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """The self-normalizing elu, scale * elu(input, alpha), with Klambauer's constants."""
    alpha, scale = (
        input.constant(1.6732632423543772848170429916717),
        input.constant(1.0507009873554804934193349852946),
    )
    negative, below = _negative_part(input)
    return ops.where(negative, ops.expm1(below) * (alpha * scale), input * scale)


@activation
def celu(input: Tensor, alpha: Number = 1.0, inplace: bool = False) -> Tensor:
    """input where it is positive, else alpha * (exp(input / alpha) - 1)."""
    if alpha == 0:
        raise ZeroDivisionError("[celu] alpha must not be 0")
    negative, below = _negative_part(input)
    return ops.where(negative, ops.expm1(below / alpha) * alpha, input)


@method("sigmoid")
def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-input)); integers and bools become the default float dtype.

    >>> import avalon as av
    >>> av.sigmoid(av.tensor(0.0))
    tensor(0.5000)
    """
    return ops.sigmoid(floating(input))


@composite
@in_float32
def logsigmoid(input: Tensor) -> Tensor:
    """log(sigmoid(input)), exact for large |input|: min(input, 0) - log1p(exp(-|input|))."""
    zero = input.constant(0)
    negative = ops.less(input, zero)
    minus_size = ops.where(negative, input, -input)  # its slope at 0 is -1, which abs would lose
    return ops.where(negative, input, zero) - ops.log1p(ops.exp(minus_size))


@composite
@in_float32
def softplus(input: Tensor, beta: Number = 1.0, threshold: Number = 20.0) -> Tensor:
    """log(1 + exp(beta * input)) / beta; input itself where beta * input > threshold."""
    scaled = input * beta
    linear = scaled > threshold
    inside = ops.where(linear, input.constant(0), scaled)  # keeps exp, and its gradient, finite
    return ops.where(linear, input, ops.log1p(ops.exp(inside)) / beta)


@composite
@in_float32
def softsign(input: Tensor) -> Tensor:
    """input / (1 + |input|)."""
    return input / (input.constant(1) + ops.absolute(input))


@activation
def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """input * sigmoid(input), also called swish."""
    return input * ops.sigmoid(input)


@activation
def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """input * tanh(softplus(input))."""
    return input * ops.tanh(softplus(input))


@composite
@in_float32
def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """input * Phi(input), with the normal distribution's Phi by erf ("none") or by its "tanh"
    formula.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.GELU.html
    """
    must_float("gelu", input)
    half, one = input.constant(0.5), input.constant(1)
    if approximate == "none":
        return input * half * (one + ops.erf(input * input.constant(math.sqrt(0.5))))
    if approximate == "tanh":
        cubic = input * input * input * input.constant(0.044715)
        inner = (input + cubic) * input.constant(math.sqrt(2 / math.pi))
        return half * input * (one + ops.tanh(inner))
    raise RuntimeError(f"[gelu] approximate must be 'none' or 'tanh', got {approximate!r}")


@composite
@in_float32
def tanhshrink(input: Tensor) -> Tensor:
    """input - tanh(input)."""
    return input - ops.tanh(input)


@method("hardshrink")
def hardshrink(input: Tensor, lambd: Number = 0.5) -> Tensor:
    """input where |input| > lambd, else 0."""
    inside = (input >= -lambd) & (input <= lambd)
    return ops.where(inside, input.constant(0), input)


@composite
@in_float32
def softshrink(input: Tensor, lambd: Number = 0.5) -> Tensor:
    """input moved towards 0 by lambd; 0 where |input| <= lambd."""
    if lambd < 0:
        raise RuntimeError(f"[softshrink] lambd must be at least 0, got {lambd}")
    outer = ops.where(input > lambd, input - lambd, input + lambd)
    return ops.where((input >= -lambd) & (input <= lambd), input.constant(0), outer)


@activation
def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """relu6(input + 3) / 6; the gradient at -3 and 3 is 0."""
    return hardtanh(input + input.constant(3), 0.0, 6.0) / input.constant(6)


@activation
def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """input * relu6(input + 3) / 6."""
    three = input.constant(3)
    inner = input * (input + three) / input.constant(6)
    low = ops.where(ops.less_equal(input, -three), input.constant(0), inner)
    return ops.where(ops.less_equal(three, input), input, low)


@activation
def threshold(input: Tensor, threshold: Number, value: Number, inplace: bool = False) -> Tensor:
    """input where it exceeds `threshold`, else `value`."""
    limit, other = scalar(input, threshold), scalar(input, value)
    return ops.where(ops.less_equal(input, limit), other, input)


@composite
@in_float32
def glu(input: Tensor, dim: int = -1) -> Tensor:
    """The first half of axis `dim` times the sigmoid of the second half."""
    axis = normalize_axis("glu", dim, input.ndim)
    if input.ndim == 0 or input.shape[axis] % 2:
        raise ShapeError(
            f"[glu] axis {dim} of shape {input.shape} must have an even size: it is cut in two "
            "halves"
        )
    half = input.shape[axis] // 2
    first, second = (part(input, axis, start, half) for start in (0, half))
    return first * ops.sigmoid(second)


def _shifted(x: Tensor, axis: int) -> Tensor:
    """x minus its largest value along `axis`; the shift takes no part in the gradient."""
    largest = ops.reduce_max(ops.stop_gradient(x), axes=(axis,))
    return x - spread(largest, x.shape, (axis,))


@method("softmax")
@composite
@in_float32
def softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None
) -> Tensor:
    """exp(input) / sum(exp(input)) along `dim`, computed from input - max(input).

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.softmax.html

    >>> import avalon as av
    >>> av.softmax(av.tensor([0.0, 0.0]), dim=0)
    tensor([0.5000, 0.5000])
    """
    input, axis = _prepared("softmax", input, dim, dtype)
    if input.ndim == 0 or input.numel() == 0:
        return input / input if input.ndim == 0 else ops.exp(input)
    shape = input.shape

    def formula(x: Tensor) -> Tensor:
        powers = ops.exp(_shifted(x, axis))
        # The sum is at least 1: one division a row loses next to nothing.
        total = ops.reduce_sum(powers, axes=(axis,))
        return powers * spread(total.constant(1) / total, shape, (axis,))

    def backward(g: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor]:
        return (y * (g - spread(ops.reduce_sum(g * y, axes=(axis,)), shape, (axis,))),)

    return with_gradient("softmax", formula, backward, input)


@method("log_softmax")
@composite
@in_float32
def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None
) -> Tensor:
    """log(softmax(input)) along `dim`, without forming the quotient.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.log_softmax.html
    """
    input, axis = _prepared("log_softmax", input, dim, dtype)
    if input.ndim == 0 or input.numel() == 0:
        return input - input if input.ndim == 0 else ops.exp(input)
    shifted = _shifted(input, axis)
    total = ops.log(ops.reduce_sum(ops.exp(shifted), axes=(axis,)))
    return shifted - spread(total, input.shape, (axis,))


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
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None
) -> Tensor:
    """softmax(-input) along `dim`."""
    return softmax(-input, dim, dtype=dtype)


def softmax2d(input: Tensor) -> Tensor:
    """softmax over the channels of an image batch (N, C, H, W) or an image (C, H, W)."""
    if input.ndim not in (3, 4):
        raise ShapeError(f"[softmax2d] expected (N, C, H, W) or (C, H, W), got shape {input.shape}")
    return softmax(input, dim=-3)


def _written(name: str) -> Any:
    """F.name_(x, ...): the function with inplace=True."""
    function = globals()[name]

    def write(input: Tensor, *arguments: Any, **named: Any) -> Tensor:
        result: Tensor = function(input, *arguments, inplace=True, **named)
        return result

    write.__name__ = write.__qualname__ = f"{name}_"
    write.__doc__ = f"In-place version of `{name}`."
    return write


relu_ = method("relu_")(_written("relu"))
relu6_ = _written("relu6")
hardtanh_ = _written("hardtanh")
leaky_relu_ = _written("leaky_relu")
elu_ = _written("elu")
selu_ = _written("selu")
celu_ = _written("celu")
threshold_ = _written("threshold")
in_place(sigmoid)
