"""`av.profile`: every kernel of a step with its time, its rates and where it comes from."""

import json
import re

import numpy as np
import pytest

import avalon as av
import avalon.nn.functional as F
from avalon import nn
from avalon.errors import TraceError
from avalon.runtime.profile import Limits, Timing


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        av.manual_seed(0)
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.out = nn.Linear(144, 10)

    def forward(self, x):
        return self.out(F.relu(self.conv1(x)).reshape(-1, 144))


def training():
    net = Net()
    optimizer = av.optim.Adam(net.parameters(), lr=1e-2)

    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return net, step, (av.rand(5, 1, 8, 8), av.tensor([0, 1, 2, 3, 4]))


@pytest.fixture(scope="module")
def found():
    net, step, batch = training()
    before = [p.detach().numpy().copy() for p in net.parameters()]
    profile = av.profile(step, *batch)
    for parameter, value in zip(net.parameters(), before, strict=True):
        np.testing.assert_array_equal(parameter.detach().numpy(), value)
        assert parameter.grad is None
    return profile


def test_every_launch_is_timed_and_compared_with_the_limits(found):
    assert all(timing.seconds > 0 for timing in found.timings)
    assert found.together > 0
    assert found.limits.gigaflops > 1
    assert found.limits.gigabytes > 0.1
    assert any(timing.share_of(found.limits) > 0 for timing in found.timings)


def test_kernels_know_layers_and_lines(found):
    text = str(found)
    assert text.startswith("step: ")
    assert re.search(r"net\.conv1[^,]* \(test_profiling\.py:\d+\)", text)
    assert re.search(r"net\.out[^,]* \(test_profiling\.py:\d+\)", text)
    assert re.search(r"gradient of \w+ \(test_profiling\.py:\d+\)", text)


def test_a_trace_can_be_opened(found, tmp_path):
    path = tmp_path / "trace.json"
    found.trace(path)
    events = json.loads(path.read_text())["traceEvents"]
    launches = [event for event in events if event["ph"] == "X"]
    assert {event["args"]["launch"] for event in launches} == set(range(len(found.timings)))
    assert {event["tid"] for event in launches} <= set(range(found.threads))
    assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in launches)
    assert any("net.conv1" in event["args"]["from"] for event in launches)
    for thread in range(found.threads):  # what one thread does, it does one after the other
        mine = [event for event in launches if event["tid"] == thread]
        ends = [event["ts"] + event["dur"] for event in mine]
        assert all(event["ts"] >= end - 1e-3 for event, end in zip(mine[1:], ends, strict=False))


def test_threads_share_a_launch():
    threads, av.settings.threads = av.settings.threads, 3
    try:
        profile = av.profile(lambda x: av.exp(x) * 2, av.rand(300_000))
    finally:
        av.settings.threads = threads
    assert profile.threads == 3
    assert {span.thread for span in profile.spans} == {0, 1, 2}


def test_compiled_steps_and_their_programs():
    _, step, batch = training()
    compiled = av.compile(step)
    for _ in range(5):
        compiled(*batch)
    assert len(av.profile(compiled, *batch).timings) > 3
    assert compiled.replayed


def test_loops_count_each_round():
    timing = Timing(0, None, 2e-6, 8, runs=5)
    assert timing.total == pytest.approx(1e-5)
    assert timing.gigabytes == pytest.approx(0.004)
    assert Limits(1.0, 0.008).gigabytes / timing.gigabytes == pytest.approx(2)


def test_asking_for_a_value_is_refused():
    with pytest.raises(TraceError, match=r"\[profile\]"):
        av.profile(lambda x: x.sum().item(), av.ones(3))
