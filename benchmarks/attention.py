"""Attention by the length of its context: time and memory beside PyTorch's own algorithm.

Comes in: nothing. Goes out: rows as those of `layers` (batch 4, 8 heads of 64), with every kind of
mask; and the peak memory of a training step, from fresh processes.

`python -m benchmarks.attention LIBRARY LENGTH` takes some steps and prints their peak.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks import heap, processes

LENGTHS = (256, 512, 1024, 2048)
KINDS = ("whole", "causal", "bool mask", "float mask")
_FRONT = (4, 8)
_WIDTH = 64


def attention(lib: Any, kind: str, length: int) -> Callable[..., Any]:
    """The function of queries, keys and values, with the mask of one kind."""
    numbers = np.random.default_rng(0).normal(size=(length, length)).astype(np.float32)
    mask = {"bool mask": numbers > -1, "float mask": numbers}.get(kind)
    given = None if mask is None else lib.tensor(mask)
    function = lib.nn.functional.scaled_dot_product_attention
    return partial(function, attn_mask=given, is_causal=kind == "causal")


def rows() -> dict[str, Any]:
    """Every kind at every length, as rows of the layer table."""
    # this imports PyTorch, which the memory of one library must not
    from benchmarks.layers import Row

    return {
        name: Row(name, partial(attention, kind=kind, length=length), (shape,) * 3)
        for length in LENGTHS
        for kind in KINDS
        for name, shape in [(f"{kind} {length}", (*_FRONT, length, _WIDTH))]
    }


def peak_bytes(length: int) -> dict[str, float]:
    """Peak resident size of causal training steps less that of what they are given, by library."""
    found = {}
    for library in ("avalon", "torch"):
        command = [sys.executable, "-m", "benchmarks.attention", library, str(length)]
        environment = os.environ | heap.SETTINGS
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found[library] = json.loads(done.stdout)
    return found


def _peak(library: str, length: int) -> int:
    lib = import_module(library)
    generator = np.random.default_rng(0)
    shape = (*_FRONT, length, _WIDTH)
    operands = [
        lib.tensor(generator.normal(size=shape).astype(np.float32)).requires_grad_()
        for _ in range(3)
    ]
    function = attention(lib, "causal", length)
    before = processes.peak()
    for _ in range(4):
        for one in operands:
            one.grad = None
        loss = function(*operands).square().sum()
        loss.item()
        loss.backward()
        operands[0].grad.sum().item()
    return processes.peak() - before


if __name__ == "__main__":
    print(json.dumps(_peak(sys.argv[1], int(sys.argv[2]))))
