"""Rows of layers that are recorded as one entry: as if each had been called by itself."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest

import avalon as av
from avalon import nn
from avalon.struct import map_leaves
from avalon.tracing.values import recorder

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def nothing_pending():
    av.synchronize()
    yield
    av.synchronize()


def floats(*shape):
    return av.tensor(RANDOM.standard_normal(shape).astype("float32"), requires_grad=True)


def one_by_one(row, x):
    """What the layers give when nobody knows that they are a row."""
    for layer in row:
        x = one_by_one(layer, x) if isinstance(layer, nn.Sequential) else layer(x)
    return x


def entries(function):
    """The names of what a call records, but for inputs."""
    av.synchronize()
    kept = function()
    found = [operation.name for operation, *_ in recorder().recorded.entries() if operation.name]
    del kept
    return found


def small():
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


ROWS = {
    "mlp": (small, (4, 3)),
    "nested": (lambda: nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.GELU()), (2, 3)),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 3, 3),
            nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(12, 4), nn.LogSoftmax(dim=1),
        ),
        (2, 1, 8, 8),
    ),
    "normalized": (
        lambda: nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4, bias=False), nn.PReLU()), (3, 6)
    ),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose1d(2, 3, 2), nn.SiLU(), nn.AvgPool1d(2)), (2, 2, 5)
    ),
    "ends in a view": (
        lambda: nn.Sequential(nn.Conv1d(1, 2, 2), nn.ELU(), nn.Flatten()), (2, 1, 4)
    ),
    "dropout between": (
        lambda: nn.Sequential(
            nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.0), nn.Linear(4, 4), nn.SELU()
        ),
        (5, 3),
    ),
}  # fmt: skip


def results(call, row, x):
    """Value and gradients; gradients of the squares of the gradients."""
    leaves = [x, *row.parameters()]
    y = call(row, x)
    first = av.autograd.grad((y * y).sum(), leaves, create_graph=True)
    second = av.autograd.grad(sum((g * g).sum() for g in first), leaves, allow_unused=True)
    arrays = [np.array(one.detach()) for one in [y, *first, *second] if one is not None]
    return arrays[: 1 + len(first)], arrays[1 + len(first) :]


@pytest.mark.parametrize("name", ROWS)
def test_bits_are_those_of_the_layers_called_one_by_one(name):
    make, shape = ROWS[name]
    row, x = make(), floats(*shape)
    for _ in range(2):  # cold and hot
        found, found_second = results(lambda row, x: row(x), row, x)
        expected, expected_second = results(one_by_one, row, x)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)
        for one, other in zip(found_second, expected_second, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-5)


def test_a_row_is_one_entry_and_so_is_its_gradient():
    row, x = small(), floats(4, 3)
    assert entries(lambda: row(x)) == ["linear"]
    nested = nn.Sequential(row, nn.Sequential(nn.Softmax(1)))
    assert entries(lambda: nested(x)) == ["softmax"]
    loss = row(x).sum()
    found = entries(lambda: (loss.backward(), [p.grad for p in row.parameters()]))
    assert found.count("gradient of linear") == 1


def test_layers_that_do_more_are_called_by_themselves():
    class Twice(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    x = floats(4, 3)
    row = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), Twice(4, 4), nn.Tanh(), nn.Linear(4, 1))
    assert entries(lambda: row(x)) == ["relu", "linear", "broadcast", "multiply", "linear"]
    assert np.array_equal(np.array(row(x).detach()), np.array(one_by_one(row, x).detach()))
    inplace = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 1))
    assert len(entries(lambda: inplace(x))) > 2
    layer = nn.Linear(3, 3)
    shared = nn.Sequential(layer, nn.ReLU(), layer)
    assert entries(lambda: shared(x)) == ["linear", "relu", "linear"]


def test_changes_are_seen():
    row, x = small(), floats(4, 3)

    def follows():
        return np.array_equal(np.array(row(x).detach()), np.array(one_by_one(row, x).detach()))

    before = row(x).detach().numpy().copy()
    row[1] = nn.Tanh()
    assert follows()
    assert not np.array_equal(before, row(x).detach().numpy())
    row._modules["1"] = nn.LeakyReLU(0.5)
    assert follows()
    row[1].negative_slope = -3.0
    assert follows()
    row[0].weight = nn.Parameter(av.ones(5, 3))
    assert follows()
    row[2].bias.data = av.tensor([7.0, 8.0])
    assert follows()
    with av.no_grad():
        row[0].weight.mul_(2)
    assert follows()
    row[1].forward = lambda x: x * 0 + 5
    assert follows()
    del row[1].forward
    assert follows()
    row.append(nn.Flatten())
    row.append(nn.Linear(2, 6))
    assert follows()
    assert row(x).shape == (4, 6)
    row.pop()
    del row[0]
    x = floats(4, 5)
    assert follows()
    row.double()
    x = x.detach().double()
    assert follows()
    assert row(x).dtype is av.float64


def test_a_patched_class_is_called_as_it_is(monkeypatch):
    row, x = small(), floats(4, 3)
    before = row(x)
    monkeypatch.setattr(nn.ReLU, "forward", lambda layer, x: x)
    assert not av.equal(row(x), before)
    assert av.equal(row(x), one_by_one(row, x))


def test_hooks_are_called_from_when_they_are_there():
    row, x = small(), floats(4, 3)
    before = row(x)
    seen = []
    handle = row[1].register_forward_hook(lambda module, given, result: seen.append(result.shape))
    assert av.equal(row(x), before)
    assert seen == [(4, 5)]
    handle.remove()
    row(x)
    assert len(seen) == 1
    inner = nn.Sequential(row, nn.Tanh())
    inner(x)
    row.register_forward_pre_hook(lambda module, given: (given[0] * 0,))
    assert av.equal(inner(x), one_by_one(inner, x * 0))


def test_what_needs_no_gradient_gets_none():
    row, x = small(), floats(4, 3)
    row[0].weight.requires_grad_(False)
    row(x).sum().backward()
    assert row[0].weight.grad is None
    assert row[0].bias.grad is not None
    row[0].weight.requires_grad_(True)
    row(x).sum().backward()
    assert row[0].weight.grad is not None
    with av.no_grad():
        assert not row(x).requires_grad
    assert row(x).requires_grad


def test_hooks_of_parameters_see_their_gradients():
    row, x = small(), floats(4, 3)
    row[2].weight.register_hook(lambda gradient: gradient * 0)
    row(x).sum().backward()
    assert not row[2].weight.grad.any()
    assert row[2].bias.grad.all()


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda row: pickle.loads(pickle.dumps(row)),
    "map_leaves": lambda row: map_leaves(av.clone, row),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_are_rows_of_their_own(copied):
    row, x = small(), floats(4, 3)
    before = row(x)
    other = copied(row)
    assert av.equal(other(x), before)
    other[1] = nn.Tanh()
    assert not av.equal(other(x), before)
    assert av.equal(row(x), before)
    other._modules["1"] = nn.ReLU()
    assert av.equal(other(x), before)


def test_a_row_that_was_called_dies_with_its_last_reference():
    row, x = small(), floats(4, 3)
    row(x).sum().item()
    alive = weakref.ref(row)
    gc.disable()
    try:
        del row
        assert alive() is None
    finally:
        gc.enable()


def test_an_error_names_the_layer_that_it_happens_in():
    net = small()
    net(floats(4, 3))
    with pytest.raises(RuntimeError, match=r"\[linear\].*(?s:.)*net\.0: Linear\(in_features=3"):
        net(floats(4, 4))
    net[2] = nn.Linear(6, 1)
    with pytest.raises(RuntimeError, match=r"net\.2: Linear\(in_features=6"):
        net(floats(4, 3))


def test_steps_are_noted_by_their_layers():
    row, x = small(), floats(4, 3)
    y = row(x)
    graph, _ = recorder().recorded.build()
    notes = [node.note for node in graph.nodes if node.note]
    assert notes[0] == "Linear"
    assert "ReLU" in notes
    assert notes[-1] == "Linear"
    y.sum().backward()
    graph, _ = recorder().recorded.build()
    assert any(node.note.startswith("gradient of ") for node in graph.nodes)


def test_rows_of_many_sizes_and_inputs_that_are_views():
    row = small()
    for rows in (4, 7, 1, 12):
        x = floats(3, rows).T
        assert av.equal(row(x), one_by_one(row, x))
        assert av.equal(row(x[0]), one_by_one(row, x[0]))


def test_equal_rows_share_their_traces():
    x = floats(4, 3)
    composites = []
    for row in (small(), small()):
        row(x)
        (chain,) = row._Sequential__plan.parts
        composites.append(chain._composite)
    assert composites[0] is composites[1]
    assert len(composites[0].traces) >= 1
