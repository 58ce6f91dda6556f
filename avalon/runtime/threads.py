"""The threads that run programs: one pool of workers, and the native calls that use it.

Comes in: the address of a job (`driver_tables`). Goes out: the job's status word. Guaranteed:
whoever waits for a job works itself, so it finishes whether or not a worker is awake; only one job
at a time has the workers, and a caller that finds them busy runs alone; a short job neither wakes
anyone nor releases the GIL; a job that its caller left to the workers (a `Flight`) is ended before
they do another, before a fork and before the interpreter ends; a forked child builds its own pool;
workers end before the interpreter does.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache as once

from avalon.runtime import buffer, cache, driver, driver_tables as tables, interrupts, library
from avalon.runtime.driver_tables import PAUSED
from avalon.runtime.plan import Kernel
from avalon.settings import settings

# A caller asks the workers for help if that saves so much time; below it, waking and waiting for
# them costs more.
WORTHWHILE_NANOSECONDS = 20_000
# The same for a call that follows so closely on one before it that the workers need not sleep
# between them.
CLOSE_NANOSECONDS = 100_000
WORTHWHILE_AWAKE_NANOSECONDS = 6_000
# A caller with other things to do leaves a call to the workers if it takes them so long.
WORTHWHILE_LEAVING_NANOSECONDS = 40_000
# Releasing the GIL beside a busy Python thread costs a switch interval (5 ms) to get it back.
RELEASE_NANOSECONDS = 200_000

_BARRIER_SPIN = 5e-6
_BARRIER_YIELD = 100e-6
_IDLE_SPIN = 20e-6
_IDLE_YIELD = 200e-6
_PATIENCE = 0.01

_FUTEX_NUMBERS = {"x86_64": 202, "amd64": 202, "aarch64": 98, "arm64": 98, "riscv64": 98}

Run = Callable[[int], int]


@dataclass(frozen=True)
class Driver:
    """The loaded driver. The pairs hold the GIL (first) or release it while they run (second)."""

    run_alone: tuple[Run, Run]
    walk_alone: Run  # goes on with a run that has paused
    run_shared: tuple[Callable[[int, int], int], Callable[[int, int], int]]
    run_series: tuple[Callable[[int, int, int], int], Callable[[int, int, int], int]]
    begin: Callable[[int, int], None]
    finish: tuple[Callable[[int, int], int], Callable[[int, int], int]]
    serve: Callable[[int, int], None]
    stop: Callable[[int], None]
    spin: Callable[[int], None]
    keep: object


@once
def load_driver() -> Driver:
    """Load the driver, from the cache folder if it was built before."""
    triple = library.host().triple
    # one object serves every processor of the architecture
    machine = library.NamedMachine(triple)
    loaded = library.load_entries(Kernel("driver", driver.text(triple)), driver.ENTRIES, machine)
    alone, walk, shared, series, begin, finish, serve, stop, spin = (
        loaded.addresses[name] for name in driver.ENTRIES
    )
    word, address = ctypes.c_int64, ctypes.c_void_p
    return Driver(
        (
            ctypes.PYFUNCTYPE(word, address)(alone),
            ctypes.CFUNCTYPE(word, address)(alone),
        ),
        ctypes.CFUNCTYPE(word, address)(walk),
        (
            ctypes.PYFUNCTYPE(word, address, address)(shared),
            ctypes.CFUNCTYPE(word, address, address)(shared),
        ),
        (
            ctypes.PYFUNCTYPE(word, address, address, address)(series),
            ctypes.CFUNCTYPE(word, address, address, address)(series),
        ),
        ctypes.PYFUNCTYPE(None, address, address)(begin),
        (
            ctypes.PYFUNCTYPE(word, address, address)(finish),
            ctypes.CFUNCTYPE(word, address, address)(finish),
        ),
        ctypes.CFUNCTYPE(None, address, word)(serve),
        ctypes.PYFUNCTYPE(None, address)(stop),
        ctypes.CFUNCTYPE(None, word)(spin),
        loaded,
    )


class Workers:
    """A pool of `threads - 1` workers that help the calling thread.

    `lock` is held by the caller whose job the workers run. That may be one that went on meanwhile:
    then `flight` is the call, which anyone may end who needs the workers.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.lock = threading.Lock()
        self.flight: Flight | None = None
        self.driver = load_driver()
        self._words = buffer.Buffer(tables.POOL_WORDS * 8)
        self.address = self._words.address
        ctypes.memset(self.address, 0, self._words.nbytes)
        self._write_table()
        self._workers = [
            threading.Thread(
                target=self.driver.serve,
                args=(self.address, number),
                name=f"avalon-{number}",
                daemon=True,
            )
            for number in range(1, threads)
        ]
        for worker in self._workers:
            worker.start()

    def land(self) -> None:
        """End the call whose caller went on, if there is one."""
        flight = self.flight
        if flight is not None:
            flight.land()

    def close(self) -> None:
        """Let the workers end, and wait until they have."""
        self.land()
        self.driver.stop(self.address)
        for worker in self._workers:
            worker.join()
        self._workers = []

    def _write_table(self) -> None:
        system = _system()
        pause, yield_ = _speeds()
        words = (ctypes.c_int64 * tables.POOL_WORDS).from_address(self.address)
        words[tables.POOL_SYSCALL] = system.syscall
        words[tables.POOL_YIELD] = system.yield_
        words[tables.POOL_NAP] = system.nap
        words[tables.POOL_NAP_TIME] = system.nap_time
        words[tables.POOL_FUTEX] = system.futex
        words[tables.POOL_BARRIER_SPINS] = int(_BARRIER_SPIN / pause)
        words[tables.POOL_BARRIER_YIELDS] = int(_BARRIER_YIELD / yield_)
        words[tables.POOL_IDLE_SPINS] = int(_IDLE_SPIN / pause)
        words[tables.POOL_IDLE_YIELDS] = int(_IDLE_YIELD / yield_)


