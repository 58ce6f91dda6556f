"""Square matrix products beside PyTorch and JAX, and beside what the machine can do at all.

Comes in: sizes. Goes out: turns by size; the machine's rate of fused multiply-adds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import avalon as av
from avalon.codegen.rates import multiply_add_rate
from benchmarks import measure
from benchmarks.contest import Turns

SIZES = (256, 512, 1024, 2048)


def steps(size: int) -> dict[str, Callable[[], Any]]:
    """One product of two float32 matrices, by each library."""
    generator = np.random.default_rng(0)
    left, right = (generator.normal(size=(size, size)).astype(np.float32) for _ in range(2))
    ours = av.compile(lambda a, b: a @ b)
    a, b = av.tensor(left), av.tensor(right)
    ta, tb = torch.tensor(left), torch.tensor(right)
    product = jax.jit(jnp.matmul)
    ja, jb = jnp.asarray(left), jnp.asarray(right)
    return {
        "avalon": lambda: ours(a, b),
        "torch": lambda: ta @ tb,
        "jax": lambda: product(ja, jb).block_until_ready(),
    }


def rates(size: int, turns: Turns) -> dict[str, float]:
    """GFLOP/s of each library, and of fused multiply-adds alone on all threads."""
    work = 2 * size**3 / 1e9
    found = {name: round(work / measure.middle(times), 1) for name, times in turns.items()}
    return found | {"multiply-adds": round(multiply_add_rate(), 1)}
