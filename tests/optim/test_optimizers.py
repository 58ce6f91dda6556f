"""Optimizers and schedules follow PyTorch's; bad use says what to write instead."""

import numpy as np
import pytest
import torch

import avalon as av
from avalon import nn, optim

SETTINGS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "dampening": 0.1, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1, "betas": (0.4, 0.9)}),
    ("AdamW", {"lr": 0.01}),
    ("AdamW", {"amsgrad": True, "weight_decay": 0.3}),
    ("RMSprop", {}),
    ("RMSprop", {"centered": True, "momentum": 0.5, "weight_decay": 0.1}),
    ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.2}),
    ("Adadelta", {"weight_decay": 0.1}),
    ("Adamax", {}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {"lr": 0.01, "betas": (0.5, 0.6)}),
]


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_steps_follow_pytorch(name, settings):
    start = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    ours, theirs = av.tensor(start, requires_grad=True), torch.tensor(start, requires_grad=True)
    first = getattr(optim, name)([ours], **settings)
    second = getattr(torch.optim, name)([theirs], **settings)
    assert {k: v for k, v in first.defaults.items() if k in second.defaults} == {
        k: v for k, v in second.defaults.items() if k in first.defaults
    }
    for step in range(12):
        if step == 6:  # a run that was saved goes on
            saved = first.state_dict()
            first = getattr(optim, name)([ours], lr=123.0)
            first.load_state_dict(saved)
        for optimizer, x in ((first, ours), (second, theirs)):
            optimizer.zero_grad()
            ((x * x).sum() + x.sin().sum()).backward()
            optimizer.step()
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=2e-6, atol=2e-6)
    assert {k for state in first.state.values() for k in state} <= {
        k for state in second.state.values() for k in state
    }


def test_groups_and_parameters_without_gradient():
    a, b, c = (av.ones(2, requires_grad=True) for _ in range(3))
    optimizer = optim.Adam([{"params": [a, c]}, {"params": b, "lr": 0.5}], lr=0.1)
    (a.sum() + b.sum()).backward()
    optimizer.step()
    assert c.tolist() == [1.0, 1.0]
    np.testing.assert_allclose(a.detach().numpy(), 0.9, rtol=1e-6)
    np.testing.assert_allclose(b.detach().numpy(), 0.5, rtol=1e-6)
    assert c not in optimizer.state
    (c * 2).sum().backward()
    a.grad = None
    optimizer.step()  # now c counts from 1, while b goes on to 2 and a stays at 1
    counts = [optimizer.state[p]["step"].item() for p in (a, b, c)]
    assert counts == [1.0, 2.0, 1.0]
    a.grad = av.ones(2)
    optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in (a, b, c)] == [2.0, 3.0, 2.0]


def test_named_parameters_are_parameters():
    layer = nn.Linear(2, 1)
    optimizer = optim.SGD(layer.named_parameters(), lr=1.0)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == list(map(id, layer.parameters()))


def test_closure_and_rate():
    x = av.tensor([2.0], requires_grad=True)
    optimizer = optim.SGD([x], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (x * x).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    optimizer.lr = 0.0
    optimizer.step(closure)
    assert x.item() == pytest.approx(1.6)
    assert optimizer.param_groups[0]["lr"] == 0.0


class Line:
    def __init__(self):
        self.slope = av.tensor([1.0, 2.0])
        self.shift = av.tensor(0.5)
        self.seen = av.buffer(av.zeros(2))


def test_update_on_a_plain_struct_keeps_state_by_path():
    line = Line()
    optimizer = optim.Adam(lr=0.1)
    for _ in range(3):
        _, gradients = av.grad(
            lambda m, x: ((m.slope * x).sum() + m.shift - 3) ** 2, line, av.ones(2)
        )
        av.update(optimizer, line, gradients[0])
    assert set(optimizer.state) == {"slope", "shift"}
    assert optimizer.state["slope"]["step"].item() == 3
    assert line.seen.tolist() == [0.0, 0.0]
    saved = optimizer.state_dict()
    other = optim.Adam(lr=0.5)
    other.load_state_dict(saved)
    assert other.lr == 0.1
    assert other.state["shift"]["step"].item() == 3


def test_what_to_write_instead():
    with pytest.raises(TypeError, match=r"write Adam\(lr=0.001\)"):
        optim.Adam(1e-3)
    with pytest.raises(ValueError, match="empty parameter list"):
        optim.SGD([], lr=0.1)
    with pytest.raises(TypeError, match=r"write \[tensor\]"):
        optim.SGD(av.ones(1, requires_grad=True))
    x = av.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match="non-leaf"):
        optim.SGD([x * 2])
    with pytest.raises(ValueError, match="more than one"):
        optim.SGD([{"params": [x]}, {"params": [x]}])
    with pytest.raises(ValueError, match="Invalid lr value: -1"):
        optim.Adam([x], lr=-1)
    with pytest.raises(ValueError, match="Invalid beta1"):
        optim.Adam([x], betas=(1.0, 0.9))
    with pytest.raises(ValueError, match="Nesterov"):
        optim.SGD([x], nesterov=True)
    with pytest.raises(TypeError, match="made without parameters"):
        optim.Adam(lr=1e-3).step()
    with pytest.raises(TypeError, match=r"optimizer.step\(\)"):
        av.update(optim.Adam([x]), x, x)
    with pytest.raises(RuntimeError, match="none of the 2 trained tensors of Linear"):
        av.update(optim.Adam(lr=1e-3), nn.Linear(1, 1), None)
    with pytest.raises(ValueError, match="2 parameter groups"):
        optim.SGD([x]).load_state_dict({"state": {}, "param_groups": [{}, {}]})


