"""Attention over long contexts without the matrix of all scores: head by head, in blocks of rows.

Comes in: queries (..., L, E), keys (..., S, E), values (..., S, V), a mask. Goes out: (..., L, V).
Guaranteed: memory for the scores of one head's block, also in the gradient, which computes them
again from one number a row, the logarithm of its sum; with `causal`, a block of rows neither
multiplies nor looks at the keys after its last row. Whether a call takes this way is told by its
shapes and dtypes alone. Rows whose mask excludes everything give zeros.

A loop walks the heads, so nothing is summed across its rounds. A block is as large as stays in the
caches between the product that makes the scores and the one that reads the weights.

Source of the idea (blocks, rows kept by one number): Dao et al., FlashAttention,
https://arxiv.org/abs/2205.14135
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from avalon import ops
from avalon.dtype import DType
from avalon.functions.custom import with_gradient
from avalon.functions.loops import Traced, run_scan, trace_body
from avalon.functions.support import broadcast, dtypes, iota, part, reshape, spread
from avalon.graph.body import Body
from avalon.shape import Shape, broadcast_shapes
from avalon.switches import declare
from avalon.tensor import Tensor, is_grad_enabled, no_grad

IN_BLOCKS = declare(
    "attention in blocks", "algorithm", "long attention makes the scores of one block at a time"
)

_LEAST_SCORES = 1 << 17  # of one head, from which on blocks win
_BLOCK_SCORES = 1 << 17  # half a megabyte of float32: weights and cotangents stay in the caches
_MOST_BLOCKS = 8  # each has kernels of its own where it has keys of its own
_ROWS = 32  # blocks have a multiple of these, so that tiles of products fit
_CAPACITY = 200
NAME = "scaled_dot_product_attention"

Mask = Tensor | None
# Matrices of one head, and what is excluded, to matrices of this head.
Formula = Callable[["Blocks", Sequence[Tensor], Mask], list[Tensor]]


class Blocks(NamedTuple):
    """How one head is computed: the rows at which blocks begin and end, and what a score is."""

    cuts: tuple[int, ...]
    causal: bool
    factor: float


def is_long(query: Tensor, key: Tensor, mask: Mask) -> bool:
    """Whether attention in blocks is the faster and smaller way for tensors of these shapes."""
    if not IN_BLOCKS.on:
        return False
    if query.dtype not in (dtypes.float32, dtypes.float64) or min(query.ndim, key.ndim) < 2:
        return False
    if mask is not None and is_grad_enabled() and mask.requires_grad:
        return False  # its gradient is as large as all scores
    return bool(query.shape[-2] * key.shape[-2] >= _LEAST_SCORES)


def attention_in_blocks(
    query: Tensor, key: Tensor, value: Tensor, mask: Mask, causal: bool, factor: float
) -> Tensor:
    """softmax(query @ key.T * factor + mask) @ value; a bool mask is True where a score counts."""
    leading = [x.shape[:-2] for x in (query, key, value)]
    if mask is not None:
        mask = reshape(mask, (1,) * (2 - mask.ndim) + tuple(mask.shape))
        leading.append(mask.shape[:-2])
    front = broadcast_shapes(NAME, *leading)
    heads = _Heads(front, mask, Blocks(_cuts(query.shape[-2], key.shape[-2]), causal, factor))
    q, k, v = (broadcast(x, (*front, *x.shape[-2:])) for x in (query, key, value))
    with no_grad():
        y, *totals = heads.each(_forward, q, k, v)

    def backward(
        g: Tensor, y: Tensor, q: Tensor, k: Tensor, v: Tensor, *totals: Tensor
    ) -> list[Tensor | None]:
        kept: Sequence[Tensor] = totals
        if is_grad_enabled():  # who differentiates the gradient, differentiates the totals too
            y, *kept = heads.each(_forward, q, k, v)
        return [*heads.each(_backward, q, k, v, y, g, *kept), *[None] * len(kept)]

    return with_gradient(NAME, lambda *_: y, backward, q, k, v, *totals)


def _cuts(rows: int, columns: int) -> tuple[int, ...]:
    """Where blocks of rows begin and end."""
    count = min(_MOST_BLOCKS, -(-rows * columns // _BLOCK_SCORES))
    each = -(-rows // (count * _ROWS)) * _ROWS
    return (*range(0, rows, each), rows)


# --- every head ---------------------------------------------------------------------------------


class _Heads:
    """The loops over all heads. Neighbouring axes that the mask treats alike are walked as one."""

    def __init__(self, front: Shape, mask: Mask, blocks: Blocks) -> None:
        self.blocks = blocks
        self.mask = mask
        own: Shape = () if mask is None else mask.shape[:-2]
        own = (1,) * (len(front) - len(own)) + tuple(own)
        levels: list[tuple[int, bool]] = []
        for extent, masks in zip(front, own, strict=True):
            varies = masks != 1
            if levels and levels[-1][1] == varies:
                levels[-1] = (levels[-1][0] * extent, varies)
            else:
                levels.append((extent, varies))
        self.levels = tuple(levels)
        if mask is not None:
            walked = tuple(extent for extent, varies in levels if varies)
            self.mask = reshape(mask, (*walked, *mask.shape[-2:]))

    def each(self, formula: Formula, *matrices: Tensor) -> list[Tensor]:
        """A formula of every head's matrices."""
        front = tuple(extent for extent, _ in self.levels)
        flat = [reshape(x, (*front, *x.shape[-2:])) for x in matrices]
        made = _walk(formula, self.blocks, self.levels, flat, self.mask)
        rank = len(matrices[0].shape) - 2
        before = matrices[0].shape[:rank]
        return [reshape(x, (*before, *x.shape[-2:])) for x in made]


