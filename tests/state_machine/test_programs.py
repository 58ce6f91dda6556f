"""20,000 random programs give in Avalon what they give in PyTorch, read for read and error for
error.
"""

import warnings

import pytest
import torch

from avalon.settings import settings
from tests.state_machine.machine import judge

PROGRAMS = 20_000
PART = 1_000
LONG = 200


@pytest.fixture(autouse=True)
def one_kernel_a_call(monkeypatch):
    """The shape-generic tier: random shapes never come back."""
    monkeypatch.setattr(settings, "tier", "cold")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of numbers in unusual places
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("start", range(0, PROGRAMS, PART))
def test_short_programs(start):
    errors = sum(judge(seed).errors for seed in range(start, start + PART))
    # a machine whose programs never fail, or always do, judges little
    assert PART < errors < 8 * PART


@pytest.mark.parametrize("seed", range(100_000, 100_000 + LONG, 50))
def test_long_programs(seed):
    for one in range(seed, seed + 50):
        judge(one, length=40)
