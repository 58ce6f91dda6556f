"""Normalization over batches, layers, groups, instances and vectors.

Comes in: activations (N, C, ...) and optional weight, bias and running statistics. Goes out:
tensors of the input's shape; running statistics are updated in place in training mode, as PyTorch
does (with the unbiased variance). Guaranteed: variances are sums of squared distances from the
mean, never a difference of squares.

Source: https://docs.pytorch.org/docs/stable/nn.functional.html
"""

from __future__ import annotations

from collections.abc import Sequence

from avalon import dtype as dtypes, ops
from avalon.errors import DTypeError, ShapeError
from avalon.functions.pooling import avg_pool2d
from avalon.functions.precision import in_float32
from avalon.functions.statistics import moments, norm
from avalon.functions.support import (
    Dims,
    along,
    broadcast,
    cast,
    must_float,
    reshape,
    scalar,
    spread,
)
from avalon.shape import size_of
from avalon.tensor import Tensor, no_grad
from avalon.tensor.composite import composite


def _per_channel(operation: str, name: str, value: Tensor, x: Tensor) -> Tensor:
    """A vector with one element per channel (axis 1), broadcast to x."""
    if tuple(value.shape) != (x.shape[1],):
        raise ShapeError(
            f"[{operation}] {name} of shape {tuple(value.shape)} must have shape ({x.shape[1]},): "
            "one "
            f"element per channel of the input of shape {tuple(x.shape)}"
        )
    if value.dtype is not x.dtype:
        raise DTypeError(
            f"[{operation}] input is {x.dtype!r} and {name} is {value.dtype!r}; convert the input "
            f"with .to({value.dtype!r})"
        )
    return broadcast(along(value, 1, x.ndim), x.shape)


