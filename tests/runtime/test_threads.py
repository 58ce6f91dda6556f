"""Threads: any number gives the same, children and exits are clean, settings take effect."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from avalon import dtype
from avalon.runtime import driver, driver_tables as tables, library, threads
from avalon.runtime.buffer import Buffer
from avalon.runtime.program import Program
from avalon.settings import settings
from tests.runtime import plans


def shared_run(program, inputs):
    """Run with the workers, whatever the program costs."""
    program._nanoseconds = program._before = 10**7
    return program.run(inputs)


def expect_chain(program, count, links, rounds):
    a, b = np.arange(count, dtype="float32"), np.ones(count, "float32")
    inputs = [Buffer.from_numpy(a), Buffer.from_numpy(b)]
    expected = a + links
    for _ in range(rounds):
        (result,) = shared_run(program, inputs)
        assert (result.as_numpy(dtype.float32, (count,)) == expected).all()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_barriers_hold_for_any_number_of_threads(count):
    settings.threads = count
    expect_chain(Program(plans.chain(5000, 60)), 5000, 60, rounds=40)
    assert count == 1 or threads.workers().threads == count


def test_the_number_of_threads_may_change_between_calls():
    program = Program(plans.chain(4000, 5))
    for settings.threads in (1, 3, 2, 1, 4, 2):
        expect_chain(program, 4000, 5, rounds=3)


def test_workers_sleep_when_idle_and_wake_for_work():
    settings.threads = 2
    program = Program(plans.chain(20_000, 3))
    words = (ctypes.c_int64 * tables.POOL_WORDS).from_address(threads.workers().address)
    for _ in range(3):
        expect_chain(program, 20_000, 3, rounds=2)
        deadline = time.monotonic() + 10
        while words[tables.POOL_ASLEEP] == 0 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert words[tables.POOL_ASLEEP] == 1


def test_it_works_without_futexes(monkeypatch):
    system = threads._system()
    plain = replace(system, syscall=0, futex=0)
    monkeypatch.setattr(threads, "_system", lambda: plain)
    pool = threads.Workers(2)
    settings.threads = 2
    monkeypatch.setattr(threads, "workers", lambda: pool)
    try:
        program = Program(plans.chain(5000, 20))
        for _ in range(3):
            expect_chain(program, 5000, 20, rounds=5)
            time.sleep(0.01)
    finally:
        pool.close()


def test_a_caller_that_finds_the_workers_busy_runs_alone():
    settings.threads = 2
    program = Program(plans.chain(2000, 3))
    with threads.workers().lock:
        expect_chain(program, 2000, 3, rounds=2)


def test_a_failed_check_ends_a_shared_run():
    settings.threads = 2
    program = Program(plans.checked(10_000))
    labels = np.zeros(10_000, "int64")
    labels[7777] = 10
    inputs = [Buffer.from_numpy(np.ones(10_000, "float32")), 2.0, Buffer.from_numpy(labels)]
    for _ in range(50):
        with pytest.raises(IndexError, match="label 10"):
            shared_run(program, inputs)


def test_short_programs_learn_to_run_alone():
    settings.threads = 2
    program = Program(plans.chain(4, 2))
    program._nanoseconds = program._before = 10**7
    inputs = [Buffer.from_numpy(np.ones(4, "float32"))] * 2
    for _ in range(5):
        program.run(inputs)
    assert program._nanoseconds < 10**6


def test_calls_that_follow_closely_ask_the_workers_for_less(monkeypatch):
    settings.threads = 2
    program = Program(plans.chain(200_000, 2))
    asked = []

    def run_shared(frame, cost):
        asked.append(len(calls))
        return 0, 0.0

    monkeypatch.setattr(program, "_run_shared", run_shared)
    monkeypatch.setattr(threads, "WORTHWHILE_NANOSECONDS", 10**9)
    monkeypatch.setattr(threads, "WORTHWHILE_AWAKE_NANOSECONDS", 100)
    inputs, calls = [Buffer(800_000)] * 2, []
    for close in (10**12, 0, 10**12):
        monkeypatch.setattr(threads, "CLOSE_NANOSECONDS", close)
        program._nanoseconds = program._before = 10_000
        calls.append(program.run(inputs))
    # The first call, which none came before, and the second one, which is late, run alone.
    assert asked == [2]


def denormal_product(program):
    tiny = Buffer.from_numpy(np.full(3, 1e-30, "float32"))
    return program.run([tiny, 1e-10])[0].as_numpy(dtype.float32, (3,))


def test_denormals_survive_unless_flushed():
    program = Program(plans.scaling(3))
    assert (denormal_product(program) > 0).all()
    settings.flush_denormals = True
    assert (denormal_product(program) == 0).all()
    assert np.float32(1e-30) * np.float32(1e-10) > 0  # the caller's own arithmetic is untouched
    settings.flush_denormals = False
    assert (denormal_product(program) > 0).all()


def test_flushing_reaches_every_thread():
    settings.threads = 2
    settings.flush_denormals = True
    program = Program(plans.scaling(100_000))
    tiny = Buffer.from_numpy(np.full(100_000, 1e-30, "float32"))
    for _ in range(20):
        (result,) = shared_run(program, [tiny, 1e-10])
        assert (result.as_numpy(dtype.float32, (100_000,)) == 0).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_builds_its_own_pool():
    settings.threads = 2
    program = Program(plans.chain(5000, 10))
    expect_chain(program, 5000, 10, rounds=2)
    threads.workers().lock.acquire()  # as if another thread were in a call
    try:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                expect_chain(program, 5000, 10, rounds=5)
                code = 0
            finally:
                threads._close_at_exit()
                os._exit(code)
    finally:
        threads.workers().lock.release()
    assert os.waitpid(child, 0)[1] == 0
    expect_chain(program, 5000, 10, rounds=2)


def python(code, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


SETUP = """
import numpy as np
from avalon.runtime.buffer import Buffer
from avalon.runtime.program import Program
from avalon.settings import settings
from tests.runtime import plans
settings.threads = 2
program = Program(plans.chain(100_000, 10))
inputs = [Buffer.from_numpy(np.ones(100_000, "float32"))] * 2
program._nanoseconds = program._before = 10**7
program.run(inputs)
"""


def test_the_interpreter_exits_cleanly_with_workers_around():
    process = python(SETUP + "print('end')")
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "end\n")


def test_the_interpreter_exits_while_a_thread_still_calls():
    code = SETUP + (
        "import threading\n"
        "def forever():\n"
        "    while True: program.run(inputs)\n"
        "threading.Thread(target=forever, daemon=True).start()\n"
        "program.run(inputs)\nprint('end')\n"
    )
    process = python(code)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_an_interrupt_arrives_between_calls():
    code = SETUP + (
        "import signal\n"  # a shell's background jobs start out deaf to it
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n"
        "    print('ready', flush=True)\n"
        "    while True: program.run(inputs)\n"
        "except KeyboardInterrupt:\n"
        "    program.run(inputs)\n"
        "    print('interrupted')\n"
    )
    process = python(code)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "interrupted\n")


@pytest.mark.parametrize(("nanoseconds", "released"), [(10_000, 0), (10**6, 1)])
@pytest.mark.parametrize("count", [1, 2])
def test_long_calls_release_the_gil_and_short_ones_do_not(nanoseconds, released, count):
    settings.threads = count
    program = Program(plans.chain(10, 1))
    calls = []

    def entry(number):
        def run(*addresses):
            calls.append(number)
            return 0

        return run

    pair = (entry(0), entry(1))
    program.driver = replace(program.driver, run_alone=pair, run_shared=pair)
    program._nanoseconds = nanoseconds
    program.run([Buffer(40), Buffer(40)])
    assert calls == [released]


def test_the_entries_of_the_driver_hold_the_gil_or_not():
    keeps_gil = ctypes.PYFUNCTYPE(None)._flags_
    for held, released in (threads.load_driver().run_alone, threads.load_driver().run_shared):
        assert held._flags_ == keeps_gil
        assert released._flags_ == ctypes.CFUNCTYPE(None)._flags_ != keeps_gil


@pytest.mark.parametrize(
    ("triple", "pause"),
    [
        ("x86_64-unknown-linux-gnu", "pause"),
        ("x86_64-pc-windows-msvc", "pause"),
        ("aarch64-unknown-linux-gnu", "yield"),
        ("arm64-apple-darwin", "yield"),
        ("riscv64-unknown-linux-gnu", "ret"),
    ],
)
def test_the_driver_is_assembled_for_every_architecture(triple, pause):
    text = driver.text(triple)
    assert all(f"@{entry}(" in text for entry in driver.ENTRIES)
    lines = library.assembly(text, library.NamedMachine(triple)).splitlines()
    assert any(line.split() and line.split()[0] == pause for line in lines)
