"""Scaled dot-product attention.

Comes in: queries (..., L, E), keys (..., S, E), values (..., S, V). Goes out: (..., L, V).
Guaranteed: softmax from the scores minus their largest; a row whose mask excludes everything gives
zeros.
"""

from __future__ import annotations

import math

from avalon import ops
from avalon.errors import DTypeError, ShapeError
from avalon.functions.activation import softmax
from avalon.functions.attention_blocks import NAME, attention_in_blocks, is_long
from avalon.functions.linear import dropout
from avalon.functions.linear_algebra import matmul
from avalon.functions.support import broadcast, dtypes, iota, spread
from avalon.shape import broadcast_shapes
from avalon.tensor import Tensor
from avalon.tensor.composite import composite


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(query @ key.T * scale + mask) @ value; scale is 1 / sqrt(E) unless given.

    `attn_mask` is True where attention is allowed, or is added to the scores. With `is_causal`, row
    i sees the first i + 1 keys. With `enable_gqa`, heads (axis -3) of keys and values are shared.
    Source:
    https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html

    Raises:
        ShapeError: sizes do not fit, or a mask is given together with is_causal.
    """
    if dropout_p == 0.0:
        if is_long(query, key, attn_mask):
            _check(query, key, value, attn_mask, is_causal)
            repeats = query.shape[-3] // key.shape[-3] if enable_gqa else 1
            heads = (_repeated(key, repeats), _repeated(value, repeats))
            factor = _factor(query, scale)
            return attention_in_blocks(query, *heads, attn_mask, is_causal, factor)
        return _attention(query, key, value, attn_mask, is_causal, scale, enable_gqa)
    weights = _weights(query, key, value, attn_mask, is_causal, scale, enable_gqa)
    repeats = query.shape[-3] // key.shape[-3] if enable_gqa else 1
    return matmul(dropout(weights, dropout_p), _repeated(value, repeats))


@composite
def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, is_causal: bool,
    scale: float | None, enable_gqa: bool,
) -> Tensor:  # fmt: skip
    weights = _weights(query, key, value, attn_mask, is_causal, scale, enable_gqa)
    repeats = query.shape[-3] // key.shape[-3] if enable_gqa else 1
    return matmul(weights, _repeated(value, repeats))


def _repeated(heads: Tensor, repeats: int) -> Tensor:
    if repeats == 1:
        return heads
    repeated: Tensor = heads.repeat_interleave(repeats, -3)
    return repeated


def _factor(query: Tensor, scale: float | None) -> float:
    if scale is not None:
        return scale
    return 1 / math.sqrt(query.shape[-1] or 1)  # heads of no features score 0 by any factor


def _check(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> None:
    """Raise unless shapes, dtypes and options fit."""
    if mask is not None and causal:
        raise ShapeError(f"[{NAME}] give attn_mask or is_causal=True, not both")
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise ShapeError(
            f"[{NAME}] query {tuple(query.shape)}, key {tuple(key.shape)} and value "
            f"{tuple(value.shape)}: query and key must agree in the last size, key and value in "
            "the last but one"
        )
    if mask is not None and mask.dtype not in (dtypes.bool_, query.dtype):
        raise DTypeError(f"[{NAME}] attn_mask must be bool or {query.dtype!r}, got {mask.dtype!r}")


def _weights(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, is_causal: bool,
    scale: float | None, enable_gqa: bool,
) -> Tensor:  # fmt: skip
    """How much each query takes of each value."""
    _check(query, key, value, attn_mask, is_causal)
    if enable_gqa:
        key = _repeated(key, query.shape[-3] // key.shape[-3])
    factor = _factor(query, scale)
    swap = (*range(key.ndim - 2), key.ndim - 1, key.ndim - 2)
    scores = matmul(query * factor, ops.transpose(key, permutation=swap))
    shape = tuple(scores.shape)
    allowed: Tensor | None = None
    if is_causal:
        allowed = ops.less_equal(iota(shape, len(shape) - 1), iota(shape, len(shape) - 2))
    elif attn_mask is not None and attn_mask.dtype is dtypes.bool_:
        broadcast_shapes(NAME, shape, tuple(attn_mask.shape))
        allowed = broadcast(attn_mask, shape)
    elif attn_mask is not None:
        scores = scores + attn_mask
    if allowed is not None:
        scores = ops.where(allowed, scores, scores.constant(-math.inf))
    if allowed is None or is_causal:
        return softmax(scores, dim=-1)
    axis = scores.ndim - 1
    some = spread(ops.reduce_max(allowed, axes=(axis,)), shape, (axis,))
    weights = softmax(ops.where(some, scores, scores.constant(0)), dim=-1)
    return ops.where(some, weights, weights.constant(0))