def _walk(
    formula: Formula,
    blocks: Blocks,
    levels: tuple[tuple[int, bool], ...],
    matrices: Sequence[Tensor],
    mask: Mask,
) -> list[Tensor]:
    """A formula of each head, in loops over the levels."""
    if not levels:
        return formula(blocks, matrices, mask)
    extent, varies = levels[0]
    walked: list[Tensor] = list(matrices)
    fixed: list[Tensor] = []
    if mask is not None:
        (walked if varies else fixed).append(mask)
    kinds = [(x.shape[1:], x.dtype) for x in walked] + [(x.shape, x.dtype) for x in fixed]
    body = _body(formula, blocks, levels[1:], tuple(kinds), mask is not None)
    return list(run_scan(Traced(body, fixed), (), walked, extent))


@functools.lru_cache(_CAPACITY)
def _body(
    formula: Formula,
    blocks: Blocks,
    levels: tuple[tuple[int, bool], ...],
    kinds: tuple[tuple[Shape, DType], ...],
    masked: bool,
) -> Body:
    """One round of a loop over heads."""

    def one(*given: Tensor) -> list[Tensor]:
        matrices, mask = (given[:-1], given[-1]) if masked else (given, None)
        return _walk(formula, blocks, levels, matrices, mask)

    return trace_body("attention", kinds, one).body


# --- one head -----------------------------------------------------------------------------------


def _forward(blocks: Blocks, matrices: Sequence[Tensor], mask: Mask) -> list[Tensor]:
    """From q, k and v of one head: the results; and for each block a column of the logarithms of
    its rows' sums of powers.
    """
    q, k, v = matrices
    results, totals = [], []
    for first, end in _pairs(blocks):
        scores = _scores(blocks, q, k, mask, first, end)
        largest = ops.reduce_max(ops.stop_gradient(scores), axes=(1,))
        # A row that sees nothing: exp(-inf - 0) gives the zeros of its weights.
        lowest = largest.constant(-math.inf)
        largest = ops.where(ops.equal(largest, lowest), largest.constant(0), largest)
        powers = ops.exp(scores - spread(largest, scores.shape, (1,)))
        total = ops.reduce_sum(powers, axes=(1,))
        empty = ops.equal(total, total.constant(0))
        y = _product(powers, part(v, 0, 0, scores.shape[1]))
        # The results are divided, not the weights: there are fewer of them.
        inverse = ops.where(empty, total.constant(0), total.constant(1) / total)
        results.append(y * spread(inverse, y.shape, (1,)))
        logarithm = ops.where(empty, total.constant(math.inf), largest + ops.log(total))
        totals.append(reshape(logarithm, (end - first, 1)))
    return [_joined(results), *totals]