class Flight:
    """A job that the workers carry on with while its caller goes on."""

    def __init__(self, pool: Workers, job: int, released: bool, held: object) -> None:
        self._pool = pool
        self._job = job
        self._finish = pool.driver.finish[released]
        self._held = held  # all memory that the job reads and writes
        self._status: int | None = None
        self._lock = threading.RLock()

    @staticmethod
    def begin(pool: Workers, job: int, released: bool, held: object) -> Flight | None:
        """Hand over a job, `held` being whatever keeps its memory; None if the workers are busy.
        `released`: whoever waits for it lets go of the GIL.
        """
        flight = Flight(pool, job, released, held)
        pool.land()
        if not pool.lock.acquire(blocking=False):
            return None
        # Ctrl-C comes after calls only: a flight that is known has begun.
        pool.flight = flight
        try:
            pool.driver.begin(pool.address, job)
        except BaseException as interruption:  # of a handler that ran as the call returned
            interrupts.late.append(interruption)
        return flight

    def land(self) -> int:
        """Help with what is left and wait for the rest; the job's status. Who is interrupted may
        ask again, and so may any thread.
        """
        with self._lock:
            if self._status is None:
                status = PAUSED
                while status == PAUSED:
                    status = self._finish(self._pool.address, self._job)
                self._status = status
                self._pool.flight = self._held = None
                self._pool.lock.release()
            return self._status


def workers() -> Workers:
    """Return the pool for `settings.threads`, changing its size if that was assigned."""
    global _pool
    pool = _pool
    if pool is None or pool.threads != settings.threads:
        with _resizing:
            pool = _pool
            if pool is None or pool.threads != settings.threads:
                if pool is not None:
                    while not pool.lock.acquire(timeout=_PATIENCE):  # its running job ends first
                        pool.land()
                    try:
                        pool.close()
                    finally:
                        pool.lock.release()
                pool = _pool = Workers(settings.threads)
    return pool


@dataclass(frozen=True)
class _System:
    """Addresses of the functions that the driver calls; 0 where the system has none."""

    syscall: int
    futex: int
    yield_: int
    nap: int
    nap_time: int  # in the unit of the function at `nap`
    clock: int
    keep: tuple[object, ...]


@once
def _system() -> _System:
    if sys.platform == "win32":
        kernel = ctypes.WinDLL("kernel32")
        give_way, sleep = _address(kernel.SwitchToThread), _address(kernel.Sleep)
        return _System(0, 0, give_way, sleep, 1, 0, (kernel,))
    libc = ctypes.CDLL(None)
    futex = _FUTEX_NUMBERS.get(platform.machine().lower(), 0) if sys.platform == "linux" else 0
    syscall = _address(libc.syscall) if futex else 0
    give_way, sleep = _address(libc.sched_yield), _address(libc.usleep)
    clock = _address(libc.clock_gettime)
    return _System(syscall, futex, give_way, sleep, 50, clock, (libc,))


def clock() -> tuple[int, int]:
    """The address of the function that tells the time, and what to ask it for; zeros if the system
    has none of POSIX's.
    """
    found = _system().clock
    return (found, time.CLOCK_MONOTONIC) if found else (0, 0)


def _address(function: object) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]


@once
def _speeds() -> tuple[float, float]:
    """Seconds that one pause and one offer of the processor to others take."""
    spin = load_driver().spin
    pauses, yields = 2000, 50
    started = time.perf_counter()
    spin(pauses)
    paused = time.perf_counter()
    for _ in range(yields):
        os.sched_yield() if hasattr(os, "sched_yield") else time.sleep(0)
    yielded = time.perf_counter()
    return max((paused - started) / pauses, 1e-9), max((yielded - paused) / yields, 1e-7)


_pool: Workers | None = None
_resizing = threading.Lock()


def _close_at_exit() -> None:
    global _pool
    if _pool is not None:
        _pool.close()
        _pool = None


def _land_before_fork() -> None:
    if _pool is not None:
        _pool.land()


def _renew_in_child() -> None:
    """A forked child has no workers, and locks in whatever state the parent's threads left them."""
    global _pool, _resizing
    _pool = None
    _resizing = threading.Lock()
    buffer.pool.renew_lock()
    cache.renew_locks()
    library.renew_lock()


atexit.register(_close_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_land_before_fork, after_in_child=_renew_in_child)
