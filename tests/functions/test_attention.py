"""Attention in blocks: PyTorch's values and gradients, the bits of every tier, little memory, and
taken for long contexts alone. Small blocks stand for long contexts.
"""

import numpy as np
import pytest
import torch

import avalon as av
import avalon.nn.functional as F
from avalon.functions import attention_blocks

SHAPES = {  # (leading axes), L, S, E, V
    "even": ((2, 2), 40, 40, 8, 8),
    "odd": ((2, 2), 37, 53, 7, 5),
    "more queries than keys": ((3,), 53, 21, 7, 5),
    "one head": ((), 13, 29, 3, 1),
}
EMPTY = {"no features": ((2,), 3, 4, 0, 5), "nothing at all": ((2,), 3, 4, 0, 0)}
MASKS = [(37, 53), (1, 53), (37, 1), (2, 1, 1, 53), (2, 1, 37, 53), (2, 2, 37, 53), (2, 37, 53)]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(attention_blocks, "_LEAST_SCORES", 1)
    monkeypatch.setattr(attention_blocks, "_BLOCK_SCORES", 500)
    monkeypatch.setattr(attention_blocks, "_ROWS", 4)


def arrays(name, dtype=np.float64, seed=0, shared=1):
    """Queries, keys, values and a cotangent; `shared` heads have the same keys."""
    front, rows, columns, width, out = (SHAPES | EMPTY)[name]
    rng = np.random.default_rng(seed)
    fewer = (*front[:-1], front[-1] // shared) if shared > 1 else front
    shapes = [(*front, rows, width), (*fewer, columns, width), (*fewer, columns, out)]
    return [rng.normal(size=shape).astype(dtype) for shape in (*shapes, (*front, rows, out))]


def in_library(library, function, given, mask, options):
    """The result and the gradients, as arrays."""
    *operands, g = map(library.tensor, given)
    for x in operands:
        x.requires_grad_()
    mask = None if mask is None else library.tensor(mask)
    y = function(*operands, attn_mask=mask, **options)
    (y * g).sum().backward()
    return [y.detach().numpy(), *(x.grad.numpy() for x in operands)]


def agrees(given, mask=None, **options):
    ours = in_library(av, F.scaled_dot_product_attention, given, mask, options)
    function = torch.nn.functional.scaled_dot_product_attention
    theirs = in_library(torch, function, given, mask, options)
    tolerance = 1e-12 if given[0].dtype == np.float64 else 3e-5
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SHAPES)
def test_values_and_gradients(small, name, dtype, causal):
    agrees(arrays(name, dtype), is_causal=causal)


def test_options(small):
    agrees(arrays("odd", shared=2), enable_gqa=True)
    agrees(arrays("odd"), scale=0.3, is_causal=True)


@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize("shape", MASKS)
def test_masks_some_of_whose_rows_exclude_everything(small, shape, kind):
    allowed = np.random.default_rng(1).random(shape) > 0.4
    allowed[..., 0, :] = False
    numbers = np.random.default_rng(2).normal(size=shape)
    agrees(arrays("odd"), allowed if kind == "bool" else np.where(allowed, numbers, -np.inf))


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 2.0}])
@pytest.mark.parametrize("name", EMPTY)
def test_heads_of_no_features_take_equally_of_all(name, options):
    agrees(arrays(name), **options)


def test_the_gradient_has_a_gradient(small):
    def second(library, function, causal):
        q, k, v, g = map(library.tensor, arrays("one head"))
        operands = [x.requires_grad_() for x in (q, k, v)]
        y = function(*operands, is_causal=causal)
        first = library.autograd.grad((y * g).sum(), operands, create_graph=True)
        sum((x * x * x).sum() for x in first).backward()
        return [x.grad.numpy() for x in operands]

    for causal in (False, True):
        ours = second(av, F.scaled_dot_product_attention, causal)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            theirs = second(torch, torch.nn.functional.scaled_dot_product_attention, causal)
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-11)


def test_a_mask_that_wants_a_gradient_gets_it(small):
    q, k, v, _ = map(av.tensor, arrays("one head"))
    bias = av.zeros(13, 29, dtype=av.float64).requires_grad_()
    F.scaled_dot_product_attention(q, k, v, attn_mask=bias)[0].sum().backward()
    assert np.abs(bias.grad.numpy()[0]).max() > 0