def _backward(blocks: Blocks, matrices: Sequence[Tensor], mask: Mask) -> list[Tensor]:
    """The cotangents of q, k and v of one head."""
    q, k, v, y, g, *totals = matrices
    # The sum over a row of weights times their cotangents is this one, which is shorter.
    common = reshape(ops.reduce_sum(g * y, axes=(1,)), (y.shape[0], 1))
    by_query, by_key, by_value = [], [], []
    for (first, end), total in zip(_pairs(blocks), totals, strict=True):
        rows = end - first
        scores = _scores(blocks, q, k, mask, first, end)
        shape = scores.shape
        weights = ops.exp(scores - broadcast(total, shape))
        gradient = part(g, 0, first, rows)
        by_weight = _product(gradient, _turned(part(v, 0, 0, shape[1])))
        by_score = weights * (by_weight - broadcast(part(common, 0, first, rows), shape))
        down = _product(by_score, part(k, 0, 0, shape[1]))
        by_query.append(down * down.constant(blocks.factor))
        by_key.append(_product(_turned(by_score), _scaled(blocks, q, first, end)))
        by_value.append(_product(_turned(weights), gradient))
    return [_joined(by_query), _summed(by_key, k.shape[0]), _summed(by_value, k.shape[0])]


def _pairs(blocks: Blocks) -> list[tuple[int, int]]:
    return list(zip(blocks.cuts, blocks.cuts[1:], strict=False))


def _scaled(blocks: Blocks, q: Tensor, first: int, end: int) -> Tensor:
    rows = part(q, 0, first, end - first)
    return rows * rows.constant(blocks.factor)


def _scores(blocks: Blocks, q: Tensor, k: Tensor, mask: Mask, first: int, end: int) -> Tensor:
    """The scores of a block for the keys that its rows see, -inf where the mask excludes."""
    columns = k.shape[0]
    seen = min(end, columns) if blocks.causal else columns
    scores = _product(_scaled(blocks, q, first, end), _turned(part(k, 0, 0, seen)))
    shape = scores.shape
    if blocks.causal:
        row = iota(shape, 0)
        allowed = ops.less_equal(iota(shape, 1), row + row.constant(first))
    elif mask is None:
        return scores
    else:
        rows = mask if mask.shape[0] == 1 else part(mask, 0, first, end - first)
        allowed = broadcast(rows, shape)
        if mask.dtype is not dtypes.bool_:
            return scores + allowed
    return ops.where(allowed, scores, scores.constant(-math.inf))


def _turned(matrix: Tensor) -> Tensor:
    return ops.transpose(matrix, permutation=(1, 0))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """The product of two matrices."""
    made = ops.contract(reshape(a, (1, *a.shape)), reshape(b, (1, *b.shape)))
    return reshape(made, made.shape[1:])


def _summed(parts: Sequence[Tensor], rows: int) -> Tensor:
    """The sum of matrices of which each has the first ones of so many rows."""
    zero = parts[0].constant(0, shape=())
    whole = [
        x if x.shape[0] == rows else ops.pad(x, zero, low=(0, 0), high=(rows - x.shape[0], 0))
        for x in parts
    ]
    return functools.reduce(ops.add, whole)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else ops.concatenate(*parts, axis=0)
