"""How times grow: with the batch, the width of a layer and the number of threads.

Comes in: nothing. Goes out: turns by axis and size. Threads are compared in processes of their own,
for a pool is made once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import avalon as av
from benchmarks import heap, loops, measure
from benchmarks.contest import Turns

BATCHES = (1, 10, 100, 1000)
WIDTHS = (32, 128, 512, 2048)


def batches() -> dict[int, Turns]:
    """The CNN's training step by the size of its batch."""
    return {size: _turns(partial(loops.cnn_step, batch=size)) for size in BATCHES}


def widths() -> dict[int, Turns]:
    """A training step of a network with two hidden layers, batch 64, by their width."""
    return {size: _turns(partial(loops.mlp_step, width=size)) for size in WIDTHS}


def _turns(build: Callable[[Any], Callable[[], Any]]) -> Turns:
    return measure.take_turns({"avalon": build(av), "torch": build(torch)}, 3, 0.3)


def threads(most: int) -> dict[int, Turns]:
    """The CNN's training step, batch 100, by the number of threads, up to `most`."""
    found = {}
    for count in range(1, most + 1):
        environment = os.environ | heap.SETTINGS | {
            "AVALON_NUM_THREADS": str(count), "OMP_NUM_THREADS": str(count)
        }  # fmt: skip
        command = [sys.executable, "-m", "benchmarks.scaling"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found[count] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    print(json.dumps(_turns(loops.cnn_step)))
