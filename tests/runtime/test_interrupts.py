"""Ctrl-C inside native calls: it is answered soon, and all is as before the call or after it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

import avalon as av
import avalon.nn.functional as F
from avalon import nn
from avalon.runtime import threads as pools

SOON = 5.0  # seconds; a machine that does much else at once takes its time, an endless loop all


class Pressed(KeyboardInterrupt):
    pass


@contextmanager
def pressed_after(seconds):
    """Inside, what ctrl-C does comes after so long: `Pressed`, raised by a signal's handler."""

    def press(number, frame):
        raise Pressed

    before = signal.signal(signal.SIGALRM, press)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def spin(x, grows):
    """Add 1 to x while it is below 3, which it is for ever where `grows` is 0."""
    return av.while_loop(lambda x: x.sum() < 3, lambda x: x + grows, x)


@pytest.fixture(params=[1, 2])
def threads(request):
    before = av.settings.threads
    av.settings.threads = request.param
    yield request.param
    av.settings.threads = before


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("size", [1, 3000])
def test_an_endless_loop_ends_and_other_values_are_as_before(size):
    x, grows = av.zeros(size), av.zeros(1)
    assert spin(x, grows + 1).tolist()[0] > 0
    for _ in range(2):
        found, other = spin(x, grows), x + 2
        started = time.monotonic()
        with pytest.raises(Pressed), pressed_after(0.1):
            found.numpy()
        assert time.monotonic() - started < SOON
        assert other.tolist() == [2.0] * size
        assert (other + x).tolist() == [2.0] * size
        with pytest.raises(Pressed), pressed_after(0.1):
            print(found)


@pytest.mark.usefixtures("threads")
def test_a_training_step_that_is_given_up_changes_nothing():
    def trained(interrupted):
        av.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 40), nn.Dropout(0.5), nn.Linear(40, 2))
        optimizer = av.optim.Adam(net.parameters(), lr=0.01)
        x, y = av.randn(30, 6), av.tensor(np.arange(30) % 2)

        @av.compile
        def step(grows):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            return loss.detach(), spin(loss.detach(), grows)

        losses = [step(av.ones(()))[0].item() for _ in range(6)]
        if interrupted:
            for _ in range(3):
                with pytest.raises(Pressed), pressed_after(0.1):
                    step(av.zeros(()))
        losses += [step(av.ones(()))[0].item() for _ in range(3)]
        return losses, [p.tolist() for p in net.parameters()], av.get_rng_state().tolist()

    assert trained(interrupted=True) == trained(interrupted=False)


@pytest.mark.usefixtures("threads")
def test_a_long_loop_ends_in_the_middle():
    weight = av.eye(64)

    def go(x):
        return av.scan(lambda h, _: ((h @ weight).tanh(), None), x, length=10**7)[0]

    started = time.monotonic()
    with pytest.raises(Pressed), pressed_after(0.3):
        go(av.ones(64, 64)).numpy()
    assert time.monotonic() - started < SOON


@pytest.fixture
def press_at_return(monkeypatch):
    """A function after which the next native call ends as if ctrl-C had come while it ran."""
    armed = []

    def answering(run):
        def call(*arguments):
            status = run(*arguments)
            if armed:
                raise armed.pop()
            return status

        return call

    original = pools.load_driver()
    driver = replace(
        original,
        run_alone=tuple(map(answering, original.run_alone)),
        run_shared=tuple(map(answering, original.run_shared)),
        run_series=tuple(map(answering, original.run_series)),
    )
    monkeypatch.setattr(pools, "load_driver", lambda: driver)
    return lambda: armed.append(Pressed())


def training(size, compiled):
    """A step, and what gives the bits of all that it changes."""
    av.manual_seed(0)
    net = nn.Linear(size, 3)
    optimizer = av.optim.Adam(net.parameters(), lr=0.01)
    x = av.randn(50, size)

    def step():
        optimizer.zero_grad()
        loss = (net(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    def state():
        kept = [optimizer.state[parameter] for parameter in net.parameters()]
        tensors = [*net.parameters(), *[one for group in kept for one in group.values()]]
        return [tensor.detach().numpy().tobytes() for tensor in tensors]

    return av.compile(step) if compiled else step, state


@pytest.mark.parametrize(("size", "compiled"), [(71, False), (73, True), (30_001, True)])
def test_no_step_is_cut_in_half(size, compiled, press_at_return):
    """What comes while a program writes over the weights is raised when they are there."""
    step, state = training(size, compiled)
    expected = []
    for _ in range(12):
        step()
        expected.append(state())
    step, state = training(size, compiled)
    for number in range(12):
        if number in (5, 6, 9):
            press_at_return()
            with pytest.raises(Pressed):
                step()
        else:
            step()
        assert state() == expected[number]


SCRIPT = """
import sys, time
import avalon as av

x = av.zeros(3)
found = av.while_loop(lambda x: x.sum() < 1, lambda x: x * 1, x)
print("begins", flush=True)
try:
    found.numpy()
except KeyboardInterrupt:
    print(time.time(), (x + 1).tolist(), flush=True)
"""


def test_ctrl_c_ends_an_endless_loop_of_a_program():
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    time.sleep(1.0)
    sent = time.time()
    process.send_signal(signal.SIGINT)
    moment, values = process.communicate(timeout=60)[0].split(" ", 1)
    assert float(moment) - sent < SOON
    assert values == "[1.0, 1.0, 1.0]\n"
    assert process.returncode == 0