def step(q, k, v, mask, causal):
    def loss(q, k, v):
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return (y * y).sum()

    return av.grad(loss, q, k, v)


@pytest.mark.parametrize("masked", [False, True])
def test_every_tier_gives_the_same(small, masked):
    q, k, v, _ = map(av.tensor, arrays("odd", np.float32))
    mask = av.rand(2, 1, 37, 53) > 0.3 if masked else None
    report = av.check(lambda q, k, v: step(q, k, v, mask, not masked), q, k, v)
    assert report, report


def test_recorded_and_compiled_steps_give_the_same(small):
    q, k, v, _ = map(av.tensor, arrays("odd", np.float32))

    def bits(found):
        value, gradients = found
        return [x.numpy().tobytes() for x in (value, *gradients)]

    recorded = bits(step(q, k, v, None, True))
    compiled = av.compile(lambda q, k, v: step(q, k, v, None, True))
    for _ in range(3):
        assert bits(compiled(q, k, v)) == recorded


def arena(length, name):
    """Bytes that a training step with 6 heads of so many positions takes for what it computes."""
    q, k, v = (av.rand(6, length, 16) for _ in range(3))
    compiled = av.compile(lambda q, k, v: step(q, k, v, None, True))
    with av.without(name):
        for _ in range(3):
            compiled(q, k, v)
    return compiled.program.arena_bytes


def test_long_attention_takes_little_memory():
    scores = 4 * 6 * 512 * 512
    assert arena(512, "undone") < scores / 2
    assert arena(512, "attention in blocks") > 2 * scores


def test_only_long_contexts_are_cut():
    def is_cut(rows, columns, dtype=av.float32, mask=None):
        q, k = av.rand(2, rows, 4).to(dtype), av.rand(2, columns, 4).to(dtype)
        return attention_blocks.is_long(q, k, mask)

    assert is_cut(512, 512)
    assert is_cut(128, 1024, av.float64)
    assert not is_cut(256, 256)
    assert not is_cut(1, 4096)
    assert not is_cut(512, 512, av.float16)
    assert is_cut(512, 512, mask=av.zeros(512, 512))
    assert not is_cut(512, 512, mask=av.zeros(512, 512, requires_grad=True))
    with av.without("attention in blocks"):
        assert not is_cut(512, 512)


def test_blocks_cover_all_rows():
    for rows in (1, 31, 33, 384, 400, 1000, 4097):
        cuts = attention_blocks._cuts(rows, 1024)
        assert cuts[0] == 0
        assert cuts[-1] == rows
        assert list(cuts) == sorted(set(cuts))
        assert len(cuts) <= attention_blocks._MOST_BLOCKS + 1


# --- planted faults -----------------------------------------------------------------------------


def test_a_fault_in_the_gradient_is_found(small, monkeypatch):
    q, k, v, _ = map(av.tensor, arrays("one head", np.float32))
    sound = attention_blocks._backward

    def wrong(*given):
        by_query, *others = sound(*given)
        return [by_query * 2, *others]

    monkeypatch.setattr(attention_blocks, "_backward", wrong)

    def loss(q, k, v):
        return (F.scaled_dot_product_attention(q, k, v) ** 2).sum()

    report = av.check(loss, q, k, v)
    assert not report
    assert {finding.what for finding in report.findings} == {"q"}
    assert "finite differences" in str(report)


def test_a_fault_in_the_values_shows_without_the_algorithm(small, monkeypatch):
    q, k, v, _ = map(av.tensor, arrays("odd", np.float32))

    def difference():
        found = F.scaled_dot_product_attention(q, k, v)
        with av.without("attention in blocks"):
            return abs(found - F.scaled_dot_product_attention(q, k, v)).max().item()

    assert difference() < 1e-6
    sound = attention_blocks._scores

    def doubled(*given):
        scores = sound(*given)
        return scores + scores

    monkeypatch.setattr(attention_blocks, "_scores", doubled)
    attention_blocks._body.cache_clear()
    assert difference() > 1e-2
    attention_blocks._body.cache_clear()
