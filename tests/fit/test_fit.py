"""The training loop: equal bits with loops written by hand, what it measures, how it ends."""

import os
import signal
import threading

import numpy as np
import pytest
import torch

import avalon as av
import avalon.nn.functional as F
from avalon import nn
from avalon.data import DataLoader, TensorDataset
from avalon.replay import CompiledStep
from avalon.training_step import clipped

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(50, 4)).astype(np.float32)
Y = (X.sum(axis=1) > 0).astype(np.int64)


class Net:
    """A plain object, with dropout so that random numbers are drawn, and running statistics."""

    def __init__(self, seed=0):
        av.manual_seed(seed)
        self.hidden = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.2)
        self.out = nn.Linear(8, 2)

    def __call__(self, x):
        x = self.dropout(F.relu(self.norm(self.hidden(x))))
        return F.log_softmax(self.out(x), dim=1)


class Plain:
    """Tensors in fields, no layer at all."""

    def __init__(self):
        self.weight = av.tensor(np.eye(4, 2, dtype=np.float32))

    def __call__(self, x):
        return F.log_softmax(x @ self.weight, dim=1)


def adam(model=None):
    return av.optim.Adam(lr=0.01) if model is None else av.optim.Adam(av.parameters(model), lr=0.01)


def fit(model, data=(X, Y), optimizer=None, **options):
    options = {"batch_size": 16, "progress": False} | options
    return av.fit(model, data, nn.NLLLoss(), optimizer or adam(), **options)


def bits(model):
    return {name: t.numpy().tobytes() for name, t in av.state_dict(model).items()}


