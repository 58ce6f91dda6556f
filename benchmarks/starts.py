"""What is paid before the work begins: imports, the first steps of a run, the cost of one call.

Comes in: nothing. Goes out: seconds by name. Every number comes from fresh processes, for a second
import or a second first step costs nothing.

`python -m benchmarks.starts MODEL` does a model's first steps and prints their times.
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
from benchmarks import nets, resnet

Step = tuple[Callable[..., av.Tensor], tuple[av.Tensor, ...]]  # and the batch that it takes
STEPS = 16
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
    """First four steps less four steady ones by model: from an empty cache, and for some a full."""
    extra: dict[str, list[float]] = {}
    for name in FIRST_STEPS:
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as cache:
                for state in ("cold", "warm"):
                    command = [sys.executable, "-m", "benchmarks.starts", name]
                    seconds = json.loads(_run(command, AVALON_CACHE=cache))
                    steady = median(seconds[FIRST * 2 :])
                    over = sum(seconds[:FIRST]) - FIRST * steady
                    extra.setdefault(f"{name}, {state} cache", []).append(over)
    return {name: median(values) for name, values in extra.items()}


def everything() -> dict[str, dict[str, float]]:
    """All that this module measures, by what it is."""
    return {
        "first four steps less four steady ones": first_steps(),
        "import": {module: import_seconds(module) for module in ("avalon", "torch", "jax")},
        "compiled call": call_seconds(),
    }


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


def _cnn() -> Step:
    net = nets.Net()
    step = nets.training_step(net, av.optim.Adam(av.parameters(net), lr=1e-3))
    return step, (_floats(100, 1, 28, 28), _integers(10, 100))


def _resnet() -> Step:
    net = resnet.build(av)
    step = nets.training_step(net, av.optim.SGD(net.parameters(), lr=0.01, momentum=0.9))
    return step, (_floats(resnet.BATCH, 3, 32, 32), _integers(10, resnet.BATCH))


def _gpt() -> Step:
    model = nets.GPT(65, 64, 128, 4, 4)
    step = nets.gpt_step(model, av.optim.AdamW(av.parameters(model), lr=1e-3))
    return step, (_integers(65, 12, 64), _integers(65, 12, 64))


def _recurrent(length: int) -> Step:
    model = nets.Recurrent(64, 256, 10)
    step = nets.recurrent_step(model, av.optim.Adam(av.parameters(model), lr=1e-3))
    return step, (_floats(8, length, 64), _integers(10, 8))


FIRST_STEPS: dict[str, Callable[[], Step]] = {
    "CNN loop": _cnn,
    "CNN compiled": _cnn,
    "ResNet-18 compiled": _resnet,
    "GPT compiled": _gpt,
    "LSTM of length 10 compiled": lambda: _recurrent(10),
    "LSTM of length 1000 compiled": lambda: _recurrent(1000),
}


def _floats(*shape: int) -> av.Tensor:
    return av.tensor(np.random.default_rng(0).random(shape, np.float32))


def _integers(high: int, *shape: int) -> av.Tensor:
    return av.tensor(np.random.default_rng(0).integers(0, high, shape))


def _first_steps_of_this_process(name: str) -> list[float]:
    av.manual_seed(0)
    step, batch = FIRST_STEPS[name]()
    if name.endswith("compiled"):
        step = av.compile(step)
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        step(*batch).item()
        seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    print(json.dumps(_first_steps_of_this_process(sys.argv[1])))
