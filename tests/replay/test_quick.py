"""The short way through a replay: that it is taken, gives the loop's bits, and is never stale."""

import ast
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import avalon as av
import avalon.nn.functional as F
from avalon import nn
from avalon.errors import IndexOutOfRange, TraceError
from avalon.rebinding import rebindings

# Fields that a short way does not look at again while the count of rebindings stays.
COUNTED = {"_requires", "_history", "_grad", "memory", "value", "_cell", "_moves"}


def is_quick(step, *arguments):
    """Whether the next call with these arguments takes the short way."""
    quick = step._replays[0].quick
    return quick is not None and quick.holds(arguments)


def classifier(seed=0):
    av.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Dropout(0.4), nn.Linear(5, 2))


def training(model, optimizer):
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


OPTIMIZERS = {
    "sgd": lambda p: av.optim.SGD(p, lr=0.1),
    "momentum": lambda p: av.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: av.optim.Adam(p, lr=0.01),
    "adamw": lambda p: av.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_takes_the_short_way_and_gives_the_bits_of_the_loop(name):
    generator = np.random.default_rng(1)
    batches = [
        (av.tensor(generator.random((4, 3), np.float32)), av.tensor(generator.integers(0, 2, 4)))
        for _ in range(8)
    ]
    found = []
    for compiled in (False, True):
        model = classifier()
        step = training(model, OPTIMIZERS[name](model.parameters()))
        step = av.compile(step) if compiled else step
        losses = [step(x, y).item() for x, y in batches]
        grads = [p.grad.numpy().copy() for p in model.parameters()]
        values = [p.detach().numpy().copy() for p in model.parameters()]
        found.append((losses, grads, values))
        if compiled:
            assert step.replayed == 5, step.reason
            step(*batches[0])  # NumPy's views are gone: memory is the tensors' own again
            assert is_quick(step, *batches[1])
    (losses, grads, values), (losses_c, grads_c, values_c) = found
    assert losses == losses_c
    for mine, other in zip(grads + values, grads_c + values_c, strict=True):
        np.testing.assert_array_equal(mine, other)


def trained(calls=4):
    model = nn.Linear(2, 1)
    with av.no_grad():
        model.weight.fill_(0.5)
        model.bias.fill_(0.0)
    optimizer = av.optim.SGD(model.parameters(), lr=0.5)

    @av.compile
    def step(x):
        optimizer.zero_grad()
        loss = (model(x) ** 2).sum()
        loss.backward()
        optimizer.step()
        return loss

    x = av.tensor([[1.0, 2.0]])
    for _ in range(calls):
        step(x)
    assert is_quick(step, x)
    return model, optimizer, step, x


def test_a_gradient_that_somebody_holds_is_left_alone():
    model, _, step, _ = trained()
    held = model.weight.grad
    before = held.tolist()
    other = av.tensor([[3.0, -1.0]])
    assert not is_quick(step, other)
    step(other)
    assert held.tolist() == before
    assert model.weight.grad is not held
    assert model.weight.grad.tolist() != before


def test_a_clone_of_a_parameter_is_left_alone():
    model, _, step, _ = trained()
    other = av.tensor([[3.0, -1.0]])
    copy = model.weight.detach().clone()
    before = copy.tolist()
    for _ in range(3):
        step(other)
    assert copy.tolist() == before
    assert model.weight.tolist() != before


def test_an_alias_of_a_parameter_follows():
    model, _, step, _ = trained()
    alias, view = model.weight.detach(), model.weight.detach()[0]
    for _ in range(3):
        step(av.tensor([[3.0, -1.0]]))
        assert alias.tolist() == model.weight.tolist()
        assert view.tolist() == model.weight.tolist()[0]


def test_what_numpy_wrote_is_read():
    model, _, step, x = trained()
    view = model.weight.detach().numpy()
    view[...] = 0
    del view
    model.bias.data.zero_()
    assert step(x).item() == 0.0


def test_a_write_to_memory_that_numpy_shares_is_named():
    mean = av.zeros(3)
    view = mean.numpy()
    step = av.compile(lambda x: mean.add_(x).sum())
    with pytest.raises(TraceError, match=r"memory a NumPy array shares.*numpy\(\).copy\(\)"):
        for _ in range(3):
            step(av.ones(3))
    assert view.tolist() == mean.tolist()
    del view
    before = mean.tolist()[0]
    assert [step(av.ones(3)).item() for _ in range(4)] == [3 * (before + n) for n in range(1, 5)]


def test_results_are_left_alone_by_later_calls():
    _, _, step, _ = trained()
    results = [step(av.tensor([[float(k), 1.0]])) for k in range(5)]
    first = [result.item() for result in results]
    step(av.tensor([[9.0, 9.0]]))
    assert [result.item() for result in results] == first
    assert len(set(first)) == 5


def test_writes_between_calls_are_seen():
    model, optimizer, step, x = trained()
    with av.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(0.0)
    assert step(x).item() == 9.0
    model.weight.data = av.tensor([[2.0, 0.0]])
    model.bias.data.zero_()
    assert step(x).item() == 4.0
    model.weight = nn.Parameter(av.tensor([[0.0, 3.0]]))
    model.bias.data.zero_()
    assert step(x).item() == 36.0
    optimizer.lr = 0.0
    now = model.bias.tolist()
    step(x)
    assert model.bias.tolist() == now


def test_freezing_is_seen():
    model, _, step, x = trained()
    model.weight.requires_grad_(False)
    before = model.weight.tolist()
    for _ in range(4):
        step(x)
    assert model.weight.tolist() == before


def test_another_mode_is_seen():
    weight = av.ones(2, requires_grad=True)
    step = av.compile(lambda x: x * weight)
    x = av.ones(2)
    for _ in range(4):
        with av.no_grad():
            assert not step(x).requires_grad
    assert step(x).requires_grad


def test_keys_and_lengths_of_containers_are_guarded():
    one, two = av.tensor([1.0]), av.tensor([2.0])
    table, items = {"a": one, "b": two}, [one, two]
    step = av.compile(lambda t, n: t["a"] * 10 + n[-1])
    for _ in range(4):
        assert step(table, items).item() == 12.0
    assert is_quick(step, table, items)
    table.clear()
    table.update({"b": one, "a": two})
    assert step(table, items).item() == 22.0
    items.pop()
    assert step(table, items).item() == 21.0
    table["a"] = one
    assert step(table, items).item() == 11.0


def test_items_that_move_from_one_list_into_the_next_are_seen():
    one, two, three = (av.tensor([float(k)]) for k in (1, 2, 3))
    left, right = [one], [two, three]

    def step():
        return sum(left[1:], left[0]) * 100 + sum(right[1:], right[0])

    compiled = av.compile(step)
    for _ in range(4):
        assert compiled().item() == 105.0
    assert is_quick(compiled)
    left.append(right.pop(0))
    assert not is_quick(compiled)
    assert compiled().item() == 303.0


def test_names_of_a_closure_are_looked_at():
    factor, spare = av.tensor([2.0]), None

    def step(x):
        return x * factor if spare is None else x * spare

    def forget():
        nonlocal spare
        del spare

    compiled = av.compile(step)
    for _ in range(4):
        assert compiled(av.ones(1)).item() == 2.0
    assert is_quick(compiled, av.ones(1))
    spare = av.tensor([5.0])
    assert compiled(av.ones(1)).item() == 5.0
    forget()
    assert not is_quick(compiled, av.ones(1))
    with pytest.raises(NameError):
        compiled(av.ones(1))


def test_a_closure_whose_name_comes_later_takes_the_short_way():
    def step(x):
        return x * 2 if x.shape == (1,) else x * later

    compiled = av.compile(step)
    for _ in range(4):
        assert compiled(av.ones(1)).item() == 2.0
    assert is_quick(compiled, av.ones(1))
    later = av.tensor([5.0])
    assert not is_quick(compiled, av.ones(1))
    assert compiled(av.ones(2)).tolist() == [5.0, 5.0]


GLOBAL_FACTOR = 2.0


def test_globals_are_looked_at(monkeypatch):
    step = av.compile(lambda x: x * GLOBAL_FACTOR)
    for _ in range(4):
        assert step(av.ones(1)).item() == 2.0
    assert is_quick(step, av.ones(1))
    monkeypatch.setitem(globals(), "GLOBAL_FACTOR", 3.0)
    assert step(av.ones(1)).item() == 3.0
    monkeypatch.delitem(globals(), "GLOBAL_FACTOR")
    with pytest.raises(NameError):
        step(av.ones(1))


def test_defaults_and_code_of_functions_are_looked_at():
    def scaled(x, factor=2.0, *, shift=0.0):
        return x * factor + shift

    step = av.compile(lambda x: scaled(x))
    x = av.ones(1)
    for defaults, named, expected in [
        ((2.0,), {"shift": 0.0}, 2.0), ((3.0,), {"shift": 0.0}, 3.0), ((3.0,), {"shift": 1.0}, 4.0)
    ]:  # fmt: skip
        scaled.__defaults__, scaled.__kwdefaults__ = defaults, named
        for _ in range(4):
            assert step(x).item() == expected
        assert is_quick(step, x)
    scaled.__kwdefaults__["shift"] = 2.0
    assert step(x).item() == 5.0
    scaled.__code__ = (lambda x, factor, shift: x - factor).__code__
    scaled.__defaults__ = (3.0, 3.0)
    assert step(x).item() == -2.0


def test_changes_of_settings_and_state_of_an_optimizer_are_seen():
    model, optimizer, step, x = trained()
    assert is_quick(step, x)
    optimizer.param_groups[0]["lr"] = 0.0
    assert not is_quick(step, x)
    before = model.weight.tolist()
    for _ in range(4):
        step(x)
    assert model.weight.tolist() == before
    optimizer.param_groups[0].update(lr=0.5)
    step(x)
    assert model.weight.tolist() != before


def test_arguments_by_name_take_the_short_way():
    step = av.compile(lambda x, y, z=1.0: x * 10 + y * z)
    one, two = av.tensor([1.0]), av.tensor([2.0])
    for _ in range(4):
        assert step(one, y=two).item() == 12.0
    assert step.recorded == 2
    assert is_quick(step, one, two)
    assert step(y=one, x=two).item() == 21.0
    assert step(two, one).item() == 21.0
    assert step.recorded == 2
    assert step(one, z=3.0, y=two).item() == 16.0
    assert step(one, two, z=3.0).item() == 16.0


def test_names_that_leave_a_gap_or_belong_to_nobody_stay_names():
    class Net:
        def __init__(self):
            self.weight = av.tensor([3.0])

        def forward(self, x, scale=1.0, shift=0.0, **more):
            return self.weight * x * scale + shift + sum(more.values())

    forward = av.compile(Net().forward)
    x = av.ones(1)
    for _ in range(4):
        assert forward(x, shift=2.0).item() == 5.0
        assert forward(x=x, scale=2.0).item() == 6.0
        assert forward(x, scale=2.0, other=1.0).item() == 7.0
    first = av.compile(lambda x, /, **more: x + more["x"])
    for _ in range(4):
        assert first(x, x=x * 4).item() == 5.0
    with pytest.raises(TypeError, match="unexpected keyword"):
        av.compile(lambda x: x)(x, y=x)
    with pytest.raises(TypeError, match="multiple values"):
        av.compile(lambda x: x)(x, x=x)


def test_equal_numbers_serve_and_others_do_not():
    step = av.compile(lambda x, factor: x * factor)
    x = av.ones(1)
    for _ in range(4):
        step(x, 1000.5)
    assert is_quick(step, x, float("1000.5"))
    assert step(x, 2.0).item() == 2.0
    assert step(x, True).item() == 1.0
    for _ in range(4):
        assert step(x, 1).dtype is av.float32


def test_arguments_that_share_memory_are_guarded():
    step = av.compile(lambda x, y: x.add_(1) + y)
    for _ in range(4):
        assert step(av.ones(1), av.ones(1)).item() == 3.0
    both = av.ones(1)
    assert step(both, both).item() == 4.0


def test_a_new_argument_of_another_kind_is_seen():
    step = av.compile(lambda x, y: x + y)
    for _ in range(4):
        step(av.ones(2), av.ones(2))
    assert is_quick(step, av.zeros(2), av.ones(2))
    assert not is_quick(step, av.zeros(2), av.ones(1))
    assert not is_quick(step, av.zeros(2, requires_grad=True), av.ones(2))
    assert not is_quick(step, av.zeros(2, dtype=av.float64), av.ones(2))
    assert not is_quick(step, av.zeros(4)[::2], av.ones(2))
    assert step(av.ones(4)[::2], av.ones(2)).tolist() == [2.0, 2.0]


def test_slices_and_arrays_take_the_short_way():
    step = av.compile(lambda x, y: x * 10 + y)
    table, array = av.tensor(np.arange(8.0)), np.arange(2.0)
    for start in range(4):
        step(table[start : start + 2], array)
    for start in range(4, 7):
        assert is_quick(step, table[start : start + 2], array)
        array[...] = start
        expected = [10.0 * start + start, 10.0 * (start + 1) + start]
        assert step(table[start : start + 2], array).tolist() == expected
    table[6:] = 0
    assert step(table[6:8], array).tolist() == [6.0, 6.0]
    assert not is_quick(step, table.clone()[:2], np.arange(3.0))


def test_a_short_way_that_is_taken_once_is_made_less_often():
    weight = av.tensor([1.0])
    step = av.compile(lambda x: x * weight)
    for k in range(200):
        weight.fill_(float(k))
        assert step(av.ones(1)).item() == k
    assert step._replays[0].bound_in_vain < 20
    for _ in range(100):
        step(av.ones(1))
    assert is_quick(step, av.ones(1))


def test_a_failing_check_changes_nothing():
    table = nn.Embedding(3, 2)
    optimizer = av.optim.SGD(table.parameters(), lr=0.5)

    @av.compile
    def step(index):
        optimizer.zero_grad()
        loss = table(index).sum()
        loss.backward()
        optimizer.step()
        return loss

    good, bad = av.tensor([0, 2]), av.tensor([0, 2]) + 5
    for _ in range(4):
        step(good)
    assert is_quick(step, good)
    weight, gradient = table.weight.tolist(), table.weight.grad.tolist()
    with pytest.raises(IndexOutOfRange):
        step(bad)
    assert table.weight.tolist() == weight
    assert table.weight.grad.tolist() == gradient
    step(good)
    assert table.weight.tolist() != weight


def test_two_steps_on_one_model_take_turns():
    model = nn.Linear(2, 1)
    optimizer = av.optim.SGD(model.parameters(), lr=0.1)

    def step(x):
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    small, large = av.ones(2, 2), av.ones(3, 2)
    compiled = av.compile(step)
    for batch in [small] * 5 + [large] * 4:
        compiled(batch)
    found = []
    for run in (step, compiled):
        with av.no_grad():
            model.weight.fill_(1.0)
            model.bias.fill_(1.0)
        found.append([run(x).item() for x in [small, large] * 6])
    assert found[0] == found[1]
    assert compiled.recorded == 5
    for _ in range(100):
        compiled(large)
    assert is_quick(compiled, large)


def test_every_rebinding_counts():
    """Assignments to fields that the short way relies on lie beside `rebindings.count`, or are made
    to objects that were just made.
    """
    found = []
    root = Path(av.__file__).parent
    for folder in ("tensor", "tracing", "replay", "nn", "optim", "."):
        for file in sorted((root / folder).glob("*.py")):
            for function in ast.walk(ast.parse(file.read_text())):
                if isinstance(function, ast.FunctionDef):
                    found += silent_assignments(f"{folder}/{file.name}", function)
    known = {
        # fresh objects, or a value that the caller counts
        "tensor/writes.py:_put", "tensor/writes.py:_write_history", "tensor/cell.py:__init__",
        "tensor/core.py:before_write", "tensor/core.py:_view", "replay/templates.py:build",
        "replay/quick.py:run", "replay/step.py:_release", "replay/step.py:run",
        "tensor/core.py:_make", "tensor/core.py:_make_subclass", "tensor/core.py:_alias",
        "tensor/core.py:apply", "tensor/creation.py:from_numpy", "tensor/interchange.py:deepcopy",
        "tensor/interchange.py:_restore", "nn/padding.py:__init__",
    }  # fmt: skip
    assert {name for name in found if name not in known} == set()


def silent_assignments(file, function):
    made, counts, assigned = set(), False, set()
    for node in ast.walk(function):
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AugAssign) and ast.unparse(node.target) == "rebindings.count":
            counts = True
        for target in targets:
            for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(part, ast.Name):
                    made.add(part.id)
                if isinstance(part, ast.Attribute) and part.attr in COUNTED:
                    assigned.add(ast.unparse(part.value))
    if counts:
        return []
    return [f"{file}:{function.name}" for owner in assigned if owner not in made]


