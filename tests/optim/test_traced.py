"""An optimizer's step as one entry: the bits of its formulas, traced again only when it must be."""

import numpy as np
import pytest

import avalon as av
from avalon.optim import optimizer as module, traced
from avalon.tensor import Tensor

OPTIMIZERS = {
    "SGD": lambda p: av.optim.SGD(p, lr=0.1),
    "SGD, momentum": lambda p: av.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: av.optim.Adam(p, lr=0.1),
    "Adam, decayed": lambda p: av.optim.Adam(p, lr=0.1, weight_decay=0.1, amsgrad=True),
    "AdamW": lambda p: av.optim.AdamW(p, lr=0.1),
    "Adamax": lambda p: av.optim.Adamax(p, lr=0.1),
    "NAdam": lambda p: av.optim.NAdam(p, lr=0.1),
    "RAdam": lambda p: av.optim.RAdam(p, lr=0.1),
    "RMSprop": lambda p: av.optim.RMSprop(p, lr=0.1, momentum=0.5, centered=True),
    "Adagrad": lambda p: av.optim.Adagrad(p, lr=0.1, lr_decay=0.1),
    "Adadelta": lambda p: av.optim.Adadelta(p, lr=0.1),
    "maximized": lambda p: av.optim.Adam(p, lr=0.1, maximize=True),
}


def parameters():
    random = np.random.default_rng(0)
    return [
        av.tensor(random.standard_normal(shape).astype("float32"), requires_grad=True)
        for shape in ((3, 2), (4,))
    ]


def train(make):
    given = parameters()
    optimizer = make(given)
    for step in range(6):
        optimizer.zero_grad()
        sum((p * p * (step + 1)).sum() for p in given).backward()
        optimizer.lr = 0.1 / (step + 1)
        optimizer.step()
    state = [
        value.tolist()
        for values in optimizer.state.values()
        for value in values.values()
        if isinstance(value, Tensor)
    ]
    return [p.tolist() for p in given], state, optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_traced_step_has_the_bits_of_the_formulas(name, monkeypatch):
    *found, optimizer = train(OPTIMIZERS[name])
    ((_, plan),) = traced._plans[optimizer].values()
    assert plan.operation is not None
    monkeypatch.setattr(module, "plan_for", lambda *_: None)
    *plain, _ = train(OPTIMIZERS[name])
    assert found == plain


def plan_of(optimizer):
    ((_, plan),) = traced._plans[optimizer].values()
    return plan


def test_rates_trace_nothing_again_and_other_settings_do():
    given = parameters()
    optimizer = av.optim.Adam(given, lr=0.1)

    def step():
        optimizer.zero_grad()
        sum((p * p).sum() for p in given).backward()
        optimizer.step()
        return plan_of(optimizer)

    first = step()
    optimizer.lr = 0.01
    assert step() is first
    optimizer.param_groups[0]["betas"] = (0.5, 0.9)
    second = step()
    assert second is not first
    assert step() is second


def test_parameters_left_alone_keep_their_counts(monkeypatch):
    def train_parts():
        first, second = parameters()
        optimizer = av.optim.Adam([first, second], lr=0.1)
        for step in range(6):
            optimizer.zero_grad()
            ((first * first).sum() + ((second * second).sum() if step != 2 else 0)).backward()
            optimizer.step()
        counts = [optimizer.state[p]["step"].item() for p in (first, second)]
        return first.tolist(), second.tolist(), counts

    found = train_parts()
    assert found[2] == [6.0, 5.0]
    monkeypatch.setattr(module, "plan_for", lambda *_: None)
    assert train_parts() == found


def test_a_step_that_looks_at_values_runs_as_it_is():
    class Careful(av.optim.SGD):
        def _update(self, parameter, gradient, state, group):
            if gradient.abs().max().item() < 100:
                super()._update(parameter, gradient, state, group)

    given = parameters()
    before = [p.tolist() for p in given]
    optimizer = Careful(given, lr=0.1)
    sum((p * p).sum() for p in given).backward()
    optimizer.step()
    assert [p.tolist() for p in given] != before
    assert plan_of(optimizer).operation is None
