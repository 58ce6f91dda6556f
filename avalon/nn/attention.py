"""Multi-head attention, and the encoder layer built on it.

Comes in: (time, batch, width), or (batch, time, width) with `batch_first`, or without a batch. Goes
out: the same layout. Guaranteed: PyTorch's weights, names, masks and initial distributions.

Source: https://docs.pytorch.org/docs/stable/nn.html#transformer-layers
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from avalon import dtype as dtypes
from avalon.dtype import DType
from avalon.errors import ShapeError
from avalon.functions import (
    dropout,
    empty,
    gelu,
    linear,
    matmul,
    relu,
    scaled_dot_product_attention,
    softmax,
    where,
    zeros,
)
from avalon.nn import init
from avalon.nn.container import ModuleList
from avalon.nn.dropout import Dropout
from avalon.nn.linear import Linear
from avalon.nn.module import Module
from avalon.nn.normalization import LayerNorm
from avalon.nn.parameter import Parameter
from avalon.tensor import Tensor


class NonDynamicallyQuantizableLinear(Linear):
    """Linear, under the name that PyTorch gives the output projection."""


class MultiheadAttention(Module):
    """Attention of several heads over projections of query, key and value.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiheadAttention.html
    """

    in_proj_weight: Parameter | None
    in_proj_bias: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        if embed_dim <= 0 or num_heads <= 0 or embed_dim % num_heads:
            raise ValueError(
                f"[MultiheadAttention] embed_dim {embed_dim} must be divisible by num_heads "
                f"{num_heads}, both positive"
            )
        if add_bias_kv or add_zero_attn:
            raise NotImplementedError(
                "[MultiheadAttention] add_bias_kv and add_zero_attn are not there"
            )
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.dropout = dropout
        self.batch_first = batch_first
        same = self.kdim == embed_dim and self.vdim == embed_dim
        widths = {"q": embed_dim, "k": self.kdim, "v": self.vdim}
        for part, width in widths.items():
            own = None if same else Parameter(empty(embed_dim, width, dtype=dtype))
            self.register_parameter(f"{part}_proj_weight", own)
        joined = Parameter(empty(3 * embed_dim, embed_dim, dtype=dtype)) if same else None
        self.register_parameter("in_proj_weight", joined)
        shift = Parameter(zeros(3 * embed_dim, dtype=dtype)) if bias else None
        self.register_parameter("in_proj_bias", shift)
        self.out_proj = NonDynamicallyQuantizableLinear(embed_dim, embed_dim, bias, dtype=dtype)
        for weight in (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight, joined):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        width = self.embed_dim
        if self.in_proj_weight is None:
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        else:
            weights = list(self.in_proj_weight.split(width, 0))
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.split(width, 0)
        inputs = (query, key, value)
        return [linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]

    def _heads(self, x: Tensor) -> Tensor:
        """(N, L, E) to (N, heads, L, E / heads)."""
        batch, length, _ = x.shape
        cut: Tensor = x.reshape(batch, length, self.num_heads, self.head_dim)
        result: Tensor = cut.transpose(1, 2)
        return result

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if query.ndim not in (2, 3) or query.shape[-1] != self.embed_dim:
            raise ShapeError(
                f"[MultiheadAttention] query of shape {tuple(query.shape)} must have 3 axes, or 2 "
                f"without a batch, the last of size embed_dim {self.embed_dim}"
            )
        batched = query.ndim == 3
        inputs = [x if batched else x.unsqueeze(0) for x in (query, key, value)]
        if batched and not self.batch_first:
            inputs = [x.transpose(0, 1) for x in inputs]
        q, k, v = (self._heads(x) for x in self._projected(*inputs))
        mask = self._mask(attn_mask, key_padding_mask, q, k, is_causal and attn_mask is None)
        drop = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            scores = matmul(q / math.sqrt(self.head_dim), k.transpose(-1, -2))
            weights = dropout(softmax(scores if mask is None else scores + mask, dim=-1), drop)
            found = matmul(weights, v)
        else:
            found = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop)
        batch, _, length, _ = found.shape
        y = self.out_proj(found.transpose(1, 2).reshape(batch, length, self.embed_dim))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return y.squeeze(0), None if weights is None else weights.squeeze(0)
        return (y if self.batch_first else y.transpose(0, 1)), weights

    def _mask(
        self, mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor, causal: bool
    ) -> Tensor | None:
        """Both masks as one that is added to the scores, (N, heads, L, S) or broadcast to it."""
        if causal:
            rows = zeros(q.shape[-2], k.shape[-2], dtype=dtypes.bool_)
            mask = rows.logical_not().triu(1)
        if mask is not None:
            mask = _added(mask, q.dtype)
            if mask.ndim == 3:
                mask = mask.reshape(-1, self.num_heads, *mask.shape[-2:])
        if padding is None:
            return mask
        spread = _added(padding, q.dtype).reshape(-1, 1, 1, k.shape[-2])
        return spread if mask is None else mask + spread


def _added(mask: Tensor, dtype: DType) -> Tensor:
    """A mask that is True where attention is forbidden, as what is added to the scores."""
    if mask.dtype is not dtypes.bool_:
        return mask
    return where(mask, -math.inf, zeros((), dtype=dtype))


class TransformerEncoderLayer(Module):
    """Self-attention and a two-layer network, each with a residual and a normalization.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.TransformerEncoderLayer.html
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        named: dict[Any, Callable[[Tensor], Tensor]] = {"relu": relu, "gelu": gelu}
        if isinstance(activation, str) and activation not in named:
            raise RuntimeError(
                f"[TransformerEncoderLayer] activation must be relu or gelu, got {activation!r}"
            )
        self.self_attn = MultiheadAttention(
            d_model, nhead, dropout, bias, batch_first=batch_first, dtype=dtype
        )
        self.linear1 = Linear(d_model, dim_feedforward, bias, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype=dtype)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.activation = named.get(activation, activation)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        def attend(x: Tensor) -> Tensor:
            found, _ = self.self_attn(
                x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal
            )
            result: Tensor = self.dropout1(found)
            return result

        def feed(x: Tensor) -> Tensor:
            hidden = self.dropout(self.activation(self.linear1(x)))  # type: ignore[operator]
            result: Tensor = self.dropout2(self.linear2(hidden))
            return result

        if self.norm_first:
            x = src + attend(self.norm1(src))
            return x + feed(self.norm2(x))
        x = self.norm1(src + attend(src))
        result: Tensor = self.norm2(x + feed(x))
        return result


class TransformerEncoder(Module):
    """Copies of an encoder layer, one after the other.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.TransformerEncoder.html
    """

    def __init__(
        self,
        encoder_layer: TransformerEncoderLayer,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        self.layers = ModuleList([copy.deepcopy(encoder_layer) for _ in range(num_layers)])
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, bool(is_causal))
        return src if self.norm is None else self.norm(src)
