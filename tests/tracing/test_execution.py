"""When recorded work runs, what it keeps, what it drops, and what a failure leaves behind."""

import gc
import os
import threading

import numpy as np
import pytest

import avalon as av
from avalon.settings import settings
from avalon.tracing import execute, values
from avalon.tracing.values import recorder


@pytest.fixture(autouse=True)
def nothing_pending():
    av.synchronize()
    yield
    av.synchronize()


def test_nothing_runs_before_a_value_is_needed():
    x = av.tensor([1.0, 2.0])
    y = x * 2 + 1
    assert not y.value().known
    assert y.tolist() == [3.0, 5.0]
    assert y.value().known


def test_live_tensors_are_computed_together_and_dead_ones_not_at_all():
    x = av.tensor([1.0, 2.0])
    y, z = x * 2, x * 3
    dead = x * 4
    position = dead.value().position
    del dead
    assert z.tolist() == [3.0, 6.0]
    assert y.value().known
    newest = list(execute._structures.values())[-1].programs[-1]
    assert position not in newest.outputs


def test_shapes_and_dtypes_are_checked_when_recorded():
    x = av.tensor([1.0, 2.0])
    with pytest.raises(RuntimeError, match=r"\(2,\) and \(3,\)"):
        x + av.tensor([1.0, 2.0, 3.0])


def test_a_structure_that_comes_back_is_built_once():
    execute.clear()  # of structures that were built under other settings
    x = av.tensor([1.0, 2.0])
    for number in range(6):
        assert (x * float(number) - 1).tolist() == [number - 1.0, 2.0 * number - 1]
    found = [s for s in execute._structures.values() if s.seen >= 5]
    assert found
    assert all(len(s.programs) <= 2 for s in found)  # one for each tier


def test_a_program_that_puts_out_more_serves():
    def step(keep):
        x = av.tensor([1.0, 2.0, 3.0, 4.0])
        y = x.exp()
        z = (y + 1).log()
        kept = y if keep else None
        del y
        return z.tolist(), kept

    built = []
    for keep in (True, False, True, False, False, True):
        before = execute.build_seconds()
        step(keep)
        built.append(execute.build_seconds() > before)
    assert built[3:] == [False, False, False]


def test_an_error_in_a_check_spoils_only_what_depends_on_it():
    x = av.tensor([1.0, 2.0])
    wrong = x[av.tensor([0, 1]) + 1]
    after = wrong * 2
    fine = x * 3
    for one in (wrong, after, wrong):
        with pytest.raises(IndexError, match=r"index 2 is out of bounds.*test_execution.py:\d+"):
            one.tolist()
    assert fine.tolist() == [3.0, 6.0]
    with pytest.raises(IndexError, match="index 2"):
        after + 1


def test_a_failed_write_leaves_the_cell_as_it_was():
    x = av.tensor([1.0, 2.0])
    x.tolist()
    x += x[av.tensor([0, 1]) + 1]
    with pytest.raises(IndexError):
        x.tolist()
    assert x.tolist() == [1.0, 2.0]


def test_updates_happen_in_place_when_nobody_else_looks():
    x = av.tensor(np.zeros(1000, np.float32))
    address = x.data_ptr()
    for _ in range(4):
        x += 1
        x.tolist()
    assert x.data_ptr() == address
    view = x.detach().numpy()
    x += 1
    assert view[0] == 5.0
    kept = x * 1
    old = x.value()
    x += 1
    assert kept.tolist()[0] == 5.0
    assert x.tolist()[0] == 6.0
    assert old.host()[0] == 5.0


def test_bounds_on_pending_work(monkeypatch):
    monkeypatch.setattr(settings, "pending_calls", 50)
    x = av.tensor([1.0])
    for _ in range(120):
        x = x + 1
    assert len(recorder().values) < 50
    assert x.item() == 121.0
    monkeypatch.setattr(settings, "pending_calls", 20_000)
    monkeypatch.setattr(settings, "pending_bytes", 1 << 20)
    y = av.tensor(np.ones(1 << 16, np.float32))
    for _ in range(20):
        y = y + 1
    assert recorder().bytes < 1 << 20
    assert y[0].item() == 21.0


def test_work_that_nobody_reads_is_noticed_once(monkeypatch, capsys):
    monkeypatch.setattr(values, "_noticed", False)
    monkeypatch.setattr(settings, "pending_calls", 100)
    x = av.tensor([1.0])
    for _ in range(500):
        x * 2 + 1
    told = capsys.readouterr().err
    assert told.count("nothing read their results") == 1
    assert "av.synchronize()" in told


def test_parameters_updated_by_hand_run_before_the_next_step():
    w = av.tensor([1.0, 2.0], requires_grad=True)
    for _ in range(3):
        (w * w).sum().backward()
        with av.no_grad():
            w -= 0.1 * w.grad
        w.grad = None
    pending = len(recorder().values)
    assert pending < 20
    assert w.tolist() == pytest.approx([0.512, 1.024])


def test_threads_have_their_own_pending_work():
    results = {}
    shared = av.tensor([1.0, 2.0]) * 2  # pending in this thread

    def work(name):
        x = shared
        for _ in range(50):
            x = x + 1
        results[name] = x.tolist()

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    mine = shared * 10
    for thread in threads:
        thread.join()
    assert results == {name: [52.0, 54.0] for name in range(4)}
    assert mine.tolist() == [20.0, 40.0]


def test_a_result_of_another_thread_is_computed_there_first():
    box = []
    thread = threading.Thread(target=lambda: box.append(av.tensor([1.0]) + 1))
    thread.start()
    thread.join()
    assert (box[0] * 2).item() == 4.0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork_computes_first():
    x = av.tensor([1.0, 2.0]) + 1
    child = os.fork()
    if child == 0:
        os._exit(0 if (x * 2).tolist() == [4.0, 6.0] else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert x.value().known


def test_eager_runs_call_by_call():
    x = av.tensor([1.0, 2.0])
    with av.eager():
        y = x * 2
        assert y.value().known
        with pytest.raises(IndexError):
            x[av.tensor([5]) + 1]


def test_memory_of_dead_tensors_goes_back():
    from avalon.runtime.buffer import pool

    def work():
        x = av.tensor(np.ones(1 << 20, np.float32))
        for _ in range(3):
            x = (x * 2).tolist() and x + 1

    work()
    gc.collect()
    before = pool.mapped - pool.idle
    work()
    gc.collect()
    assert pool.mapped - pool.idle <= before + (1 << 20)


def test_a_hundred_thousand_calls():
    x = av.tensor(1.0)
    with av.no_grad():
        for _ in range(100_000):
            x = -x
    assert x.item() == 1.0


def test_values_forbidden_while_a_step_is_recorded(monkeypatch):
    from avalon.tracing.modes import modes

    x = av.tensor([1.0])
    monkeypatch.setattr(modes, "replay", "[compile] no values here.")
    with pytest.raises(RuntimeError, match=r"no values here\. Asked at .*test_execution\.py"):
        x.tolist()
