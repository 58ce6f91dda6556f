"""Compiled steps and threads: calls from several take turns, and a child process starts afresh."""

import copy
import os
import pickle
import signal
import sys
import threading

import pytest

import avalon as av


def compiled():
    weight = av.ones(3)
    step = av.compile(lambda x: x * weight + 1)
    for k in range(6):
        step(av.full((3,), float(k)))
    return step


@pytest.fixture
def switching():
    """Threads that give way to each other as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_get_the_results_of_their_own_arguments(switching):
    step, wrong = compiled(), []

    def call(number):
        x = av.full((3,), float(number))
        for _ in range(15000):
            found = step(x).tolist()
            if found != [number + 1.0] * 3:
                wrong.append((number, found))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_modes_are_those_of_the_calling_thread():
    weight = av.ones(3, requires_grad=True)
    step = av.compile(lambda x: x * weight)
    for _ in range(6):
        with av.no_grad():
            assert not step(av.ones(3)).requires_grad
    found = []
    thread = threading.Thread(target=lambda: found.append(step(av.ones(3)).requires_grad))
    thread.start()
    thread.join()
    assert found == [True]


def is_free(step):
    """Whether another thread could have its turn."""
    found = []
    thread = threading.Thread(target=lambda: found.append(step._turn.acquire(blocking=False)))
    thread.start()
    thread.join()
    return found == [True]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer that interrupts here")
def test_an_interrupt_ends_the_waiting_for_a_turn():
    step, inside, leave = compiled(), threading.Event(), threading.Event()

    def hold():
        with step._turn:
            inside.set()
            leave.wait()

    def stop(*_):
        raise KeyboardInterrupt

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            step(av.ones(3))
    finally:
        signal.signal(signal.SIGALRM, before)
        leave.set()
        thread.join()
    assert step(av.ones(3)).tolist() == [2.0] * 3
    assert is_free(step)


def test_an_interrupted_call_leaves_the_turn_to_others():
    def interrupted(x):
        raise KeyboardInterrupt

    step = av.compile(interrupted)
    with pytest.raises(KeyboardInterrupt):
        step(av.ones(3))
    assert is_free(step)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_a_thread_that_it_lacks():
    step, inside, leave = compiled(), threading.Event(), threading.Event()

    def hold():
        with step._turn:
            inside.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    child = os.fork()
    if child == 0:
        os._exit(int(step(av.ones(3)).tolist() != [2.0] * 3))
    leave.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def double(x):
    return x * 2


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda step: pickle.loads(pickle.dumps(step))]
)
def test_a_copy_records_for_itself(copied):
    step = av.compile(double, strict=False)
    for _ in range(4):
        step(av.ones(3))
    other = copied(step)
    assert other(av.ones(3)).tolist() == [2.0] * 3
    assert (step.recorded, other.recorded, other.replayed) == (2, 1, 0)
