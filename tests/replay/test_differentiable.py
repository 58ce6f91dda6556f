"""A compiled function whose result has a gradient is one differentiable call: it has the values,
gradients, state and bits of the function itself, whatever stands before and after it.
"""

import copy

import numpy as np
import pytest

import avalon as av
import avalon.nn.functional as F
from avalon import nn


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.drop(F.gelu(self.norm(self.first(x)))))


class Viewed(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(av.randn(5, 12))

    def forward(self, x):
        return (x @ self.weight).view(-1, 3, 4)[:, :, 1]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(5, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.lstm(x[:, None].expand(-1, 4, -1))[0][:, -1])


class Composed(nn.Module):
    """Composite functions in a row, with a residual."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.norm = nn.LayerNorm(5)
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        return self.last(F.softmax(x + self.norm(F.gelu(self.first(x))), dim=-1)).tanh()


class Scaled(nn.Module):
    """Reads a buffer, a number and data of its own."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(5, 3)
        self.register_buffer("count", av.zeros(()))
        self.factor = 0.5

    def forward(self, x):
        with av.no_grad():
            self.count.add_(1)
        return self.last(x) * self.factor + self.count * av.tensor([1.0, 2.0, 3.0])


MODELS = [Normed, Viewed, Recurrent, Composed, Scaled]


def twins(kind):
    av.manual_seed(0)
    plain = kind()
    other = copy.deepcopy(plain)
    return plain, other, av.compile(other)


def batches(count=6, sizes=(8,)):
    av.manual_seed(1)
    return [
        (av.randn(sizes[k % len(sizes)], 5), av.randint(0, 3, (sizes[k % len(sizes)],)))
        for k in range(count)
    ]


def train(call, model, data, early=False):
    """Losses of some steps, and what the model holds after them."""
    av.manual_seed(2)
    optimizer = av.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for x, y in data:
        optimizer.zero_grad()
        loss = F.cross_entropy(call(x), y)
        if early:
            losses.append(loss.item())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, {name: value.tolist() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_training_with_a_compiled_model_gives_the_bits_of_the_model(kind, early):
    plain, other, compiled = twins(kind)
    data = batches(8, sizes=(8, 8, 8, 5))
    assert train(plain, plain, data, early) == train(compiled, other, data, early)
    assert compiled.replayed >= 2


def test_after_two_calls_python_runs_no_more():
    weight = av.ones(3, requires_grad=True)

    @av.compile
    def function(x):
        return (x * weight).sum()

    for k in range(5):
        weight.grad = None
        function(av.full((3,), float(k))).backward()
        assert weight.grad.tolist() == [k, k, k]
    assert (function.recorded, function.replayed) == (2, 3)


def test_gradients_pass_through_to_what_stands_before_and_after():
    before, after = nn.Linear(5, 5), nn.Linear(3, 1)
    plain, other, compiled = twins(Normed)
    for x, _ in batches(5):
        found = []
        for call, model in ((plain, plain), (compiled, other)):
            av.manual_seed(3)
            for module in (before, after, model):
                module.zero_grad()
            start = x.clone().requires_grad_()
            (after(call(before(start).tanh())) ** 2).mean().backward()
            owners = [start, *before.parameters(), *after.parameters(), *model.parameters()]
            found.append([owner.grad.tolist() for owner in owners])
        assert found[0] == found[1]
    assert compiled.replayed >= 2


def test_two_calls_in_one_step_add_their_gradients():
    plain, other, compiled = twins(Viewed)
    for x, _ in batches(4):
        found = []
        for call, model in ((plain, plain), (compiled, other)):
            model.zero_grad()
            (call(x) * call(x + 1)).sum().backward()
            found.append(model.weight.grad.tolist())
        assert found[0] == found[1]


def test_gradients_of_gradients():
    plain, other, compiled = twins(Composed)
    for x, _ in batches(4):
        found = []
        for call, model in ((plain, plain), (compiled, other)):
            start = x.clone().requires_grad_()
            (first,) = av.autograd.grad(call(start).pow(3).sum(), start, create_graph=True)
            model.zero_grad()
            (first**2).sum().backward()
            found.append([p.grad.numpy() for p in model.parameters()])
        for one, twin in zip(*found, strict=True):  # the sums have another order
            np.testing.assert_allclose(one, twin, rtol=1e-4, atol=1e-7)
    assert compiled.replayed == 1  # the first call found no gradients, the others did


def test_a_gradient_that_has_none_says_so():
    _, _, compiled = twins(Recurrent)
    for x, _ in batches(3):
        start = x.clone().requires_grad_()
        out = compiled(start).sum()
    with pytest.raises(RuntimeError, match="Call the function itself, not its compiled form"):
        av.autograd.grad(out, start, create_graph=True)


def test_hooks_of_parameters_and_arguments_are_called_once_a_backward_pass():
    _, other, compiled = twins(Scaled)
    seen = []
    other.last.weight.register_hook(lambda g: seen.append("weight"))
    for x, _ in batches(4):
        start = x.clone().requires_grad_()
        start.register_hook(lambda g: seen.append("x"))
        compiled(start * 1.0).sum().backward()
        assert sorted(seen) == ["weight", "x"]
        seen.clear()


def test_freed_and_retained_histories():
    _, _, compiled = twins(Viewed)
    for x, _ in batches(4):
        out = compiled(x).square().sum()
        out.backward(retain_graph=True)
        out.backward()
        with pytest.raises(RuntimeError, match="second time"):
            out.backward()


def test_a_view_is_a_view_of_what_the_call_made():
    plain, other, compiled = twins(Viewed)
    for x, _ in batches(4):
        found = []
        for call, model in ((plain, plain), (compiled, other)):
            model.zero_grad()
            out = call(x)
            assert out._base is not None
            strides = out.stride(), out.storage_offset()
            out += 1.0
            (out**2).sum().backward()
            found.append((strides, out.tolist(), model.weight.grad.tolist()))
        assert found[0] == found[1]


def test_other_results_come_along():
    weight = av.randn(4, 4, requires_grad=True)

    @av.compile
    def function(x):
        h = x @ weight
        return {"loss": h.square().mean(), "accuracy": (h.detach() > 0).float().mean(), "n": 3}

    for k in range(4):
        weight.grad = None
        x = av.full((2, 4), float(k))
        made = function(x)
        made["loss"].backward()
        expected = (x @ weight).square().mean()
        again = weight.grad.tolist()
        assert made["loss"].item() == expected.item()
        assert not made["accuracy"].requires_grad
        assert made["n"] == 3
        weight.grad = None
        expected.backward()
        assert again == weight.grad.tolist()
    assert function.replayed == 2


def test_modes_and_needed_gradients_are_guarded():
    _, other, compiled = twins(Normed)
    other.eval()
    x, _ = batches(1)[0]
    for _ in range(3):
        assert compiled(x).requires_grad
        with av.no_grad():
            assert not compiled(x).requires_grad
    for parameter in other.parameters():
        parameter.requires_grad_(False)
    assert not compiled(x).requires_grad
    other.last.weight.requires_grad_(True)
    for _ in range(3):
        compiled(x).sum().backward()
    assert other.first.weight.grad is None
    assert other.last.weight.grad is not None


def test_what_cannot_be_one_call_is_recorded_each_time():
    weight = av.ones(2, requires_grad=True)

    @av.compile
    def two(x):
        return x * weight, x + weight

    for k in range(4):
        weight.grad = None
        first, second = two(av.full((2,), float(k)))
        (first * second).sum().backward()
        assert weight.grad.tolist() == [k * (k + 2), k * (k + 2)]
    assert two.replayed == 0
    assert "history holds values" in two.reason


def test_a_failing_label_leaves_the_state_as_it_was():
    _, other, compiled = twins(Scaled)
    data = batches(4)
    for x, _ in data:
        compiled(x).sum().item()
    before = other.count.item()
    bad = av.tensor([0, 1, 7] + [0] * 5)
    with pytest.raises(IndexError):
        F.cross_entropy(compiled(data[0][0]), bad).item()
    assert other.count.item() in (before, before + 1)


def test_a_compiled_model_still_answers_as_the_model():
    _, other, compiled = twins(Normed)
    assert [name for name, _ in compiled.named_parameters()] == [
        name for name, _ in other.named_parameters()
    ]
    assert compiled.training is True
    compiled.eval()
    assert other.training is False
    assert compiled.training is False
    compiled.training = True
    assert other.training is True
    assert repr(compiled).startswith("compiled Normed(")
    compiled.load_state_dict(other.state_dict())
    with pytest.raises(AttributeError, match="no_such"):
        compiled.no_such  # noqa: B018


def test_a_compiled_model_may_be_part_of_another_and_of_fit(tmp_path):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = av.compile(Composed())
            self.last = nn.Linear(3, 3)
            self.twice = av.compile(lambda x: x * 2)

        def forward(self, x):
            return self.twice(self.last(self.inner(x)))

    outer = Outer()
    names = [name for name, _ in outer.named_parameters()]
    assert names[0] == "inner.first.weight"
    assert list(outer.state_dict()) == names
    assert list(av.struct.leaves(outer)) == names
    assert isinstance(outer.inner, Composed)
    assert list(av.grad(lambda m, x: m(x).sum(), outer, av.ones(2, 5))[1][0].state_dict()) == names
    x, y = av.randn(16, 5), av.randint(0, 3, (16,))
    compiled = av.compile(outer)
    history = av.fit(
        compiled, (x, y), nn.CrossEntropyLoss(), av.optim.Adam(lr=0.1), epochs=8, batch_size=8,
        progress=False,
    )  # fmt: skip
    assert history["loss"][-1] < history["loss"][0]
    av.save(compiled, tmp_path / "model.safetensors")
    other = nn.Sequential(av.compile(nn.Linear(5, 4)), nn.ReLU(), nn.Linear(4, 3))
    for _ in range(4):  # the first call found no gradients
        other(x).sum().backward()
    assert other[0].replayed == 1
    assert other[0].weight.grad is not None
