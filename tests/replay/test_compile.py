"""Compiled steps: what replays, what records anew, what is refused. Every trap has a test."""

import copy
import functools
import random

import numpy as np
import pytest

import avalon as av
from avalon import nn
from avalon.errors import TraceError

FACTOR = 2.0
TABLE = {"scale": 3.0}


def settle(step, *arguments, calls=4):
    """Call until the step replays."""
    for _ in range(calls):
        result = step(*arguments)
    assert step.replayed > 0, step.reason
    return result


def test_two_recordings_then_replays():
    weight = av.tensor([1.0, 2.0])
    step = av.compile(lambda x: x * weight + 1)
    for k in range(5):
        assert step(av.tensor([float(k)] * 2)).tolist() == [k + 1.0, 2.0 * k + 1]
    assert (step.recorded, step.replayed) == (2, 3)


def test_closure_tensor_that_is_rebound_is_read_anew():
    weight = av.tensor([1.0])

    def step(x):
        return x * weight

    compiled = av.compile(step)
    settle(compiled, av.tensor([1.0]))
    weight = av.tensor([5.0])
    assert compiled(av.tensor([1.0])).item() == 5.0


def test_tensor_written_in_place_outside_is_read_anew():
    weight = av.tensor([1.0])
    step = av.compile(lambda x: x * weight)
    settle(step, av.tensor([2.0]))
    weight.add_(1)
    assert step(av.tensor([2.0])).item() == 4.0


@pytest.mark.parametrize("change", ["global", "table", "default", "partial", "closure"])
def test_numbers_that_change_are_seen(change, monkeypatch):
    factor = 2.0

    def step(x, scale=2.0):
        if change == "global":
            return x * FACTOR
        if change == "table":
            return x * TABLE["scale"]
        return x * (factor if change == "closure" else scale)

    function = functools.partial(step, scale=2.0) if change == "partial" else step
    compiled = av.compile(function)
    before = settle(compiled, av.tensor([1.0])).item()
    if change == "global":
        monkeypatch.setitem(globals(), "FACTOR", 7.0)
    elif change == "table":
        monkeypatch.setitem(TABLE, "scale", 7.0)
    elif change == "default":
        step.__defaults__ = (7.0,)
    elif change == "partial":
        function.keywords["scale"] = 7.0
    else:
        factor = 7.0
    assert before != 7.0
    assert compiled(av.tensor([1.0])).item() == 7.0


def test_branches_on_flags_and_shapes_follow():
    class Model:
        def __init__(self):
            self.double = False

        def __call__(self, x):
            x = x * 2 if self.double else x
            return x + 1 if x.shape[0] > 2 else x

    model = Model()
    step = av.compile(model)
    assert settle(step, av.ones(2)).tolist() == [1.0, 1.0]
    model.double = True
    assert settle(step, av.ones(2)).tolist() == [2.0, 2.0]
    assert step(av.ones(3)).tolist() == [3.0] * 3


def test_argument_structure_is_guarded():
    step = av.compile(lambda batch: sum(batch.values()) if isinstance(batch, dict) else batch[0])
    one, two = av.tensor([1.0]), av.tensor([2.0])
    assert settle(step, {"a": one, "b": two}).item() == 3.0
    assert step([two]).item() == 2.0
    assert step([one, two]).item() == 1.0
    assert step({"b": one}).item() == 1.0


def test_dtype_and_requires_grad_are_guarded():
    step = av.compile(lambda x: x * 2)
    assert settle(step, av.ones(2)).dtype is av.float32
    assert step(av.ones(2, dtype=av.float64)).dtype is av.float64
    assert step(av.ones(2, requires_grad=True)).requires_grad
    assert not step(av.ones(2)).requires_grad


def test_grad_mode_is_guarded():
    weight = av.ones(2, requires_grad=True)
    step = av.compile(lambda x: x * weight)
    with av.no_grad():
        settle(step, av.ones(2))
        assert not step(av.ones(2)).requires_grad
    assert step(av.ones(2)).requires_grad


def test_default_dtype_is_guarded():
    step = av.compile(lambda: av.zeros(2))
    settle(step)
    av.set_default_dtype(av.float64)
    try:
        assert step().dtype is av.float64
    finally:
        av.set_default_dtype(av.float32)


def test_shared_arguments_are_guarded():
    def step(x, y):
        x.add_(1)
        return x + y

    compiled = av.compile(step)
    for _ in range(4):
        assert compiled(av.tensor([1.0]), av.tensor([1.0])).item() == 3.0
    same = av.tensor([1.0])
    assert compiled(same, same).item() == 4.0


def test_numpy_arguments_and_closures():
    table = np.array([1.0, 2.0], np.float32)
    step = av.compile(lambda x: x + av.tensor(table))
    assert settle(step, np.ones(2, np.float32)).tolist() == [2.0, 3.0]
    assert step(np.zeros(2, np.float32)).tolist() == [1.0, 2.0]
    table[0] = 10.0
    assert step(np.zeros(2, np.float32)).tolist() == [10.0, 2.0]


