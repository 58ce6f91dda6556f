"""Losses: one number (or one per element) that says how far predictions are from targets.

Comes in: predictions and targets by PyTorch's conventions. Goes out: the loss, reduced by "mean",
"sum" or "none". Guaranteed: stable formulas (logits are never turned into probabilities first),
PyTorch's gradients at edges, labels checked: at the user's line when their values are known
already, otherwise in the program, which then changes nothing.

Source: https://docs.pytorch.org/docs/stable/nn.functional.html#loss-functions
"""

from __future__ import annotations

import math
import warnings

from avalon import ops
from avalon.errors import DTypeError, IndexOutOfRange, ShapeError
from avalon.functions.activation import log_softmax, logsigmoid
from avalon.functions.custom import with_gradient
from avalon.functions.precision import in_float32
from avalon.functions.statistics import mean, pick, sum as sum_along
from avalon.functions.support import (
    along,
    broadcast,
    cast,
    dtypes,
    known_values,
    must_float,
    reshape,
    scalar,
    spread,
    together,
)
from avalon.shape import broadcast_shapes
from avalon.tensor import Tensor
from avalon.tensor.composite import composite


def _reduced(operation: str, loss: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return mean(loss)
    if reduction == "sum":
        return sum_along(loss)
    if reduction == "none":
        return loss
    raise ValueError(f"[{operation}] reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def _matched(operation: str, input: Tensor, target: Tensor) -> list[Tensor]:
    """Both in one shape; unequal shapes broadcast, with PyTorch's warning."""
    if input.shape != target.shape:
        broadcast_shapes(operation, input.shape, target.shape)
        warnings.warn(
            f"[{operation}] target of shape {tuple(target.shape)} differs from input of shape "
            f"{tuple(input.shape)}: the two broadcast, which is rarely meant; reshape one of them",
            stacklevel=5,
        )
    return together(operation, input, target)


@composite
@in_float32
def mse_loss(
    input: Tensor, target: Tensor, size_average: None = None, reduce: None = None,
    reduction: str = "mean", weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Squared difference.

    >>> import avalon as av
    >>> av.nn.functional.mse_loss(av.tensor([1.0, 2.0]), av.tensor([1.0, 4.0]))
    tensor(2.)
    """
    a, b = _matched("mse_loss", input, target)
    difference = a - b
    loss = difference * difference
    if weight is not None:
        loss = loss * weight
        if reduction == "mean":
            return sum_along(loss) / sum_along(broadcast(weight, loss.shape))
    return _reduced("mse_loss", loss, reduction)


@composite
@in_float32
def l1_loss(
    input: Tensor, target: Tensor, size_average: None = None, reduce: None = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Absolute difference; the gradient at equality is 0."""
    a, b = _matched("l1_loss", input, target)
    return _reduced("l1_loss", ops.absolute(a - b), reduction)


@composite
@in_float32
def smooth_l1_loss(
    input: Tensor, target: Tensor, size_average: None = None, reduce: None = None,
    reduction: str = "mean", beta: float = 1.0,
) -> Tensor:  # fmt: skip
    """0.5 d**2 / beta where d = |input - target| < beta, else d - 0.5 beta."""
    if beta < 0:
        raise RuntimeError(f"[smooth_l1_loss] beta must not be negative, got {beta}")
    if beta == 0:
        return l1_loss(input, target, reduction=reduction)
    a, b = _matched("smooth_l1_loss", input, target)
    size, edge, half = ops.absolute(a - b), scalar(a, beta), a.constant(0.5)
    near, far = half * size * size / edge, size - half * edge
    return _reduced("smooth_l1_loss", ops.where(ops.less(size, edge), near, far), reduction)


@composite
@in_float32
def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """0.5 d**2 where d = |input - target| <= delta, else delta (d - 0.5 delta)."""
    if delta <= 0:
        raise RuntimeError(f"[huber_loss] delta must be positive, got {delta}")
    a, b = _matched("huber_loss", input, target)
    size, edge, half = ops.absolute(a - b), scalar(a, delta), a.constant(0.5)
    near, far = half * size * size, edge * (size - half * edge)
    loss = ops.where(ops.less_equal(size, edge), near, far)
    return _reduced("huber_loss", loss if weight is None else loss * weight, reduction)


@composite
@in_float32
def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: None = None,
    reduce: None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """-(t log p + (1 - t) log(1 - p)) of probabilities p; logarithms are limited to -100.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.BCELoss.html
    """
    operation = "binary_cross_entropy"
    must_float(operation, input)
    if input.shape != target.shape:
        raise ValueError(
            f"[{operation}] target of shape {tuple(target.shape)} must have the shape of the "
            "input, "
            f"{tuple(input.shape)}; for labels of classes use cross_entropy"
        )
    loss = with_gradient(
        operation, _cross_entropy_of, _cross_entropy_gradient, *together(operation, input, target)
    )
    if weight is not None:
        loss = loss * weight
    return _reduced(operation, loss, reduction)


def _logarithms(p: Tensor) -> tuple[Tensor, Tensor]:
    """log p and log(1 - p), limited to -100."""
    least = p.constant(-100)
    return _at_least(ops.log(p), least), _at_least(ops.log1p(-p), least)


def _cross_entropy_of(p: Tensor, t: Tensor) -> Tensor:
    log_p, log_q = _logarithms(p)
    return (t - t.constant(1)) * log_q - t * log_p


def _cross_entropy_gradient(g: Tensor, y: Tensor, p: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    log_p, log_q = _logarithms(p)
    spread = _at_least((p.constant(1) - p) * p, p.constant(1e-12))
    return g * (p - t) / spread, g * (log_q - log_p)


def _at_least(x: Tensor, limit: Tensor) -> Tensor:
    return ops.where(ops.less(x, limit), limit, x)


@composite
@in_float32
def binary_cross_entropy_with_logits(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: None = None,
    reduce: None = None, reduction: str = "mean", pos_weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Binary cross entropy of sigmoid(input), from the logits themselves.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html
    """
    operation = "binary_cross_entropy_with_logits"
    must_float(operation, input)
    if input.shape != target.shape:
        raise ValueError(
            f"[{operation}] target of shape {tuple(target.shape)} must have the shape of the "
            "input, "
            f"{tuple(input.shape)}"
        )
    log_p = logsigmoid(input)
    one = input.constant(1)
    if pos_weight is None:
        loss = (one - target) * input - log_p
    else:
        scale = one + broadcast(pos_weight - 1, input.shape) * target
        loss = (one - target) * input - scale * log_p
    if weight is not None:
        loss = loss * weight
    return _reduced(operation, loss, reduction)


# --- labels of classes --------------------------------------------------------------------------


def _class_axis(operation: str, input: Tensor) -> int:
    if input.ndim == 0:
        raise ShapeError(f"[{operation}] input must have a class axis, got a scalar")
    return 0 if input.ndim == 1 else 1


def _checked_labels(
    operation: str, input: Tensor, target: Tensor, axis: int, ignore_index: int
) -> tuple[Tensor, Tensor | None]:
    """Labels safe to index with, and a mask of those that count (None: all do)."""
    expected = tuple(extent for a, extent in enumerate(input.shape) if a != axis)
    if tuple(target.shape) != expected:
        raise ShapeError(
            f"[{operation}] target of shape {tuple(target.shape)} must have shape {expected}: one "
            "class "
            f"index for each row of the input of shape {tuple(input.shape)}"
        )
    if not target.dtype.is_integer:
        raise DTypeError(
            f"[{operation}] target must hold class indices (int64), got {target.dtype!r}; write "
            "target.long(), or pass class probabilities of the input's shape to cross_entropy"
        )
    classes = input.shape[axis]
    labels = cast(target, dtypes.int64)
    counted = None
    known = known_values(target)
    if (
        known is not None
        and known.size
        and not 0 <= ignore_index < classes
        and known.min() >= 0
        and known.max() < classes
    ):
        return labels, None  # the usual case: all is well
    if known is None or bool((known == ignore_index).any()):
        counted = ops.not_equal(labels, labels.constant(ignore_index))
    if known is not None:
        wrong = (known != ignore_index) & ((known < 0) | (known >= classes))
        if wrong.any():
            raise IndexOutOfRange(
                f"[{operation}] label {known[wrong].flat[0]} is out of range: the input of shape "
                f"{tuple(input.shape)} has {classes} classes, so labels lie in [0, {classes})"
            )
    if counted is not None:
        labels = ops.where(counted, labels, labels.constant(0))
    if known is None:
        message = (
            f"[{operation}] label {{value}} is out of range: the input of shape "
            f"{tuple(input.shape)} has {classes} classes, so labels lie in [0, {classes})"
        )
        labels = ops.check_index(labels, size=classes, message=message)
    return labels, counted


@in_float32
def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: None = None,
    ignore_index: int = -100, reduce: None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Minus the log-probability of each label: input (N, C, ...) or (C,), target (N, ...) or ().

    "mean" divides by the total weight of the labels that count.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.NLLLoss.html

    Raises:
        ShapeError: the target does not have one label per row.
        IndexOutOfRange: a label is not a class.
    """
    return _nll("nll_loss", input, target, weight, ignore_index, reduction)


def _nll(
    operation: str, input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int,
    reduction: str,
) -> Tensor:  # fmt: skip
    must_float(operation, input)
    axis = _class_axis(operation, input)
    labels, counted = _checked_labels(operation, input, target, axis, ignore_index)
    return _labelled(operation, input, labels, counted, weight, reduction, axis)


@composite
def _labelled(
    operation: str, input: Tensor, labels: Tensor, counted: Tensor | None, weight: Tensor | None,
    reduction: str, axis: int,
) -> Tensor:  # fmt: skip
    """Minus the log-probabilities of labels that were checked, reduced."""
    loss = -pick(input, labels, axis)
    weights = _label_weights(operation, input, weight, labels, axis)
    if weights is not None:
        loss = loss * weights
    if counted is not None:
        loss = ops.where(counted, loss, loss.constant(0))
        present = cast(counted, loss.dtype)
        weights = present if weights is None else weights * present
    if reduction == "mean" and weights is not None:
        return sum_along(loss) / sum_along(weights)
    return _reduced(operation, loss, reduction)


def _label_weights(
    operation: str, input: Tensor, weight: Tensor | None, labels: Tensor, axis: int
) -> Tensor | None:
    if weight is None:
        return None
    if tuple(weight.shape) != (input.shape[axis],):
        raise ShapeError(
            f"[{operation}] weight of shape {tuple(weight.shape)} must have shape "
            f"({input.shape[axis]},), one element per class"
        )
    return ops.take(weight, labels)


@in_float32
def cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, size_average: None = None,
    ignore_index: int = -100, reduce: None = None, reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """nll_loss of log_softmax: logits (N, C, ...) or (C,) against class indices or probabilities.

    A floating target of the input's shape holds class probabilities.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html

    Raises:
        ShapeError: the target fits neither form.
        IndexOutOfRange: a label is not a class.
    """
    operation = "cross_entropy"
    must_float(operation, input)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(
            f"[{operation}] label_smoothing must lie in [0, 1], got {label_smoothing}"
        )
    axis = _class_axis(operation, input)
    if target.shape == input.shape and target.dtype.is_floating_point:
        return _soft_cross_entropy(input, target, weight, reduction, label_smoothing, axis)
    labels, counted = _checked_labels(operation, input, target, axis, ignore_index)
    return _hard_cross_entropy(input, labels, counted, weight, reduction, label_smoothing, axis)


@composite
def _hard_cross_entropy(
    input: Tensor,
    labels: Tensor,
    counted: Tensor | None,
    weight: Tensor | None,
    reduction: str,
    smoothing: float,
    axis: int,
) -> Tensor:
    operation = "cross_entropy"
    scores = log_softmax(input, dim=axis)
    hard = _labelled(operation, scores, labels, counted, weight, reduction, axis)
    if smoothing == 0.0:
        return hard
    smooth = _smooth_part(scores, labels, counted, weight, reduction, axis)
    share = smoothing / input.shape[axis]
    return (1 - smoothing) * hard + share * smooth


def _smooth_part(
    scores: Tensor,
    labels: Tensor,
    counted: Tensor | None,
    weight: Tensor | None,
    reduction: str,
    axis: int,
) -> Tensor:
    """Minus the (weighted) sum of all log-probabilities of each row, reduced like the loss."""
    operation = "cross_entropy"
    weighted = (
        scores
        if weight is None
        else scores * broadcast(along(weight, axis, scores.ndim), scores.shape)
    )
    rows = -ops.reduce_sum(weighted, axes=(axis,))
    weights = _label_weights(operation, scores, weight, labels, axis)
    if counted is not None:
        rows = ops.where(counted, rows, rows.constant(0))
        present = cast(counted, rows.dtype)
        weights = present if weights is None else weights * present
    if reduction == "mean" and weights is not None:
        return sum_along(rows) / sum_along(weights)
    return _reduced(operation, rows, reduction)


@composite
def _soft_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    smoothing: float,
    axis: int,
) -> Tensor:
    scores = log_softmax(input, dim=axis)
    classes = scores.shape[axis]
    if smoothing > 0.0:
        target = target * (1 - smoothing) + smoothing / classes
    terms = scores * target
    if weight is not None:
        terms = terms * broadcast(along(weight, axis, scores.ndim), scores.shape)
    loss = -ops.reduce_sum(terms, axes=(axis,))
    if reduction == "mean":  # over the batch and space, not over the classes
        return sum_along(loss) / max(loss.numel(), 1) if loss.numel() else mean(loss)
    return _reduced("cross_entropy", loss, reduction)


# --- distributions, margins, embeddings ---------------------------------------------------------


@in_float32
def kl_div(
    input: Tensor, target: Tensor, size_average: None = None, reduce: None = None,
    reduction: str = "mean", log_target: bool = False,
) -> Tensor:  # fmt: skip
    """target (log target - input), pointwise; "batchmean" divides the sum by the batch's size."""
    a, t = together("kl_div", input, target)
    if log_target:
        loss = ops.exp(t) * (t - a)
    else:
        zero, none = t.constant(0), ops.equal(t, t.constant(0))
        entropy = ops.where(none, zero, t * ops.log(ops.where(none, t.constant(1), t)))
        loss = entropy - t * a
    if reduction == "batchmean":
        return sum_along(loss) / input.shape[0] if input.ndim else sum_along(loss)
    return _reduced("kl_div", loss, reduction)


def poisson_nll_loss(
    input: Tensor, target: Tensor, log_input: bool = True, full: bool = False,
    size_average: None = None, eps: float = 1e-8, reduce: None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Negative log-likelihood of counts under a Poisson distribution."""
    a, t = together("poisson_nll_loss", input, target)
    loss = ops.exp(a) - t * a if log_input else a - t * ops.log(a + scalar(a, eps))
    if full:
        one = t.constant(1)
        many = ops.less(one, t)
        safe = ops.where(many, t, one)
        stirling = (
            safe * ops.log(safe) - safe + t.constant(0.5) * ops.log(t.constant(2 * math.pi) * safe)
        )
        loss = loss + ops.where(many, stirling, t.constant(0))
    return _reduced("poisson_nll_loss", loss, reduction)


def gaussian_nll_loss(
    input: Tensor, target: Tensor, var: Tensor, full: bool = False, eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Negative log-likelihood under normal distributions of the given variances (at least eps)."""
    if var.shape != input.shape and tuple(var.shape) == tuple(input.shape[:-1]):
        var = reshape(var, (*var.shape, 1))
    a, t, v = together("gaussian_nll_loss", input, target, var)
    least = scalar(v, eps)
    # The limit takes no part in the gradient, as in PyTorch.
    v = v + ops.stop_gradient(_at_least(v, least) - v)
    loss = v.constant(0.5) * (ops.log(v) + (a - t) * (a - t) / v)
    if full:
        loss = loss + loss.constant(0.5 * math.log(2 * math.pi))
    return _reduced("gaussian_nll_loss", loss, reduction)


def _hinge(x: Tensor) -> Tensor:
    """max(x, 0), whose gradient at 0 is 1: PyTorch's clamp_min."""
    return _at_least(x, x.constant(0))


def hinge_embedding_loss(
    input: Tensor, target: Tensor, margin: float = 1.0, size_average: None = None,
    reduce: None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """input where target is 1, max(0, margin - input) where it is -1."""
    a, t = together("hinge_embedding_loss", input, target)
    zero = a.constant(0)
    away = ops.where(ops.equal(t, t.constant(1)), zero, _hinge(scalar(a, margin) - a))
    near = ops.where(ops.equal(t, t.constant(-1)), zero, a)
    return _reduced("hinge_embedding_loss", away + near, reduction)


def soft_margin_loss(
    input: Tensor, target: Tensor, size_average: None = None, reduce: None = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """log(1 + exp(-target * input)) of targets 1 and -1."""
    a, t = together("soft_margin_loss", input, target)
    return _reduced("soft_margin_loss", -logsigmoid(t * a), reduction)


def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, size_average: None = None,
    reduce: None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(0, -target * (input1 - input2) + margin)."""
    a, b, t = together("margin_ranking_loss", input1, input2, target)
    return _reduced("margin_ranking_loss", _hinge(-t * (a - b) + scalar(a, margin)), reduction)


@in_float32
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Cosine of the angle between vectors along `dim`; each length is at least eps."""
    a, b = together("cosine_similarity", x1, x2)
    axis = dim % a.ndim
    lengths = []
    for x in (a, b):
        length = x.norm(2, dim=axis)
        lengths.append(_at_least(length, scalar(length, eps)))
    first = a / spread(lengths[0], a.shape, (axis,))
    second = b / spread(lengths[1], b.shape, (axis,))
    return ops.reduce_sum(first * second, axes=(axis,))


def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, size_average: None = None,
    reduce: None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """1 - cos where target is 1, max(0, cos - margin) where it is -1."""
    epsilon = 1e-12
    dots = sum_along(input1 * input2, -1)
    squares = sum_along(input1 * input1, -1) + epsilon
    cosine = dots / ops.sqrt(squares * (sum_along(input2 * input2, -1) + epsilon))
    zero, t = cosine.constant(0), broadcast(target, cosine.shape)
    near = ops.where(ops.equal(t, t.constant(1)), cosine.constant(1) - cosine, zero)
    away = ops.where(ops.equal(t, t.constant(-1)), _hinge(cosine - scalar(cosine, margin)), zero)
    return _reduced("cosine_embedding_loss", near + away, reduction)


def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """p-norm of x1 - x2 + eps along the last axis."""
    return (x1 - x2 + eps).norm(p, dim=-1, keepdim=keepdim)


def triplet_margin_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0, p: float = 2,
    eps: float = 1e-6, swap: bool = False, size_average: None = None, reduce: None = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(0, d(anchor, positive) - d(anchor, negative) + margin)."""
    near = pairwise_distance(anchor, positive, p, eps)
    far = pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = ops.minimum(far, pairwise_distance(positive, negative, p, eps))
    return _reduced("triplet_margin_loss", _hinge(near - far + scalar(near, margin)), reduction)
