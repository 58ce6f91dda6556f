"""What is paid before the work begins: imports, the first steps of a run, the cost of one call.

Comes in: nothing. Goes out: seconds by name. Every number comes from fresh processes, for a second
import or a second first step costs nothing.

`python -m benchmarks.starts loop|compiled` does the first steps of the CNN and prints their times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np

import avalon as av
from benchmarks.nets import Net, training_step

STEPS = 24
FIRST = 4


def import_seconds(module: str, repeats: int = 5) -> float:
    """Median time of `import module` in a fresh process, NumPy included.

    The first import of a fresh checkout compiles Python's sources, which is not counted.
    """
    code = (
        "import time; start = time.perf_counter(); "
        f"import {module}; print(time.perf_counter() - start)"
    )
    seconds = [float(_run([sys.executable, "-c", code])) for _ in range(repeats + 1)]
    return median(seconds[1:])


def first_steps(repeats: int = 3) -> dict[str, float]:
    """The CNN's first four steps less four steady ones: from a cold and a warm cache, both ways."""
    extra: dict[str, list[float]] = {}
    for way in ("loop", "compiled"):
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as cache:
                for state in ("cold", "warm"):
                    seconds = json.loads(
                        _run([sys.executable, "-m", "benchmarks.starts", way], AVALON_CACHE=cache)
                    )
                    steady = median(seconds[FIRST * 2 :])
                    over = sum(seconds[:FIRST]) - FIRST * steady
                    extra.setdefault(f"{way}, {state} cache", []).append(over)
    return {name: median(values) for name, values in extra.items()}


def call_seconds(calls: int = 5000) -> dict[str, float]:
    """The fixed cost of a compiled call: the sum of four one-element tensors, or of 60."""

    def add(a: av.Tensor, b: av.Tensor, c: av.Tensor, d: av.Tensor) -> av.Tensor:
        return a + b + c + d

    def add_all(struct: dict[str, av.Tensor]) -> av.Tensor:
        return sum(struct.values(), start=av.zeros(1))

    struct = {f"field{i}": av.ones(1) for i in range(60)}
    four, sixty = av.compile(add), av.compile(add_all)
    return {
        "4 tensors": _median_call(lambda: four(*list(struct.values())[:4]), calls),
        "a struct of 60 tensors": _median_call(lambda: sixty(struct), calls),
    }


def _median_call(call: Callable[[], object], calls: int) -> float:
    for _ in range(20):
        call()
    durations = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        durations.append(time.perf_counter() - start)
    return median(durations)


def _run(command: Sequence[str], **environment: str) -> str:
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        command, env=inherited | environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def _first_steps_of_this_process(way: str) -> list[float]:
    av.manual_seed(0)
    net = Net()
    step = training_step(net, av.optim.Adam(av.parameters(net), lr=1e-3))
    if way == "compiled":
        step = av.compile(step)
    generator = np.random.default_rng(0)
    x = av.tensor(generator.random((100, 1, 28, 28), np.float32))
    y = av.tensor(generator.integers(0, 10, 100))
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        step(x, y).item()
        seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    print(json.dumps(_first_steps_of_this_process(sys.argv[1])))