def test_new_objects_do_not_count():
    step = av.compile(lambda x: x + 1)
    for _ in range(4):
        step(av.ones(2))
    before = rebindings.count
    other = av.ones(3)
    other.add_(1)
    other.numpy()
    assert rebindings.count == before


def test_a_step_that_clips_gradients_in_place():
    parameters = [nn.Parameter(av.ones(5)) for _ in range(3)]
    for parameter in parameters:
        parameter.grad = av.full((5,), 3.0)
    optimizer = av.optim.AdamW(parameters, lr=1e-3)

    @av.compile
    def step():
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    for _ in range(5):
        step()
    norm = sum(float((parameter.grad**2).sum()) for parameter in parameters)
    assert abs(norm - 1) < 1e-4


@contextmanager
def setting(name, value):
    before = getattr(av.settings, name)
    setattr(av.settings, name, value)
    yield
    setattr(av.settings, name, before)


@contextmanager
def default_dtype(dtype):
    before = av.get_default_dtype()
    av.set_default_dtype(dtype)
    yield
    av.set_default_dtype(before)


SURROUNDINGS = {
    "threads": lambda: setting("threads", av.settings.threads + 1),
    "tier": lambda: setting("tier", "plain"),
    "denormals": lambda: setting("flush_denormals", True),
    "target": lambda: setting("target", "avx2"),
    "default dtype": lambda: default_dtype(av.float64),
    "a switch": lambda: av.without("fuse elementwise"),
    "no gradients": av.no_grad,
    "inference": av.inference_mode,
    "op by op": av.eager,
    "debugging": av.debug_nans,
    "injected draws": lambda: av.random.inject(lambda kind, shape, dtype: np.zeros(shape)),
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_other_surroundings_are_seen(name):
    step = av.compile(lambda x: x + av.rand(2))
    x = av.ones(2)
    for _ in range(4):
        step(x)
    assert is_quick(step, x)
    with SURROUNDINGS[name]():
        assert not is_quick(step, x)
        step(x)
    for _ in range(3):
        step(x)
    assert is_quick(step, x)


def test_a_step_that_draws_nothing_takes_the_short_way_inside_inject():
    step = av.compile(lambda x: x * 2)
    for _ in range(4):
        step(av.ones(2))
    with av.random.inject(iter([])):
        assert is_quick(step, av.ones(2))
        assert step(av.ones(2)).tolist() == [2.0, 2.0]


def test_putting_a_model_into_the_mode_that_it_is_in_changes_nothing():
    class Net:
        def __init__(self):
            self.training = False
            self.inner = nn.Dropout(0.5)

        def __call__(self, x):
            return self.inner(x) * 2

    net = av.evaluate(Net())
    step = av.compile(lambda x: net(x))
    x = av.ones(3)
    for _ in range(4):
        step(x)
    before = rebindings.count
    av.evaluate(net)
    assert av.predict(net, x[:, None]).tolist() == [[2.0]] * 3
    assert rebindings.count == before
    assert is_quick(step, x)
    av.train(net)
    assert net.training
    assert net.inner.training
    assert not is_quick(step, x)
    with av.no_grad():
        assert av.predict(net, x[:, None]).tolist() == [[2.0]] * 3
    assert net.training
    assert net.inner.training