def test_memory_shared_with_numpy_is_read_anew():
    array = np.ones(2, np.float32)
    shared = av.from_numpy(array)
    step = av.compile(lambda: shared * 2)
    settle(step)
    array[:] = 4
    assert step().tolist() == [8.0, 8.0]


def test_slices_as_arguments_do_not_record_again():
    data = av.arange(12.0)
    step = av.compile(lambda x: x * 2)
    settle(step, data[0:3])
    recorded = step.recorded
    assert step(data[6:9]).tolist() == [12.0, 14.0, 16.0]
    assert step.recorded == recorded


def test_tensor_in_a_field_is_an_output():
    class Memory:
        def __init__(self):
            self.state = av.zeros(1)

        def __call__(self, x):
            self.state = self.state + x
            return self.state * 10

    memory = Memory()
    step = av.compile(memory)
    assert [step(av.ones(1)).item() for _ in range(6)] == [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    assert memory.state.item() == 6.0
    assert step.replayed > 0
    memory.state = av.tensor([100.0])
    assert step(av.ones(1)).item() == 1010.0


def test_counter_is_refused_by_name_and_undone():
    class Counts:
        def __init__(self):
            self.calls = 0

        def __call__(self, x):
            self.calls += 1
            return x

    counts = Counts()
    step = av.compile(counts)
    with pytest.raises(TraceError, match=r"changes .*calls from 1 to 2"):
        for _ in range(3):
            step(av.ones(1))
    assert counts.calls == 1


def test_growing_list_is_refused_by_name():
    losses = []

    @av.compile
    def step(x):
        losses.append(1.0)
        return x

    with pytest.raises(TraceError, match="losses"):
        for _ in range(4):
            step(av.ones(1))


def test_asking_for_a_value_is_refused_with_the_line_and_the_remedy():
    @av.compile
    def step(x):
        return x if x.sum() > 0 else -x

    with pytest.raises(TraceError, match=r"av\.where.*test_compile\.py:\d+"):
        step(av.ones(1))


def test_not_strict_goes_on_recording():
    step = av.compile(lambda x: x * x.sum().item(), strict=False)
    assert [step(av.ones(2)).tolist() for _ in range(4)] == [[2.0, 2.0]] * 4
    assert step.replayed == 0
    assert "value" in step.reason


def test_python_randomness_is_refused_with_the_line():
    step = av.compile(lambda x: x * random.random())
    with pytest.raises(TraceError, match=r"number .*test_compile\.py:\d+"):
        for _ in range(8):
            step(av.ones(1))


def test_host_data_made_anew_is_refused():
    generator = np.random.default_rng(0)
    step = av.compile(lambda x: x + av.tensor(generator.random(2).astype(np.float32)))
    with pytest.raises(TraceError, match="other data"):
        for _ in range(8):
            step(av.ones(2))


def test_draws_go_on_as_if_recorded():
    def draw():
        return av.rand(3)

    av.manual_seed(7)
    expected = [draw().tolist() for _ in range(6)]
    av.manual_seed(7)
    step = av.compile(draw)
    assert [step().tolist() for _ in range(6)] == expected
    assert step.replayed > 0
    av.manual_seed(7)
    assert step().tolist() == expected[0]


def test_exception_leaves_everything_as_before():
    class Model:
        def __init__(self):
            self.weight = av.ones(2, requires_grad=True)
            self.calls = []

    model = Model()

    @av.compile
    def step(x, fail):
        av.rand(3)
        (model.weight * x).sum().backward()
        with av.no_grad():
            model.weight.sub_(1)
        model.calls.append(1)
        if fail:
            raise KeyError("stop")

    av.manual_seed(3)
    state = av.random.get_rng_state().tolist()
    with pytest.raises(KeyError):
        step(av.ones(2), True)
    assert model.weight.tolist() == [1.0, 1.0]
    assert model.weight.grad is None
    assert model.calls == []
    assert av.random.get_rng_state().tolist() == state


def test_results_never_alias_what_a_later_call_writes():
    step = av.compile(lambda x: x + 1)
    settle(step, av.ones(4))
    first = step(av.zeros(4))
    kept = first.numpy()
    step(av.full((4,), 5.0))
    assert first.tolist() == [1.0] * 4
    assert kept.tolist() == [1.0] * 4


def test_result_that_is_an_argument_stays_that_object():
    x = av.ones(2)
    step = av.compile(lambda x: (x, x.add_(1)))
    for _ in range(4):
        first, second = step(x)
        assert first is x
        assert second is x
    assert x.tolist() == [5.0, 5.0]


def test_compiled_inside_compiled_is_part_of_it():
    inner = av.compile(lambda x: x * 2)
    outer = av.compile(lambda x: inner(x) + 1)
    assert settle(outer, av.ones(1)).item() == 3.0
    assert inner.recorded == 0


def test_gradients_flow_through_a_compiled_forward():
    weight = av.tensor([3.0], requires_grad=True)
    forward = av.compile(lambda x: x * weight)
    for _ in range(4):
        weight.grad = None
        forward(av.tensor([2.0])).sum().backward()
        assert weight.grad.item() == 2.0


def training(compiled):
    av.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.25), nn.Linear(8, 2))
    optimizer = av.optim.Adam(net.parameters(), lr=1e-2)
    x, y = av.randn(16, 3), av.randint(0, 2, (16,))

    def step(x, y):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    run = av.compile(step) if compiled else step
    losses = []
    for number in range(8):
        if number == 5:
            optimizer.param_groups[0]["lr"] = 5e-3
        losses.append(run(x, y).item())
    if compiled:
        assert run.replayed >= 2
    return losses, [parameter.tolist() for parameter in net.parameters()]