SCHEDULES = [
    ("StepLR", {"step_size": 3, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [2, 2, 5]}),
    ("ConstantLR", {"factor": 0.5, "total_iters": 3}),
    ("LinearLR", {"start_factor": 0.2, "total_iters": 4}),
    ("ExponentialLR", {"gamma": 0.9}),
    ("PolynomialLR", {"total_iters": 6, "power": 2.0}),
    ("CosineAnnealingLR", {"T_max": 7, "eta_min": 0.01}),
    ("CosineAnnealingWarmRestarts", {"T_0": 2, "T_mult": 2}),
    ("LambdaLR", {"lr_lambda": lambda epoch: 1 / (epoch + 1)}),
    ("MultiplicativeLR", {"lr_lambda": lambda epoch: 0.95}),
    ("OneCycleLR", {"max_lr": 1.0, "total_steps": 12, "cycle_momentum": False}),
]


@pytest.mark.parametrize(("name", "settings"), SCHEDULES)
def test_schedules_follow_pytorch(name, settings):
    ours = optim.SGD(lr=0.3)
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    first = getattr(optim.lr_scheduler, name)(ours, **settings)
    second = getattr(torch.optim.lr_scheduler, name)(theirs, **settings)
    for _ in range(10):
        assert ours.lr == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-6)
        assert first.get_last_lr() == [ours.lr]
        theirs.step()
        first.step()
        second.step()
    restored = getattr(optim.lr_scheduler, name)(optim.SGD(lr=0.3), **settings)
    restored.load_state_dict(first.state_dict())
    assert restored.last_epoch == first.last_epoch


def test_plateau_and_sequence():
    values = [1.0, 0.9, 0.9, 0.9, 0.9, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6]
    settings = {"factor": 0.5, "patience": 1, "cooldown": 1}
    parameter = torch.zeros(1, requires_grad=True)
    ours, theirs = optim.SGD(lr=0.3), torch.optim.SGD([parameter], lr=0.3)
    first = optim.lr_scheduler.ReduceLROnPlateau(ours, **settings)
    second = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **settings)
    for value in values:
        first.step(value)
        second.step(value)
        assert ours.lr == theirs.param_groups[0]["lr"]
    found = []
    for library, optimizer in ((optim, ours), (torch.optim, theirs)):
        for group in optimizer.param_groups or [optimizer.defaults]:
            group["lr"] = 0.3
            group.pop("initial_lr", None)
        warm = library.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3)
        rest = library.lr_scheduler.ExponentialLR(optimizer, 0.9)
        both = library.lr_scheduler.SequentialLR(optimizer, [warm, rest], [3])
        rates = []
        for _ in range(7):
            rates.append(both.get_last_lr()[0])
            if library is not optim:
                optimizer.step()
            both.step()
        found.append(rates)
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.parametrize("dtype", [av.float32, av.bfloat16])
def test_momentum_begins_with_the_gradient_signs_of_zeros_included(dtype):
    weight = av.tensor([1.0, 1.0, 1.0, 1.0], dtype=dtype, requires_grad=True)
    optimizer = av.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.grad = av.tensor([0.0, -0.0, -2.0, float("inf")], dtype=dtype)
    optimizer.step()
    begun = optimizer.state[weight]["momentum_buffer"].float().numpy()
    assert begun.tobytes() == weight.grad.float().numpy().tobytes()
