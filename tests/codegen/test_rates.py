"""The machine's measured rates: the kernels do what they say, and settings come back."""

from __future__ import annotations

import pytest

from avalon import dtype as dtypes
from avalon.codegen import rates, target as targets
from avalon.runtime.buffer import Buffer
from avalon.runtime.program import Program
from avalon.settings import settings


def test_the_rates_are_measured_on_the_threads_that_are_asked_for() -> None:
    before = settings.threads
    assert rates.multiply_add_rate(1) > 0
    assert rates.multiply_add_rate(1, dtypes.float64) > 0
    assert rates.memory_rate(1, 1 << 20) > 0
    assert settings.threads == before


def test_every_byte_is_read() -> None:
    target = targets.host()
    rows = 2
    words = rates._UNITS * rows * rates._STREAMS * target.lanes
    kernel = rates._reading(target, rows)
    plan = rates._plan(kernel, [words * 4, rates._UNITS * target.lanes * 4], words)
    source = Buffer(words * 4)
    values = source.as_numpy(dtypes.uint32, (words,))
    values[:] = 0
    program = Program(plan, target)
    for place in (0, 1, words // 3, words - 1):
        values[place] = 5
        (found,) = program.run([source])
        assert sum(found.as_numpy(dtypes.uint32, (rates._UNITS * target.lanes,))) == 5
        values[place] = 0


@pytest.mark.parametrize("name", ["avx512", "avx2", "neon"])
def test_the_arithmetic_reads_no_memory(name: str) -> None:
    target = targets.named(name)
    text = rates._arithmetic(target, dtypes.float32, 8).text
    loop = text[: text.index("store")]
    assert loop.count("call <") >= 8
    assert "load <" not in loop
    assert "load float" not in loop