def test_a_training_step_gives_the_bits_of_the_loop():
    assert training(True) == training(False)


def test_program_before_there_is_one():
    step = av.compile(lambda x: x)
    with pytest.raises(TraceError, match="no program yet"):
        _ = step.program


def test_a_loss_may_be_returned_after_its_backward():
    weight = av.tensor([2.0, 3.0], requires_grad=True)

    @av.compile
    def step(x):
        weight.grad = None
        loss = ((x * weight) ** 2).mean()
        loss.backward()
        return loss

    for k in range(6):
        loss = step(av.tensor([float(k), 1.0]))
        assert loss.item() == pytest.approx(((2.0 * k) ** 2 + 9) / 2)
        assert weight.grad.tolist() == pytest.approx([2.0 * k * k, 3.0])
    assert step.replayed == 3  # the first call found no gradient, the second did
    assert loss.requires_grad
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


SCALE = 2.0


def scaled(x):
    return x * SCALE


doubled = av.compile(scaled)


def test_steps_that_are_reachable_from_steps_settle(monkeypatch):
    step = av.compile(lambda x: doubled(x) + 1)
    x = av.tensor([1.0])
    assert settle(step, x).item() == 3.0
    monkeypatch.setitem(globals(), "SCALE", 5.0)
    assert step(x).item() == 6.0

    @av.compile
    def exp(x):  # a name that its own code mentions
        return x.exp(), exp.__name__

    settle(exp, x)


def test_one_tensor_given_twice_is_not_taken_for_two():
    @av.compile
    def step(a, b):
        a.add_(1)
        return (a * b).sum()

    for _ in range(4):
        assert step(av.ones(2), av.full((2,), 2.0)).item() == 8
    x = av.ones(2)
    assert [step(x, x).item() for _ in range(4)] == [8, 18, 32, 50]
    assert step(av.ones(2), av.full((2,), 2.0)).item() == 8
    assert step(x, x[:]).item() == 72


def test_views_that_overlap_are_written_call_after_call():
    @av.compile
    def step(a, b):
        a.add_(1)
        return (a * b).sum()

    base = av.ones(4)
    assert [step(base[:2], base[1:3]).item() for _ in range(5)] == [6, 12, 20, 30, 42]
    assert base.tolist() == [6, 6, 1, 1]
    assert "view" in step.reason


def test_sizes_that_take_turns_are_replayed():
    step = av.compile(lambda x, scale=1.0: x * scale)
    for number in range(8):
        rows = (2, 5, 3)[number % 3]
        assert step(av.full((rows,), 2.0), scale=3.0).tolist() == [6.0] * rows
    assert (step.recorded, step.replayed) == (6, 2)


def test_state_that_an_optimizer_is_given_anew_is_seen():
    """Its table of states counts its own changes, and so does the one that takes its place."""
    found = []
    for compiled in (False, True):
        model = {"weight": av.ones(3)}
        optimizer = av.optim.Adam(lr=0.1)
        empty = copy.deepcopy(optimizer.state_dict())

        def step(x, model=model, optimizer=optimizer):
            loss, (gradients,) = av.grad(lambda m: (m["weight"] * x).sum(), model)
            av.update(optimizer, model, gradients)
            return loss

        step = av.compile(step) if compiled else step
        for scale in range(6):
            step(av.full((3,), float(scale)))
        optimizer.load_state_dict(empty)
        step(av.full((3,), 2.0))
        found.append((model["weight"].tolist(), optimizer.state["weight"]["step"].item()))
    assert found[0] == found[1]


def test_results_lie_as_in_the_recorded_calls():
    @av.compile
    def step(x, w):
        y = x.unfold(0, 2, 1) * 3
        (y * w).sum().backward()
        return y.detach(), x.detach().t() + 1

    for _ in range(5):
        x = av.arange(6.0).reshape(3, 2).clone().requires_grad_()
        folded, turned = step(x, av.ones(2, 2, 2))
        assert folded.stride() == (4, 1, 2)
        assert folded.numpy().tolist() == [[[0, 6], [3, 9]], [[6, 12], [9, 15]]]
        assert turned.numpy().tolist() == [[1, 3, 5], [2, 4, 6]]
    assert step.replayed > 2
