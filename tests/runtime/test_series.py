"""Series: calls of one program in one native call give what calls one by one give."""

from __future__ import annotations

import numpy as np
import pytest

from avalon import dtype
from avalon.errors import IndexOutOfRange
from avalon.runtime.bound import Bound
from avalon.runtime.buffer import Buffer
from avalon.runtime.program import Program
from avalon.runtime.series import Series
from avalon.settings import settings
from tests.runtime import plans

LINKS = 3


def run_chain(calls, count=200):
    """`calls` sums of different vectors, each into its own row; the rows, and what is expected."""
    program = Program(plans.chain(count, LINKS))
    given = np.arange(calls * count, dtype="float32").reshape(calls, count) % 1000
    first, second = Buffer.from_numpy(given), Buffer.from_numpy(np.ones(count, "float32"))
    results = Buffer(given.nbytes)
    bound = Bound(program, [Buffer(4 * count), second], [Buffer(4 * count)])
    steps = np.arange(calls, dtype=np.uint64) * np.uint64(4 * count)
    (read,), written = bound.input_words([0]), bound.output_word(0)
    words = {read: first.address + steps, written: results.address + steps}
    series = Series(words, calls)
    bound.run_series(series)
    assert series.done == calls
    return results.as_numpy(dtype.float32, given.shape), given + LINKS


@pytest.mark.parametrize("calls", [1, 2, 255, 300, 1000])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_each_call_has_its_words(calls, threads):
    settings.threads = threads
    found, expected = run_chain(calls)
    assert (found == expected).all()


@pytest.mark.parametrize("pays", [False, True])
def test_the_workers_help_where_that_is_faster(pays, monkeypatch):
    settings.threads = 2
    ways = []

    def timed(program, frame, series, stop, pool):
        ways.append(bool(pool))
        failed = original(program, frame, series, stop, pool)
        program._pace = 10 if bool(pool) is pays else 20
        return failed

    original = Program._go_on
    monkeypatch.setattr(Program, "_go_on", timed)
    found, expected = run_chain(300, 20_000)
    assert (found == expected).all()
    assert ways == [False, False, True, True, pays]


def checked_series(labels):
    """A series of calls of `plans.checked` on rows of labels: the series, and its error if any."""
    program = Program(plans.checked(4))
    vector = Buffer.from_numpy(np.ones(4, "float32"))
    rows = Buffer.from_numpy(np.array(labels, np.int64))
    bound = Bound(program, [vector, 2.0, rows], [vector])
    (word,) = bound.input_words([2])
    addresses = rows.address + np.arange(len(labels), dtype=np.uint64) * np.uint64(32)
    series = Series({word: addresses}, len(labels))
    error = None
    try:
        bound.run_series(series)
    except IndexOutOfRange as found:
        error = found
    return series, error, vector.as_numpy(dtype.float32, (4,))


def test_a_failed_check_ends_the_series_and_changes_nothing():
    labels = np.zeros((6, 4), np.int64)
    series, error, vector = checked_series(labels)
    assert error is None
    assert vector.tolist() == [64.0] * 4
    labels[3, 2] = 12
    series, error, vector = checked_series(labels)
    assert series.done == 3
    assert "label 12" in str(error)
    assert vector.tolist() == [8.0] * 4  # three calls have doubled it in place