def by_hand(model, epochs):
    optimizer = adam(model)
    losses = []
    for _ in range(epochs):
        for x, y in DataLoader(TensorDataset(X, Y), 16, shuffle=True):
            optimizer.zero_grad()
            loss = F.nll_loss(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def functionally(model, epochs):
    optimizer = adam()
    losses = []
    for _ in range(epochs):
        for x, y in DataLoader(TensorDataset(X, Y), 16, shuffle=True):
            loss, gradients = av.grad(lambda net, x, y: F.nll_loss(net(x), y), model, x, y)
            av.update(optimizer, model, gradients[0])
            losses.append(loss.item())
    return losses


# --- the numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Net, Plain])
@pytest.mark.parametrize("loop", [by_hand, functionally])
def test_fit_gives_the_bits_of_loops_written_by_hand(make, loop):
    ours, theirs = make(), make()
    av.manual_seed(1)
    history = fit(ours, epochs=3)
    av.manual_seed(1)
    losses = loop(theirs, 3)
    assert bits(ours) == bits(theirs)
    sizes = [16, 16, 16, 2]
    expected = sum(size * loss for size, loss in zip(sizes, losses, strict=False)) / 50
    assert history["loss"][0] == pytest.approx(expected, rel=1e-6)


def test_an_optimizer_made_with_parameters_gives_the_same_bits():
    one, other = Net(), Net()
    av.manual_seed(1)
    fit(one, optimizer=adam(), epochs=2)
    av.manual_seed(1)
    fit(other, optimizer=adam(other), epochs=2)
    assert bits(one) == bits(other)


def test_it_learns_and_measures():
    model = Net()
    history = fit(model, epochs=20, validation=(X, Y))
    assert list(history) == ["loss", "accuracy", "validation loss", "validation accuracy"]
    assert all(len(values) == 20 for values in history.values())
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    predicted = av.predict(model, X).numpy().argmax(axis=1)
    assert history["validation accuracy"][-1] == pytest.approx((predicted == Y).mean())
    assert len(history.seconds) == 20


def test_validation_does_not_change_the_training():
    one, other = Net(), Net()
    av.manual_seed(1)
    fit(one, epochs=2)
    av.manual_seed(1)
    fit(other, epochs=2, validation=(X, Y))
    assert bits(one) == bits(other)


def test_fields_need_no_gradient_afterwards():
    model = Plain()
    fit(model)
    assert not model.weight.requires_grad


def test_steps_are_replayed_whatever_happens_between_them(monkeypatch):
    recorded = []
    record = CompiledStep._record
    monkeypatch.setattr(
        CompiledStep, "_record", lambda self, *rest: recorded.append(1) or record(self, *rest)
    )
    fit(Net(), epochs=8, validation=(X, Y), schedule=lambda epoch: 0.01 / (1 + epoch))
    assert len(recorded) <= 6  # two for each size of batch, and the one that makes the state


def test_a_step_that_looks_at_values_is_recorded_and_says_so_once(capsys):
    one, other, seen = Plain(), Plain(), []

    def loss(outputs, target):
        value = F.nll_loss(outputs, target)
        seen.append(value.item())
        return value

    options = {"epochs": 3, "batch_size": 16, "shuffle": False}
    av.fit(one, (X, Y), loss, adam(), **options)
    assert capsys.readouterr().err.count("recorded one by one, not replayed: the step looks") == 1
    assert len(seen) == 12
    fit(other, **options)
    assert bits(one) == bits(other)


def test_modes_are_set_and_put_back():
    model, seen = Net(), []
    model.norm.eval()

    def loss(outputs, target):
        seen.append((model.dropout.training, model.norm.training))
        return F.nll_loss(outputs, target)

    av.fit(model, (X, Y), loss, adam(), batch_size=25, validation=(X, Y), progress=False)
    assert seen[0] == (True, True)
    assert seen[-1] == (False, False)
    assert (model.dropout.training, model.norm.training) == (True, False)


@pytest.mark.parametrize("limit", [0.1, 100.0])
def test_clipping_is_pytorchs(limit):
    gradients = [GENERATOR.normal(size=shape).astype(np.float32) for shape in ((3, 4), (5,))]
    parameters = [torch.zeros(g.shape, requires_grad=True) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    torch.nn.utils.clip_grad_norm_(parameters, limit)
    for ours, theirs in zip(
        clipped([av.tensor(g) for g in gradients], limit), parameters, strict=True
    ):
        np.testing.assert_allclose(ours.numpy(), theirs.grad.numpy(), rtol=1e-6)


def test_clipping_limits_what_a_step_does():
    model = Plain()
    before = model.weight.numpy().copy()
    fit(model, optimizer=av.optim.SGD(lr=1.0), batch_size=50, clip=1e-3)
    assert np.linalg.norm(model.weight.numpy() - before) == pytest.approx(1e-3, rel=1e-3)


def test_a_schedule_is_asked_before_every_step():
    asked = []

    def schedule(epoch):
        asked.append(epoch)
        return 0.0

    model = Plain()
    before = bits(model)
    fit(model, epochs=2, batch_size=25, schedule=schedule)
    assert asked == [0, 0.5, 1, 1.5]
    assert bits(model) == before


@pytest.mark.parametrize("kind", [av.optim.AdamW, av.optim.SGD, av.optim.RMSprop])
def test_a_schedule_gives_the_bits_of_rates_set_by_hand(kind, capsys):
    ours, theirs = Plain(), Plain()
    optimizer = kind(lr=1.0)
    fit(ours, optimizer=optimizer, epochs=4, batch_size=25, shuffle=False, progress=True,
        schedule=lambda epoch: 0.1 / (1 + epoch))  # fmt: skip
    assert "recorded one by one" not in capsys.readouterr().err
    assert optimizer.lr == 0.1 / 4.5
    by_hand = kind(av.parameters(theirs), lr=1.0)
    for step in range(8):
        by_hand.lr = 0.1 / (1 + step / 2)
        rows = slice(0, 25) if step % 2 == 0 else slice(25, 50)
        by_hand.zero_grad()
        F.nll_loss(theirs(av.tensor(X[rows])), av.tensor(Y[rows])).backward()
        by_hand.step()
    assert ours.weight.tolist() == theirs.weight.tolist()


def test_metrics_by_name_and_by_function():
    def mean_output(outputs, target):
        return outputs.mean()

    history = fit(Plain(), metrics=["accuracy", mean_output], validation=(X, Y))
    assert {"accuracy", "mean_output", "validation mean_output"} <= history.keys()
    assert list(fit(Plain(), metrics=())) == ["loss"]


# --- data --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        (av.tensor(X), av.tensor(Y)),
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), 16),
        DataLoader(TensorDataset(X, Y), 16, num_workers=2),
        [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 50, 16)],
    ],
    ids=["tensors", "data set", "loader", "threads", "list"],
)
def test_every_form_of_data_gives_the_same_bits(data):
    one, other = Plain(), Plain()
    fit(one, shuffle=False, epochs=2)
    fit(other, data, shuffle=False, epochs=2)
    assert bits(one) == bits(other)


