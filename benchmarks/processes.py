"""What only whole processes show: peak memory of a training step, and two trainings side by side.

Comes in: a library and a model. Goes out: bytes, or steps a second. Every number comes from a
fresh process, for memory that was once taken stays taken.

`python -m benchmarks.processes memory|pace LIBRARY` does one of them and prints a number.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import cnn, heap, resnet

SECONDS = 6.0


def peak_bytes(repeats: int = 3) -> dict[str, float]:
    """Peak resident size of training the ResNet-18, less that after the import, by library."""
    return {
        library: median(
            json.loads(_finish(_start("memory", library)))["bytes"] for _ in range(repeats)
        )
        for library in ("avalon", "torch")
    }


def side_by_side(repeats: int = 3) -> dict[str, list[float]]:
    """How much of its lone pace each of two trainings of the CNN keeps beside the other."""
    kept: list[list[float]] = []
    for _ in range(repeats):
        alone = _pace([_start("pace", "avalon")])[0]
        kept.append([pace / alone for pace in _pace([_start("pace", "avalon") for _ in range(2)])])
    return {"avalon": [median(side) for side in zip(*map(sorted, kept), strict=True)]}


def _pace(processes: Sequence[subprocess.Popen[str]]) -> list[float]:
    """Steps a second of each, in the time in which all of them train."""
    marks = [json.loads(_finish(process))["marks"] for process in processes]
    begin, end = max(one[0] for one in marks), min(one[-1] for one in marks)
    return [sum(begin <= mark <= end for mark in one) / (end - begin) for one in marks]


def _start(task: str, library: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.processes", task, library]
    environment = os.environ | (heap.SETTINGS if task == "pace" else {})
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)


def _finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a benchmark process ended with {process.returncode}")
    return out


def _memory(library: str) -> dict[str, float]:
    lib = import_module(library)
    generator = np.random.default_rng(0)
    images = generator.normal(size=(resnet.BATCH, 3, 32, 32)).astype(np.float32)
    labels = generator.integers(0, 10, resnet.BATCH)
    before = peak()
    side = resnet.competitor(lib, resnet.build(lib), images, labels, compiled=library == "avalon")
    for _ in range(4):
        side.train()
    return {"bytes": peak() - before}


def peak() -> int:
    """The largest resident size so far, in bytes. Linux is asked by file, for there getrusage
    begins with what the parent had.
    """
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _training(library: str) -> dict[str, list[float]]:
    step = cnn.contest().competitors[library].train
    for _ in range(10):
        step()
    marks = [time.time()]
    while marks[-1] < marks[0] + SECONDS:
        step()
        marks.append(time.time())
    return {"marks": marks}


if __name__ == "__main__":
    print(json.dumps({"memory": _memory, "pace": _training}[sys.argv[1]](sys.argv[2])))