def _affine(operation: str, y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        y = y * _per_channel(operation, "weight", weight, y)
    return y if bias is None else y + _per_channel(operation, "bias", bias, y)


def _standardized(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    """x with mean 0 and variance 1 over `axes`."""
    centre, squares = moments(x, axes)
    count = size_of([x.shape[axis] for axis in axes])
    variance = squares / squares.constant(count)
    inverse = variance.constant(1) / ops.sqrt(variance + scalar(variance, eps))
    return (x - spread(centre, x.shape, axes)) * spread(inverse, x.shape, axes)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Standardize every channel (axis 1) over the batch and space, then scale and shift it.

    In training mode by the batch's own statistics, which move the running ones; otherwise by the
    running statistics. Source:
    https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html

    Raises:
        ShapeError: a vector does not have one element per channel.
        ValueError: training with one value per channel, whose variance is not defined.
    """
    must_float("batch_norm", input)
    if input.dtype.itemsize == 2:
        return _batch_norm_of_narrow(
            input, running_mean, running_var, weight, bias, training, momentum, eps
        )
    if input.ndim < 2:
        raise ShapeError(f"[batch_norm] expected (N, C, ...), got shape {tuple(input.shape)}")
    axes = (0, *range(2, input.ndim))
    if not training:
        if running_mean is None or running_var is None:
            raise RuntimeError("[batch_norm] evaluation needs running_mean and running_var")
        centre = _per_channel("batch_norm", "running_mean", running_mean, input)
        inverse = running_var.constant(1) / ops.sqrt(running_var + scalar(running_var, eps))
        scaled = (input - centre) * _per_channel("batch_norm", "running_var", inverse, input)
        return _affine("batch_norm", scaled, weight, bias)
    count = size_of([input.shape[axis] for axis in axes])
    if count == 1:
        raise ValueError(
            f"[batch_norm] training needs more than one value per channel, got shape "
            f"{tuple(input.shape)}; use a larger batch, or model.eval()"
        )
    result, centre, unbiased = _standardized_batch(input, weight, bias, axes, count, eps)
    with no_grad():
        _move(running_mean, centre, momentum)
        _move(running_var, unbiased, momentum)
    return result


@composite
def _standardized_batch(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    axes: tuple[int, ...],
    count: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The result of `batch_norm` in training, and the batch's mean and unbiased variance."""
    centre, squares = moments(input, axes)
    variance = squares / squares.constant(count)
    inverse = variance.constant(1) / ops.sqrt(variance + scalar(variance, eps))
    with no_grad():
        unbiased = ops.stop_gradient(squares) / squares.constant(max(count - 1, 0))
        mean = ops.stop_gradient(centre)
    distance = input - spread(centre, input.shape, axes)
    result = _affine("batch_norm", distance * spread(inverse, input.shape, axes), weight, bias)
    return result, mean, unbiased


def _batch_norm_of_narrow(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float | Tensor,
    eps: float,
) -> Tensor:
    """Batch normalization of a 16-bit input, in float32; running statistics keep their dtype."""
    own = [running_mean, running_var]
    wide = [None if one is None else one.detach().float() for one in own]
    scale, shift = (None if one is None else one.float() for one in (weight, bias))
    y = batch_norm(input.float(), wide[0], wide[1], scale, shift, training, momentum, eps)
    if training:
        with no_grad():
            for one, moved in zip(own, wide, strict=True):
                if one is not None and moved is not None and moved.dtype is not one.dtype:
                    one.copy_(moved)
    return cast(y, input.dtype)


def _move(running: Tensor | None, current: Tensor, momentum: float | Tensor) -> None:
    if running is not None:
        running.copy_(momentum * current.to(running.dtype) + (1 - momentum) * running)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Standardize every channel of every member of the batch over space, scale and shift it."""
    must_float("instance_norm", input)
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    axes = tuple(range(2, input.ndim))
    count = size_of([input.shape[axis] for axis in axes])
    if count == 1:
        raise ValueError(
            f"[instance_norm] training needs more than one value per channel, got shape "
            f"{tuple(input.shape)}"
        )
    if running_mean is not None or running_var is not None:
        with no_grad():
            centre, squares = moments(ops.stop_gradient(input), axes)
            _move(running_mean, centre.mean(0), momentum)
            _move(running_var, (squares / squares.constant(count - 1)).mean(0), momentum)
    return _affine("instance_norm", _standardized(input, axes, eps), weight, bias)


@composite
@in_float32
def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Standardize over the last axes, whose sizes are `normalized_shape`, then scale and shift.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.LayerNorm.html
    """
    must_float("layer_norm", input)
    shape = _last_axes("layer_norm", input, normalized_shape, weight, bias)
    y = _standardized(input, tuple(range(input.ndim - len(shape), input.ndim)), eps)
    if weight is not None:
        y = y * broadcast(weight, y.shape)
    return y if bias is None else y + broadcast(bias, y.shape)


def _last_axes(
    operation: str, x: Tensor, normalized_shape: int | Sequence[int], *vectors: Tensor | None
) -> tuple[int, ...]:
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if tuple(x.shape[x.ndim - len(shape) :]) != shape or x.ndim < len(shape):
        raise ShapeError(
            f"[{operation}] input of shape {tuple(x.shape)} must end in normalized_shape {shape}"
        )
    for vector in vectors:
        if vector is None:
            continue
        if tuple(vector.shape) != shape:
            raise ShapeError(
                f"[{operation}] weight and bias must have normalized_shape {shape}, got "
                f"{tuple(vector.shape)}"
            )
        if vector.dtype is not x.dtype:
            raise DTypeError(
                f"[{operation}] input is {x.dtype!r} and weight is {vector.dtype!r}; convert the "
                f"input with .to({vector.dtype!r})"
            )
    return shape


@composite
@in_float32
def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Divide by the root of the mean square over the last axes, then scale; eps: the type's
    epsilon.
    """
    must_float("rms_norm", input)
    shape = _last_axes("rms_norm", input, normalized_shape, weight)
    axes = tuple(range(input.ndim - len(shape), input.ndim))
    epsilon = dtypes.finfo(input.dtype).eps if eps is None else eps
    total = ops.reduce_sum(input * input, axes=axes)
    mean = total / total.constant(size_of(shape))
    inverse = mean.constant(1) / ops.sqrt(mean + scalar(mean, epsilon))
    y = input * spread(inverse, input.shape, axes)
    return y if weight is None else y * broadcast(weight, y.shape)


@composite
@in_float32
def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Standardize over groups of channels and space, then scale and shift every channel."""
    must_float("group_norm", input)
    shape = tuple(input.shape)
    if input.ndim < 2 or num_groups < 1 or shape[1] % num_groups:
        raise ShapeError(
            f"[group_norm] num_groups = {num_groups} must divide the channels (axis 1) of shape "
            f"{shape}"
        )
    cut = reshape(input, (shape[0], num_groups, shape[1] // num_groups, *shape[2:]))
    y = reshape(_standardized(cut, tuple(range(2, cut.ndim)), eps), shape)
    return _affine("group_norm", y, weight, bias)


@composite
@in_float32
def normalize(input: Tensor, p: float = 2.0, dim: Dims = 1, eps: float = 1e-12) -> Tensor:
    """Divide by the p-norm along `dim`, or by eps where the norm is smaller."""
    length = norm(input, p, dim, keepdim=True)
    floor = scalar(length, eps)
    length = ops.where(ops.less(length, floor), floor, length)
    return input / broadcast(length, input.shape)


@composite
@in_float32
def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Divide by (k + alpha * mean of squares over `size` neighbouring channels) ** beta."""
    if input.ndim < 3:
        raise ValueError(f"[local_response_norm] expected (N, C, L, ...), got {tuple(input.shape)}")
    if input.numel() == 0:
        return input
    rest = size_of(tuple(input.shape[2:]))
    squares = reshape(input * input, (input.shape[0], 1, input.shape[1], rest))
    low, high = size // 2, (size - 1) // 2
    padded = ops.pad(
        squares, squares.constant(0, shape=()), low=(0, 0, low, 0), high=(0, 0, high, 0)
    )
    mean = reshape(avg_pool2d(padded, (size, 1), stride=1), input.shape)
    return input / (mean * alpha + k) ** beta
