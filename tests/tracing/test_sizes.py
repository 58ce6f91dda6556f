"""Batches of many sizes: few builds, and the bits of programs built for one size."""

import gc
from collections import OrderedDict

import numpy as np
import pytest

import avalon as av
import avalon.nn.functional as F
from avalon import nn, ops
from avalon.runtime import stored
from avalon.schedule import templates
from avalon.settings import settings
from avalon.tracing import execute
from avalon.tracing.values import Value


def forget():
    execute.clear()
    execute._builds.clear()


@pytest.fixture(autouse=True)
def start_anew():
    forget()


class Perceptron(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(36, 20), nn.Linear(20, 5)

    def forward(self, x):
        return F.log_softmax(self.second(F.relu(self.first(x.reshape(-1, 36)))), dim=1)


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Linear(16, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        return F.log_softmax(self.second(x.reshape(-1, 16)), dim=1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix, self.out = nn.Linear(6, 24), nn.Linear(8, 5)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        batch = x.shape[0]
        parts = self.mix(x.reshape(batch, 6, 6)).split(8, dim=2)
        q, k, v = [part.reshape(batch, 6, 2, 4).transpose(1, 2) for part in parts]
        x = F.softmax(q @ k.transpose(-2, -1) * 0.5, dim=-1) @ v
        x = self.norm(x.transpose(1, 2).reshape(batch, 6, 8))
        return F.log_softmax(self.out(x.mean(dim=1)), dim=1)


def momentum(parameters=None, lr=1e-2):
    return av.optim.SGD(parameters, lr=lr, momentum=0.9)


def train(make, sizes, tier="auto", compiled=False, kind=av.optim.Adam):
    """A loss for each size, the parameters after all, and the builds up to each step."""
    av.random.manual_seed(1)
    net = make()
    optimizer = kind(net.parameters(), lr=1e-2)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((100, 1, 6, 6)).astype("float32")
    labels = rng.integers(0, 5, 100)

    def step(x, y):
        optimizer.zero_grad()
        loss = F.nll_loss(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    run = av.compile(step) if compiled else step
    standing, settings.tier = settings.tier, tier
    losses, builds = [], []
    try:
        for n in sizes:
            losses.append(run(av.tensor(images[:n]), av.tensor(labels[:n])).item())
            builds.append(execute.builds())
    finally:
        settings.tier = standing
    bits = [parameter.detach().numpy().tobytes() for parameter in net.parameters()]
    return losses, bits, builds


@pytest.mark.parametrize("make", [Perceptron, Convolutions, Attention])
def test_sizes_that_never_come_back_are_served_by_one_cold_program(make):
    sizes = [60, 7, 1, 33, 100, 2, 16, 17, 50]
    *expected, _ = train(make, sizes, tier="plain")
    forget()
    *found, builds = train(make, sizes)
    assert found == expected
    # The first step makes the optimizer's state, the second and the third differ in sizes only.
    assert builds[2] == builds[-1]
    assert "hot" not in builds[-1]


@pytest.mark.parametrize(
    ("compiled", "kind"), [(False, av.optim.Adam), (True, av.optim.Adam), (True, momentum)]
)
@pytest.mark.parametrize("make", [Perceptron, Convolutions, Attention])
def test_batches_of_many_sizes_are_built_hot_twice(make, compiled, kind):
    sizes = [100, 100, 100, 60, 60, 7, 1, 7, 1, 100, 33, 60]
    *expected, _ = train(make, sizes, tier="cold", kind=kind)
    forget()
    *found, builds = train(make, sizes, compiled=compiled, kind=kind)
    assert found == expected
    assert builds[-1]["hot"] == 2
    assert builds[4]["hot"] == builds[-1]["hot"]
    assert "sizes that differ are symbols" in av.explain()


@pytest.mark.parametrize("kind", [av.optim.Adam, av.optim.SGD, momentum])
@pytest.mark.parametrize("make", [Perceptron, Convolutions, Attention])
def test_one_fit_is_built_hot_twice_whenever_garbage_is_collected(make, kind):
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((50, 1, 6, 6)).astype("float32"), rng.integers(0, 5, 50)
    found = []
    for epochs in (1, 3):  # of batches of 16, 16, 16 and 2
        forget()
        net = make()
        gc.disable()
        try:
            av.fit(net, (images, labels), nn.NLLLoss(), kind(lr=1e-3), epochs=epochs, batch_size=16)
        finally:
            gc.enable()
        found.append(execute.builds()["hot"])
        gc.collect()
    assert found == [2, 2]


def test_fit_and_predict_build_nothing_for_the_last_batch():
    rng = np.random.default_rng(0)
    data = rng.standard_normal((50, 36)).astype("float32"), rng.integers(0, 5, 50)
    shorter = data[0][:37], data[1][:37]
    net = Perceptron()
    hot = []
    for given in (data, data, shorter, shorter):
        optimizer = av.optim.Adam(lr=1e-3)
        av.fit(net, given, nn.NLLLoss(), optimizer, epochs=2, batch_size=16)
        hot.append(execute.builds()["hot"])
    # How long the data is counts too, since the step cuts its batch itself.
    assert hot == [2, 2, 4, 4]
    alone = [av.predict(net, data[0][:n], batch_size=n).numpy() for n in (50, 50, 7)]
    assert np.array_equal(av.predict(net, data[0], batch_size=16).numpy(), alone[0])
    assert np.array_equal(alone[2], alone[0][:7])


def test_slices_counters_and_scalars_build_nothing():
    array = np.arange(40, dtype="float32").reshape(10, 4)
    x = av.tensor(array)
    for _ in range(2):
        (x[0:3] * 0.5 + 1.0).sum().item()
    before = execute.builds()
    for start in range(1, 7):
        expected = float((array[start : start + 3] * (0.5 * start) + start).sum())
        found = (x[start : start + 3] * (0.5 * start) + float(start)).sum().item()
        assert found == expected
    assert execute.builds() == before


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_of_many_sizes_and_their_gradients(stride):
    def results(count, size):
        rng = np.random.default_rng(count)
        x = av.tensor(rng.standard_normal((count, 3, size, size)).astype("float32"))
        w = av.tensor(rng.standard_normal((4, 3, 3, 3)).astype("float32"))
        y = F.conv2d(x.requires_grad_(), w.requires_grad_(), stride=stride, padding=1)
        made = y, *av.autograd.grad((y * y).sum(), (x, w))
        return [one.detach().numpy().tobytes() for one in made]

    sizes = [(2, 5), (3, 7), (2, 9), (4, 6), (1, 12)]
    expected = []
    for size in sizes:
        forget()
        expected.append(results(*size))
    forget()
    assert [results(*size) for size in sizes] == expected
    with av.eager():
        assert [results(*size) for size in sizes] == expected


def test_a_program_for_many_sizes_may_have_nothing_to_do():
    with av.eager():
        for count in (3, 5, 4, 7):
            x = av.arange(2 * count).reshape(2, count)
            assert x.reshape(-1).tolist() == list(range(2 * count))


def test_two_extents_that_vary_are_two_symbols():
    def product(rows, columns):
        a = av.arange(rows * 3, dtype=av.float32).reshape(rows, 3)
        b = av.arange(3 * columns, dtype=av.float32).reshape(3, columns)
        return (F.relu(a @ b - 10.0) + 1.0).sum(dim=1)

    def expected(rows, columns):
        a = np.arange(rows * 3, dtype="float32").reshape(rows, 3)
        b = np.arange(3 * columns, dtype="float32").reshape(3, columns)
        return (np.maximum(a @ b - 10, 0) + 1).sum(axis=1)

    for rows, columns in [(4, 5), (7, 21), (3, 9), (12, 12), (2, 40)]:
        assert np.allclose(product(rows, columns).numpy(), expected(rows, columns))
    assert execute.builds()["cold"] == 2


def test_equal_extents_that_part_are_not_served_by_one_symbol():
    def outer(rows, columns):
        return (av.ones(rows, 1) * av.ones(1, columns) * 2).sum(dim=0)

    for rows, columns in [(4, 4), (6, 6), (7, 7), (3, 5), (9, 2)]:
        assert outer(rows, columns).tolist() == [2.0 * rows] * columns


def test_a_failed_check_in_a_program_for_many_sizes_names_the_value():
    table = av.tensor(np.eye(4, dtype="float32"))
    for count in (3, 5, 6):
        assert F.embedding(av.arange(count) % 4, table).sum().item() == count
    with pytest.raises(IndexError, match="index 4 is out of range"):
        (F.embedding(av.arange(7) + 3, table)).sum().item()
    assert F.embedding(av.arange(9) % 4, table).sum().item() == 9


def test_programs_of_sizes_that_never_come_back_are_forgotten(monkeypatch):
    monkeypatch.setattr(execute, "_CAPACITY", 500)
    for count in range(2, 60):
        (av.ones(count) * 3 + 1).sum().item()
    assert execute._weight[0] <= 500
    assert len(execute._structures) < 40
    assert execute._weight[0] == sum(s.weight for s in execute._structures.values())


def test_sizes_whose_program_cannot_be_shared_have_their_own(monkeypatch):
    def fails(*arguments):
        raise TypeError("a rule that no formula passes")

    monkeypatch.setattr(execute, "Template", fails)
    assert (av.ones(5) * 2).sum().item() == 10
    with pytest.warns(RuntimeWarning, match="a rule that no formula passes"):
        assert (av.ones(7) * 2).sum().item() == 14


def test_one_array_seen_as_two_shapes():
    x = av.arange(24.0)
    for shape in [(2, 12), (3, 8), (4, 6), (2, 12)]:
        found = x.reshape(*shape).exp().sum(1)
        np.testing.assert_allclose(
            found.numpy(), np.exp(np.arange(24.0).reshape(shape)).sum(1), rtol=1e-5
        )


def test_a_start_told_at_run_time_is_not_taken_for_a_number():
    """The first axis starts at a number and the second is told, or the other way round: the numbers
    in the columns are equal then.
    """

    def read(extent, starts):
        array = np.arange(extent * extent, dtype=np.float32).reshape(extent, extent)
        value, start = Value.from_numpy(array, av.float32), Value.from_number(1, av.int64)
        part = ops.slice(value, start, starts=starts, sizes=(1, extent - 1), steps=(1, 1))
        return array, part.host()

    for extent in (3, 4, 5):
        array, part = read(extent, (0, None))
        np.testing.assert_array_equal(part, array[:1, 1:])
    array, part = read(4, (None, 0))
    np.testing.assert_array_equal(part, array[1:2, :3])


def test_programs_of_one_size_have_numbers_only_after_one_of_many_sizes(monkeypatch):
    """What a call costs is remembered from the first of its kind, here of n - 1 rows."""
    monkeypatch.setattr(settings, "tier", "cold")
    monkeypatch.setattr(templates, "_templates", OrderedDict())
    monkeypatch.setattr("avalon.compiler._WORTH_KEEPING_SECONDS", -1.0)
    data = np.random.default_rng(0).random((9000, 3), np.float32)
    for rows in (5, 9000):  # the second is of many sizes, and a loop in pieces
        x = av.tensor(data[:rows])
        (x[1:] * x[:-1]).tanh().numpy()
    kept = []
    monkeypatch.setattr(stored, "write", lambda _, plan: kept.append(stored.to_bytes(plan)))
    av.tensor(data[0]).tanh().numpy()
    (launch,) = stored.from_bytes(kept[0]).launches
    known = {template.cost for template in templates._templates.values()}
    assert launch.flops in [len(data[0]) * cost for cost in known]


@pytest.mark.parametrize("kind", ["product", "convolution"])
def test_one_contraction_many_times_in_a_cold_program_for_many_sizes(monkeypatch, kind):
    def result(n):
        rng = np.random.default_rng(n)
        x, z = [av.tensor(rng.random(shape, np.float32)) for shape in [(8, n), (n, 8)]]
        image = av.tensor(rng.random((1, 4, n, n), np.float32))
        weight = av.tensor(rng.random((4, 4, 3, 3), np.float32) * 0.1)
        y = z if kind == "product" else image
        for _ in range(20):
            y = z @ (x @ y) * 0.01 if kind == "product" else F.conv2d(y, weight, padding=1)
        return y.numpy()

    for n in (5, 9, 12):
        monkeypatch.setattr(settings, "tier", "plain")
        expected = result(n)
        monkeypatch.setattr(settings, "tier", "cold")
        assert np.array_equal(result(n), expected)
    assert execute.builds()["cold"] == 2


def test_a_program_for_many_sizes_can_be_printed():
    for size in (5, 9, 6):
        (av.ones(size) * 2).sum().item()
    texts = [
        str(program.runnable)
        for structure in execute._structures.values()
        for program in structure.programs
        if program.template is not None
    ]
    assert any("sizes are symbols" in text for text in texts)


@pytest.mark.parametrize(("sizes", "expected"), [((256, 320, 384), 3), ((8, 12, 16, 20), 2)])
def test_large_contractions_that_differ_in_all_extents_do_not_share_a_program(sizes, expected):
    product = av.compile(lambda a, b: a @ b)
    rng = np.random.default_rng(0)
    for n in sizes:
        a, b = rng.standard_normal((2, n, n)).astype("float32")
        for _ in range(3):
            found = product(av.tensor(a), av.tensor(b)).numpy()
        assert np.allclose(found, a @ b, atol=1e-3)
    assert execute.builds()["hot"] == expected
