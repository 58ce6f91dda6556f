"""Law: tier, number of threads and feature set change no bit of a training step."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import avalon as av
import avalon.nn.functional as F
from avalon import nn
from avalon.runtime import library, threads as shared
from avalon.settings import settings


class Small(nn.Module):
    """Convolution, pooling, normalisation, a product: something of every kind."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3)
        self.second = nn.Conv2d(6, 8, 3, padding=1, stride=2)
        self.norm = nn.LayerNorm(32)
        self.last = nn.Linear(32, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.gelu(self.second(x))
        return self.last(self.norm(x.reshape(x.shape[0], -1)))


def trained():
    """The bytes of all parameters after three steps from fixed numbers."""
    draw = np.random.default_rng(0)
    net = Small()
    with av.no_grad():
        for parameter in net.parameters():
            parameter.copy_(av.tensor(draw.normal(0, 0.3, parameter.shape).astype("float32")))
    x = av.tensor(draw.normal(size=(33, 1, 10, 10)).astype("float32"))
    labels = av.tensor(draw.integers(0, 5, 33))
    for _ in range(3):
        for parameter in net.parameters():
            parameter.grad = None
        F.cross_entropy(net(x), labels).backward()
        with av.no_grad():
            for parameter in net.parameters():
                parameter -= 0.1 * parameter.grad
    return b"".join(parameter.detach().numpy().tobytes() for parameter in net.parameters())


def feature_sets():
    """The sets that this machine has, of those with fused multiply-add."""
    host = set(library.host().features.split(","))
    sets = {"avx512": "+avx512vl", "avx2": "+avx2"}
    return [name for name, feature in sets.items() if feature in host] or [""]


@pytest.fixture(scope="module")
def expected():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "tier", "plain")
        patch.setattr(settings, "threads", 1)
        return trained()


@pytest.mark.parametrize(
    ("tier", "threads", "target"),
    [
        *itertools.product(("cold", "hot", "auto"), (1, 2, 4), ("",)),
        *itertools.product(("plain", "cold", "hot"), (2,), feature_sets()),
    ],
)
def test_nothing_but_the_operations_decides_the_bits(monkeypatch, expected, tier, threads, target):
    monkeypatch.setattr(settings, "tier", tier)
    monkeypatch.setattr(settings, "threads", threads)
    monkeypatch.setattr(settings, "target", target)
    for name in ("WORTHWHILE_NANOSECONDS", "WORTHWHILE_AWAKE_NANOSECONDS"):
        monkeypatch.setattr(shared, name, 0)  # however small the programs are
    assert trained() == expected
