"""Modules: registers, names, state, hooks, printing, errors that name the layer."""

import copy
import pickle

import numpy as np
import pytest
import torch

import avalon as av
from avalon import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
        self.register_buffer("seen", av.zeros(2))
        self.register_buffer("hidden", av.zeros(2), persistent=False)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu())


def test_names_are_pytorchs():
    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 3, 3)
            self.norm = torch.nn.BatchNorm2d(3)
            self.head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
            self.register_buffer("seen", torch.zeros(2))
            self.register_buffer("hidden", torch.zeros(2), persistent=False)

    ours, theirs = Net(), Theirs()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [n for n, _ in ours.named_modules()] == [n for n, _ in theirs.named_modules()]
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert [n for n, _ in ours.named_buffers()] == [n for n, _ in theirs.named_buffers()]
    assert repr(ours).replace("Net", "Theirs") == repr(theirs)


def test_state_goes_from_one_to_another():
    one, other = Net(), Net()
    assert other.load_state_dict(one.state_dict()) == ([], [])
    x = av.randn(2, 1, 4, 4)
    assert np.array_equal(one.eval()(x).detach().numpy(), other.eval()(x).detach().numpy())


def test_state_is_an_alias():
    net = Net()
    state = net.state_dict()
    with av.no_grad():
        net.head[1].bias.fill_(7)
    assert state["head.1.bias"].tolist() == [7.0] * 4


def test_state_that_does_not_fit_names_the_nearest_and_changes_nothing():
    net = Net()
    before = net.conv.weight.detach().clone()
    state = {name: value.clone() + 1 for name, value in net.state_dict().items()}
    state["conv.wieght"] = state.pop("conv.weight")
    state["head.1.bias"] = av.zeros(5)
    with pytest.raises(RuntimeError) as raised:
        net.load_state_dict(state)
    message = str(raised.value)
    assert "'conv.weight' (the state has 'conv.wieght')" in message
    assert "size mismatch for head.1.bias: the state has shape (5,), the model (4,)" in message
    assert av.equal(net.conv.weight.detach(), before)
    found = net.load_state_dict({"conv.bias": av.ones(3), "more": av.ones(1)}, strict=False)
    assert found.unexpected_keys == ["more"]
    assert "conv.weight" in found.missing_keys
    assert net.conv.bias.tolist() == [1.0] * 3


def test_a_count_grows_with_assignments():
    net = Net()
    before = net._rebindings
    net.limit = 3
    assert net._rebindings == before + 1
    net.eval()
    assert net._rebindings > before + 1


def test_a_field_may_have_any_name():
    net = Net()
    net.epoch = 0
    net.limit = 3
    assert net.epoch == 0
    net.epoch += 1
    assert net.epoch == 1


def test_modes_and_gradients():
    net = Net()
    assert all(module.training for module in net.modules())
    assert not any(module.training for module in net.eval().modules())
    net.train()(av.randn(2, 1, 4, 4)).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    net.zero_grad(set_to_none=False)
    assert net.conv.weight.grad.abs().sum().item() == 0
    net.zero_grad()
    assert all(parameter.grad is None for parameter in net.parameters())
    net.requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_conversion_keeps_parameters():
    net = Net()
    weight = net.conv.weight
    assert net.double().conv.weight is weight
    assert weight.dtype is av.float64
    assert net.norm.running_mean.dtype is av.float64
    assert net.norm.num_batches_tracked.dtype is av.int64
    with pytest.raises(TypeError, match="floating"):
        net.to(av.int32)
    with pytest.raises(RuntimeError, match="'cuda:1' is not available"):
        net.cuda(1)


def test_hooks():
    net = nn.Linear(2, 2)
    calls = []
    first = net.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0,))
    second = net.register_forward_hook(lambda module, inputs, result: calls.append(result))
    assert av.equal(net(av.ones(1, 2)), net.bias.reshape(1, 2))
    assert len(calls) == 1
    first.remove()
    second.remove()
    net(av.ones(1, 2))
    assert len(calls) == 1