def test_one_array_is_its_own_target():
    class Same:
        def __init__(self):
            self.weight = av.zeros(4, 4)

        def __call__(self, x):
            return x @ self.weight

    history = av.fit(Same(), X, nn.MSELoss(), adam(), epochs=30, validation=X, progress=False)
    assert list(history) == ["loss", "validation loss"]
    assert history["loss"][-1] < history["loss"][0]


def test_several_inputs():
    class Two:
        def __init__(self):
            self.weight = av.zeros(4, 2)

        def __call__(self, a, b):
            return F.log_softmax((a - b) @ self.weight, dim=1)

    history = fit(Two(), (X, -X, Y), epochs=5)
    assert history["loss"][-1] < history["loss"][0]
    assert av.predict(Two(), (X, X)).shape == (50, 2)


# --- how it ends -------------------------------------------------------------------------------


def test_callbacks_see_the_history_and_may_stop():
    lengths = []

    def callback(history):
        lengths.append(len(history["loss"]))
        return len(history["loss"]) == 3

    history = fit(Plain(), epochs=9, callbacks=[callback])
    assert lengths == [1, 2, 3]
    assert len(history["loss"]) == 3


@pytest.mark.parametrize("after", [1, 4, 6])
def test_a_resumed_run_has_the_bits_of_one_never_stopped(tmp_path, after):
    """Stopped after so many batches, 4 an epoch: within the first, between two, within one."""
    path = tmp_path / "run.safetensors"
    whole = Net()
    av.manual_seed(1)
    expected = fit(whole, epochs=3, validation=(X, Y))

    class Stops(TensorDataset):
        left = after

        def take(self, indices):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            return super().take(indices)

    stopped = Net()
    av.manual_seed(1)
    history = fit(stopped, Stops(X, Y), epochs=3, validation=(X, Y), checkpoint=path)
    assert history.interrupted
    resumed = Net(seed=9)
    av.manual_seed(9)
    history = fit(resumed, epochs=3, validation=(X, Y), checkpoint=path, resume=True)
    assert bits(resumed) == bits(whole)
    assert history == expected
    assert not history.interrupted


@pytest.mark.parametrize("way", ["with parameters", "with a schedule object"])
def test_optimizers_of_every_kind_resume(tmp_path, way):
    path = tmp_path / "run.safetensors"

    def run(model, epochs, **options):
        optimizer = adam(model) if way == "with parameters" else adam()
        schedule = None
        if way == "with a schedule object":
            schedule = av.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        fit(model, optimizer=optimizer, schedule=schedule, epochs=epochs, **options)

    whole, parts = Net(), Net()
    av.manual_seed(1)
    run(whole, 4)
    av.manual_seed(1)
    run(parts, 2, checkpoint=path)
    resumed = Net(seed=9)
    run(resumed, 4, checkpoint=path, resume=True)
    assert bits(resumed) == bits(whole)


def test_checkpoints_within_an_epoch(tmp_path):
    path = tmp_path / "run.safetensors"
    saved = []

    class Watched(TensorDataset):
        def take(self, indices):
            saved.append(av.load(path)["position"]["batch"] if path.exists() else None)
            return super().take(indices)

    fit(Plain(), Watched(X, Y), checkpoint=path, checkpoint_every=2)
    assert saved == [None, None, 2, 2]
    assert av.load(path)["position"]["epoch"] == 1


