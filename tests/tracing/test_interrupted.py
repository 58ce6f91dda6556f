"""Ctrl-C anywhere between two calls of recording and running: what stands keeps its value."""

import sys

import numpy as np
import pytest

import avalon as av
from avalon.runtime import interrupts, threads
from avalon.settings import settings

FILES = ("tracing/values.py", "tracing/running.py", "tracing/execute.py", "runtime/program.py")
START = np.arange(6, dtype=np.float32).reshape(2, 3)


class Interrupt(BaseException):
    """What a handler of a signal raises."""


def work(found, rounds=2):
    """Rounds in which memory is taken over: what each one made is in `found` while it lives."""
    with av.no_grad():
        x = av.tensor(START) + 1.0
        for number in range(rounds):
            for _ in range(35):
                x = x * 0.5 + float(number)
            found[:] = [(number, x)]
        x.tolist()


def interrupted_at(place, work=work):
    """Do the work with an interrupt where Python, as the `place`-th time, would run a handler: a
    function of the recorder begins, or something that it called returned. Whether it got there.
    """
    found, passed = [], 0

    def tell(frame, event, _):
        nonlocal passed
        if event in ("call", "c_return") and frame.f_code.co_filename.endswith(FILES):
            passed += 1
            if passed == place:
                raise Interrupt

    sys.setprofile(tell)
    try:
        work(found)
    except Interrupt:
        pass
    else:
        if passed >= place:
            assert interrupts.late, "it got lost"
    finally:
        sys.setprofile(None)
        interrupts.late.clear()
    return passed >= place, found


@pytest.mark.parametrize("leaving", [False, True], ids=["at once", "by the workers"])
def test_what_was_recorded_keeps_its_value_wherever_ctrl_c_comes(leaving, monkeypatch):
    if leaving:
        monkeypatch.setattr(settings, "threads", 2)
        monkeypatch.setattr(threads, "WORTHWHILE_LEAVING_NANOSECONDS", -1)
    expected = []
    for rounds in (1, 2):
        for _ in range(3):
            work(found := [], rounds)
        expected.append(found[0][1].numpy().copy())
    place, step = 1, 17  # coprime to what a call takes, so that all kinds of places come
    while True:
        reached, found = interrupted_at(place)
        if not reached:
            break
        for number, x in found:
            assert np.array_equal(x.numpy(), expected[number]), place
        assert (av.tensor(START) * 2.0 + 1.0).tolist() == (START * 2 + 1).tolist(), place
        place += step
    av.synchronize()
    assert place > 500  # it went on to the end


def test_a_write_in_place_happens_once_wherever_ctrl_c_comes():
    place, reached = 1, True
    while reached:
        cell, done = av.zeros(8), []
        cell.tolist()
        reached, _ = interrupted_at(place, lambda _, cell=cell, done=done: add(cell, done))
        values = set(cell.tolist())
        assert len(values) == 1, place
        assert values.pop() in (len(done), len(done) + 1), place
        place += 1
    assert place > 50  # it went on to the end


def add(cell, done):
    """Add one to all elements, in the memory where they lie, thrice."""
    for _ in range(3):
        with av.no_grad():
            cell += 1.0
        done.append(True)
        av.synchronize()


def test_an_update_by_an_optimizer_is_whole_wherever_ctrl_c_comes():
    def trained():
        av.manual_seed(0)
        layer = av.nn.Linear(4, 2)
        optimizer = av.optim.SGD(layer.parameters(), lr=0.1)
        optimizer.zero_grad()
        (layer(av.ones(3, 4)) ** 2).sum().backward()
        before = layer.weight.detach().numpy().copy()
        return layer, optimizer, before

    for _ in range(3):  # the last time, with programs that were built
        layer, optimizer, before = trained()
        optimizer.step()
        after = layer.weight.detach().numpy().copy()
    place, reached = 1, True
    while reached:
        layer, optimizer, _ = trained()

        def update(_, layer=layer, optimizer=optimizer):
            optimizer.step()
            layer.weight.tolist()

        reached, _ = interrupted_at(place, update)
        weight = layer.weight.detach().numpy()
        assert np.array_equal(weight, before) or np.array_equal(weight, after), place
        place += 3
    assert place > 50  # it went on to the end