def test_copies_and_pickles():
    net = Net()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.conv.weight is not net.conv.weight
        assert isinstance(other.conv.weight, nn.Parameter)
        assert av.equal(other.conv.weight, net.conv.weight)
        other.conv.weight.data.fill_(0)
    assert net.conv.weight.abs().sum().item() > 0


def test_shared_parameters_are_listed_once():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    assert len(list(net.parameters())) == 3
    assert len(net.state_dict()) == 4


def test_assignments_that_do_not_fit():
    net = nn.Linear(2, 2)
    with pytest.raises(TypeError, match="cannot assign Tensor as parameter 'weight'"):
        net.weight = av.zeros(2, 2)
    net.bias = None
    assert net(av.ones(1, 2)).shape == (1, 2)
    with pytest.raises(AttributeError, match="did you mean 'weight'"):
        net.wieght  # noqa: B018

    class Early(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(1, 1)

    with pytest.raises(AttributeError, match=r"super\(\).__init__\(\)"):
        Early()


class Plain:
    """A model that is no module."""

    def __init__(self):
        self.first = nn.Linear(2, 3)
        self.parts = {"deep": [nn.ReLU(), nn.Linear(4, 5)]}

    def __call__(self, x):
        return self.parts["deep"][1](self.first(x))


def test_errors_name_the_layer():
    net, plain = Net(), Plain()
    with pytest.raises(RuntimeError) as raised:
        net(av.ones(2, 1, 9, 9))
    message = str(raised.value)
    assert "[linear] input of shape (2, 147)" in message
    assert "in net.head.1: Linear(in_features=12, out_features=4, bias=True)" in message
    assert "with weight (4, 12), bias (4,)" in message
    with pytest.raises(RuntimeError, match=r"int64.*\.float\(\)\n  in net.conv: Conv2d"):
        net(av.ones(2, 1, 4, 4, dtype=av.int64))
    with pytest.raises(RuntimeError, match=r"in plain.parts.deep.1: Linear"):
        plain(av.ones(1, 2))
    with pytest.raises(RuntimeError, match=r"in model.first: Linear"):
        av.grad(lambda model, x: model(x).sum(), plain, av.ones(1, 7))
    with pytest.raises(RuntimeError, match=r"\n  in Linear\(in_features=1"):
        nn.Linear(1, 2)(av.ones(1, 2))


def test_containers():
    layers = nn.ModuleList([nn.Linear(1, 1) for _ in range(3)])
    layers.insert(1, nn.ReLU())
    assert [type(m).__name__ for m in layers] == ["Linear", "ReLU", "Linear", "Linear"]
    del layers[0]
    assert list(layers._modules) == ["0", "1", "2"]
    assert len(layers[1:]) == 2
    assert "(1-2): 2 x Linear(" in repr(layers)
    table = nn.ModuleDict({"a": nn.ReLU(), "b": nn.Linear(1, 1)})
    assert "b" in table
    assert len(list(table.parameters())) == 2
    values = nn.ParameterList([av.zeros(1), av.ones(2)])
    assert [tuple(p.shape) for p in values.parameters()] == [(1,), (2,)]
    row = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    assert isinstance(row[:1], nn.Sequential)
    with pytest.raises(IndexError):
        row[2]


def test_apply_visits_children_first():
    seen = []
    Net().apply(lambda module: seen.append(type(module).__name__))
    assert seen[-1] == "Net"
    assert set(seen) >= {"Conv2d", "BatchNorm2d", "Flatten", "Linear", "Sequential"}


def test_what_replaces_a_field_takes_its_place():
    row = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    row[1] = nn.Tanh()
    assert [type(module).__name__ for module in row] == ["Linear", "Tanh", "Linear"]
    layer = nn.Linear(2, 3)
    layer.weight = nn.Parameter(av.ones(3, 2))
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
