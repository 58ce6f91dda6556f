"""Recurrent layers and attention give PyTorch's outputs and gradients from PyTorch's weights."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

import avalon as av
from avalon import nn
from avalon.settings import settings
from avalon.tracing import execute

RNG = np.random.default_rng(0)
SEQUENCE = RNG.normal(size=(5, 3, 4)).astype(np.float32)
KEYS = RNG.normal(size=(6, 3, 4)).astype(np.float32)


def flat(result):
    if isinstance(result, (tuple, list)):
        return [leaf for part in result for leaf in flat(part)]
    return [] if result is None else [result]


def compare(make, call, *arrays):
    """Outputs and all gradients of a module in both libraries."""
    torch.manual_seed(0)
    theirs = make(torch.nn)
    ours = make(nn)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    ours.load_state_dict({name: av.tensor(t.numpy()) for name, t in theirs.state_dict().items()})
    assert repr(ours) == repr(theirs)
    first = [torch.tensor(a, requires_grad=a.dtype == np.float32) for a in arrays]
    second = [av.tensor(a, requires_grad=a.dtype == np.float32) for a in arrays]
    expected, found = flat(call(theirs, *first)), flat(call(ours, *second))
    assert len(expected) == len(found)
    for one, other in zip(expected, found, strict=True):
        assert tuple(one.shape) == tuple(other.shape)
        np.testing.assert_allclose(
            other.detach().numpy(), one.detach().numpy(), rtol=1e-4, atol=1e-5
        )
    sum((one * (i + 1)).sin().sum() for i, one in enumerate(expected)).backward()
    sum((one * (i + 1)).sin().sum() for i, one in enumerate(found)).backward()
    leaves = [*zip(first, second, strict=True)]
    leaves += zip(theirs.parameters(), ours.parameters(), strict=True)
    for one, other in leaves:
        if one.grad is not None:
            np.testing.assert_allclose(other.grad.numpy(), one.grad.numpy(), rtol=1e-3, atol=1e-5)


LAYERS = [
    lambda nn: nn.RNN(4, 3),
    lambda nn: nn.RNN(4, 3, nonlinearity="relu", num_layers=2, bias=False),
    lambda nn: nn.LSTM(4, 3, num_layers=2, bidirectional=True),
    lambda nn: nn.LSTM(4, 3, batch_first=True),
    lambda nn: nn.LSTM(4, 3, num_layers=2, bidirectional=True, proj_size=2),
    lambda nn: nn.GRU(4, 3, bidirectional=True),
    lambda nn: nn.GRU(4, 3, num_layers=2, batch_first=True, dropout=0.0),
]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("make", LAYERS)
def test_recurrent_layers(make):
    compare(make, lambda layer, x: layer(x), SEQUENCE)
    compare(make, lambda layer, x: layer(x[:, 0]), SEQUENCE)


def test_states_go_in_and_out():
    h, c = (RNG.normal(size=(2, 3, 3)).astype(np.float32) for _ in range(2))

    def call(layer, x, h, c):
        return layer(x, (h, c))

    compare(lambda nn: nn.LSTM(4, 3, 2), call, SEQUENCE, h, c)
    with pytest.raises(RuntimeError, match=r"must have shape \(1, 3, 3\)"):
        nn.GRU(4, 3)(av.tensor(SEQUENCE), av.zeros(1, 2, 3))
    with pytest.raises(RuntimeError, match="input_size 7"):
        nn.RNN(7, 3)(av.tensor(SEQUENCE))


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells(name):
    compare(lambda nn: getattr(nn, name)(4, 3), lambda cell, x: cell(x[0]), SEQUENCE)
    values = getattr(nn, name)(100, 100).bias_hh.detach().numpy()
    assert -0.1 <= values.min() < -0.07  # both biases are drawn from +-1 / sqrt(hidden)
    assert 0.07 < values.max() <= 0.1


def test_attention():
    def make(nn):
        return nn.MultiheadAttention(4, 2)

    compare(make, lambda layer, q, k: layer(q, k, k), SEQUENCE, KEYS)
    compare(make, lambda layer, q, k: layer(q, k, k, need_weights=False), SEQUENCE, KEYS)
    compare(make, lambda layer, q, k: layer(q, k, k, average_attn_weights=False), SEQUENCE, KEYS)
    padding = np.zeros((3, 6), bool)
    padding[:, 4:] = True
    mask = np.triu(np.ones((5, 6), bool), 2)
    compare(
        lambda nn: nn.MultiheadAttention(4, 2, batch_first=True, bias=False),
        lambda layer, q, k, p, m: layer(
            q.transpose(0, 1), k.transpose(0, 1), k.transpose(0, 1), key_padding_mask=p, attn_mask=m
        ),
        SEQUENCE, KEYS, padding, mask,
    )  # fmt: skip
    other = RNG.normal(size=(6, 3, 7)).astype(np.float32)
    compare(
        lambda nn: nn.MultiheadAttention(4, 2, kdim=7, vdim=4),
        lambda layer, q, k, v: layer(q, k, v),
        SEQUENCE, other, KEYS,
    )  # fmt: skip


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder(norm_first):
    def make(nn):
        layer = nn.TransformerEncoderLayer(
            4, 2, 8, dropout=0.0, activation="gelu", norm_first=norm_first, batch_first=True
        )
        return nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(4), enable_nested_tensor=False)

    mask = np.triu(np.ones((3, 3), bool), 1)
    compare(make, lambda layer, x: layer(x), SEQUENCE)
    compare(make, lambda layer, x, m: layer(x, mask=m), SEQUENCE, mask)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_nothing_unrolls(name):
    layer = getattr(nn, name)(4, 3)
    counts = []
    for length in (4, 40, 400):
        x = av.tensor(RNG.normal(size=(length, 2, 4)), dtype=av.float32)
        step = av.compile(lambda x: layer(x)[0].square().mean().backward())
        for _ in range(3):
            layer.zero_grad()
            step(x)
        counts.append(len(step.program.plan.launches))
    # the second length makes a program for all lengths, which the third takes
    assert counts[1] == counts[2] < 40
    assert counts[0] < 40


def test_proj_size_is_for_lstm():
    with pytest.raises(ValueError, match="proj_size"):
        nn.GRU(4, 3, proj_size=2)
    with pytest.raises(ValueError, match="smaller than hidden_size"):
        nn.LSTM(4, 3, proj_size=3)


def test_batches_of_changing_length_share_a_program_and_give_the_bits_of_each_length():
    layer = nn.LSTM(4, 3)

    def step(length):
        values = np.random.default_rng(length).normal(size=(length, 2, 4))
        x = av.tensor(values, dtype=av.float32, requires_grad=True)
        y, (h, _) = layer(x)
        layer.zero_grad()
        (y.square().sum() + h.sum()).backward()
        tensors = [y.detach(), x.grad, *[p.grad for p in layer.parameters()]]
        return [tensor.numpy().copy() for tensor in tensors]

    lengths = (5, 9, 6, 13, 1, 30)
    found = {length: step(length) for length in lengths}
    shared = [line for line in execute.report() if "sizes that differ are symbols" in line]
    assert shared
    with plain():
        for length in lengths:
            for one, other in zip(found[length], step(length), strict=True):
                np.testing.assert_array_equal(one, other)


@contextmanager
def plain():
    before, settings.tier = settings.tier, "plain"
    yield
    settings.tier = before