@pytest.fixture
def keyboard():
    """Ctrl-C as a terminal sends it: a shell's background jobs, tests too, start out deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("keyboard")
def test_ctrl_c_ends_the_run_after_a_whole_step(capsys):
    class Presses(TensorDataset):
        count = 0

        def take(self, indices):
            self.count += 1
            if self.count == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return super().take(indices)

    model, data = Plain(), Presses(X, Y)
    handler = signal.getsignal(signal.SIGINT)
    history = fit(model, data, shuffle=False, epochs=5, progress=True)
    assert history.interrupted
    assert "interrupted in epoch 1, batch 3: the model keeps" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is handler
    three = Plain()
    fit(three, (X[:48], Y[:48]), shuffle=False)
    assert bits(model) == bits(three)


def test_a_loss_that_is_no_number_names_the_operation_and_changes_nothing():
    class Logs(Plain):
        def __call__(self, x):
            return (x @ self.weight).log()

    positive = np.abs(X) + 1
    positive[40:] *= -1  # the third batch has logarithms of negative numbers
    model, before = Logs(), Logs()
    optimizer = adam(model)
    loss = nn.MSELoss()
    target = np.zeros((50, 2), np.float32)
    with pytest.raises(av.errors.NonFiniteError) as stopped:
        av.fit(
            model, (positive, target), loss, optimizer, batch_size=20, shuffle=False, progress=False
        )
    message = str(stopped.value)
    assert "the loss became nan in epoch 1, batch 3" in message
    assert "[log] at " in message
    assert "test_fit.py" in message
    assert "after weight made the first nan" in message
    av.fit(
        before, (positive[:40], target[:40]), loss, adam(), batch_size=20, shuffle=False,
        progress=False,
    )  # fmt: skip
    assert bits(model) == bits(before)


def test_the_layer_is_named():
    class Explodes:
        def __init__(self):
            self.hidden = nn.Linear(4, 8)
            self.out = nn.Linear(8, 2)

        def __call__(self, x):
            return F.log_softmax(1 / (self.out(F.relu(self.hidden(x))) * 0), dim=1)

    with pytest.raises(av.errors.NonFiniteError, match=r"after out made the first (nan|infinity)"):
        fit(Explodes())


def test_data_that_is_not_finite():
    bad = X.copy()
    bad[3, 2] = np.nan
    with pytest.raises(av.errors.NonFiniteError, match="an input of shape .* look at the data"):
        fit(Plain(), (bad, Y), shuffle=False)


# --- what it shows -----------------------------------------------------------------------------


def test_one_line_an_epoch_where_there_is_no_terminal(capsys):
    fit(Plain(), epochs=2, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("epoch 2/2: loss ")
    assert "batches/s" in lines[1]
    fit(Plain())
    assert capsys.readouterr().err == ""


def test_the_time_that_compiling_took_is_said(capsys, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("avalon.progress.build_seconds", lambda: next(clock))
    fit(Plain(), progress=True)
    assert "compile 1.0 s" in capsys.readouterr().err


def test_a_bar_in_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fit(Plain(), epochs=1, progress=True)
    shown = capsys.readouterr().err
    assert "epoch 1/1: 100%" in shown
    assert "accuracy=" in shown


def test_lines_without_tqdm(capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tqdm", None)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fit(Plain(), epochs=1, progress=True)
    assert capsys.readouterr().err.startswith("epoch 1/1: loss ")


def test_the_history_plots_itself(tmp_path):
    history = fit(Plain(), epochs=3, validation=(X, Y))
    figure = history.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert [axis.get_title() for axis in figure.axes] == ["loss", "accuracy"]
    assert [line.get_label() for line in figure.axes[0].lines] == ["loss", "validation loss"]
    assert "3 epochs: loss" in repr(history)


def test_pictures_without_matplotlib_say_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'avalon\[plot\]'"):
        fit(Plain()).plot()


# --- data in memory -----------------------------------------------------------------------------


def trained_from(data, **options):
    model = Net()
    av.manual_seed(1)
    history = av.fit(
        model, data, nn.CrossEntropyLoss(), adam(model), epochs=3, batch_size=16, progress=False,
        **options,
    )  # fmt: skip
    return bits(model), dict(history)


class Listed(TensorDataset):
    """A data set that is not cut inside the program."""


@pytest.mark.parametrize("options", [{}, {"shuffle": False}, {"drop_last": True}, {"clip": 0.1}])
def test_rows_cut_inside_the_program_give_the_same_bits(options):
    assert trained_from((X, Y), **options) == trained_from(Listed(X, Y), **options)


def test_memory_that_numpy_may_write_is_read_once():
    shared = X.copy()
    assert trained_from((av.from_numpy(shared), Y)) == trained_from((X, Y))


def test_a_function_of_the_epoch_and_checkpoints_at_any_batch(tmp_path):
    schedule = {"schedule": lambda epoch: 0.01 / (1 + epoch)}
    expected = trained_from(Listed(X, Y), **schedule)
    path = tmp_path / "run.safetensors"
    assert trained_from((X, Y), **schedule, checkpoint=path, checkpoint_every=3) == expected


@pytest.mark.usefixtures("keyboard")
def test_ctrl_c_in_the_middle_of_short_steps_ends_after_a_whole_one(tmp_path, monkeypatch):
    """As many steps are counted as were taken, though they are looked at some at a time."""
    path = tmp_path / "run.safetensors"
    rows, labels = np.tile(X, (400, 1)), np.tile(Y, 400)
    model = Plain()
    optimizer = adam(model)
    pressing = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    original = CompiledStep.run_series

    def run_series(*given):
        if not pressing.ident:  # steps are compiled, and taken many at a time
            pressing.start()
        return original(*given)

    monkeypatch.setattr(CompiledStep, "run_series", run_series)
    history = fit(
        model, (rows, labels), optimizer, epochs=10**6, metrics=[], checkpoint=path
    )  # fmt: skip
    assert history.interrupted
    position = av.load(path)["position"]
    taken = position["epoch"] * (len(rows) // 16) + position["batch"]
    (state,) = optimizer.state.values()
    assert int(state["step"]) == taken > 10


# --- many steps in one native call ---------------------------------------------------------------

MANY_X, MANY_Y = np.tile(X, (40, 1)), np.tile(Y, 40)  # 125 batches of 16


@pytest.fixture
def series(monkeypatch):
    """How many steps each native call of several took."""
    found = []
    original = CompiledStep.run_series

    def run_series(step, given, columns, count):
        results = original(step, given, columns, count)
        if results is not None:
            found.append(count)
        return results

    monkeypatch.setattr(CompiledStep, "run_series", run_series)
    return found


@pytest.mark.parametrize("options", [{}, {"clip": 0.1}, {"validation": (X, Y)}])
def test_short_steps_are_taken_many_at_a_time_and_give_the_same_bits(series, options):
    data = (MANY_X[:-3], MANY_Y[:-3])  # the last batch is shorter
    found = trained_from(data, **options)
    assert sum(series) > 300
    assert found == trained_from(Listed(*data), **options)


def test_many_steps_end_where_a_checkpoint_is_due(series, tmp_path):
    path = tmp_path / "run.safetensors"
    expected = trained_from((MANY_X, MANY_Y))
    series.clear()
    assert trained_from((MANY_X, MANY_Y), checkpoint=path, checkpoint_every=10) == expected
    assert max(series) == 10
    assert av.load(path)["position"]["epoch"] == 3


def test_an_error_among_many_steps_leaves_those_before_it(series):
    labels = MANY_Y.copy()
    labels[16 * 70 + 3] = 77
    model, before = Plain(), Plain()
    with pytest.raises(IndexError, match="77"):
        fit(model, (MANY_X, labels), shuffle=False, metrics=[])
    fit(before, (MANY_X[: 16 * 70], MANY_Y[: 16 * 70]), shuffle=False, metrics=[])
    assert bits(model) == bits(before)


def test_a_loss_that_is_no_number_among_many_steps_is_found(series):
    spoiled = MANY_X.copy()
    spoiled[16 * 70 + 3, 1] = np.nan
    model, before = Plain(), Plain()
    with pytest.raises(av.errors.NonFiniteError, match="epoch 1, batch 71"):
        fit(model, (spoiled, MANY_Y), shuffle=False)
    assert max(series) > 70
    fit(before, (MANY_X[: 16 * 70], MANY_Y[: 16 * 70]), shuffle=False)
    assert bits(model) == bits(before)


def test_the_bar_counts_all_steps(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fit(Plain(), (MANY_X, MANY_Y), progress=True)
    assert "125/125" in capsys.readouterr().err


def test_a_native_call_takes_no_more_steps_than_fit_a_twentieth_second(series, monkeypatch):
    monkeypatch.setattr(CompiledStep, "calls_within", lambda step, seconds: int(400 * seconds))
    fit(Plain(), (MANY_X, MANY_Y), epochs=2)
    assert max(series) == 20
    assert sum(series) > 200


def test_a_wrong_label_in_memory_is_an_error_that_changes_nothing():
    labels = Y.copy()
    labels[40] = 77
    model, before = Plain(), bits(Plain())
    with pytest.raises(IndexError, match="77"):
        av.fit(
            model, (X, labels), nn.CrossEntropyLoss(), adam(model), batch_size=50, shuffle=False,
            progress=False, metrics=[],
        )  # fmt: skip
    assert bits(model) == before
