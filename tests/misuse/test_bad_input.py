"""Bad input: each mistake is one clear error that says what to do, and nothing is lost by it."""

import linecache
import os
import subprocess
import sys
import traceback

import numpy as np
import pytest

import avalon as av
import avalon.nn.functional as F
from avalon import cli, nn

X = np.random.default_rng(0).random((8, 1, 28, 28), np.float32)
Y = np.arange(8)


class Net:
    def __init__(self, features=32):
        self.conv = nn.Conv2d(1, 2, 5)
        self.blocks = [nn.Linear(features, 10)]

    def __call__(self, x):
        x = F.max_pool2d(self.conv(x), 6).reshape(len(x), -1)
        return F.log_softmax(self.blocks[0](x), dim=1)


def fit(model, data=(X, Y), optimizer=None, **options):
    options = {"batch_size": 4, "progress": False} | options
    return av.fit(model, data, nn.NLLLoss(), optimizer or av.optim.SGD(lr=0.1), **options)


def line_of(error):
    """The last line of this file that the error's traceback passes."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == __file__]
    return linecache.getline(__file__, frames[-1].lineno).strip()


# --- shapes, types, labels ---------------------------------------------------------------------


def test_shapes_that_do_not_fit_name_the_layer_and_both_shapes():
    net = Net(features=33)
    with pytest.raises(av.errors.ShapeError) as wrong:
        net(av.tensor(X))
    message = str(wrong.value)
    assert "(8, 32)" in message
    assert "(10, 33)" in message
    assert "net.blocks.0" in message
    assert "self.blocks[0](x)" in line_of(wrong.value)
    with pytest.raises(av.errors.ShapeError, match=r"model\.blocks\.0"):
        fit(net)


def test_shapes_that_do_not_fit_in_a_module_name_its_path():
    net = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))
    with pytest.raises(av.errors.ShapeError, match=r"(?s)\(5, 3\).*\(2, 4\).*net\.1\.1"):
        net(av.ones(5, 4))


def test_a_transposed_convolution_that_makes_nothing_says_so():
    layer = nn.ConvTranspose2d(1, 1, 2, padding=1)
    with pytest.raises(av.errors.ShapeError, match=r"would have size \(0, 0\)"):
        layer(av.ones(1, 1, 1, 1))


def test_integers_given_to_a_float_layer():
    with pytest.raises(av.errors.DTypeError, match=r"int64.*float32.*\.float\(\)"):
        nn.Linear(4, 2)(av.ones(3, 4, dtype=av.int64))
    with pytest.raises(av.errors.DTypeError, match=r"\.float\(\)"):
        fit(Net(), (X.astype(np.int64), Y))


@pytest.mark.parametrize("label", [10, -1])
def test_labels_out_of_range_are_found_at_the_users_line(label):
    labels = Y.copy()
    labels[3] = label
    outputs = Net()(av.tensor(X))
    with pytest.raises(IndexError, match=rf"{label}.*10") as wrong:
        F.nll_loss(outputs, av.tensor(labels))
    assert "F.nll_loss(outputs" in line_of(wrong.value)


def test_labels_out_of_range_leave_the_model_as_it_was():
    model = Net()
    before = {name: t.numpy().copy() for name, t in av.state_dict(model).items()}
    with pytest.raises(IndexError, match="10"):
        fit(model, (X, Y + 5), shuffle=False, batch_size=8)
    for name, t in av.state_dict(model).items():
        np.testing.assert_array_equal(t.numpy(), before[name])


# --- data --------------------------------------------------------------------------------------


def test_empty_data_and_empty_batches():
    with pytest.raises(ValueError, match="the data has no rows"):
        fit(Net(), (X[:0], Y[:0]))
    with pytest.raises(ValueError, match="batch 2 of epoch 1 has no rows: leave empty batches out"):
        fit(Net(), [(X, Y), (X[:0], Y[:0])])
    with pytest.raises(ValueError, match="the data gave no batches"):
        fit(Net(), [])
    with pytest.raises(ValueError, match="x has no rows"):
        av.predict(Net(), X[:0])
    with pytest.raises(ValueError, match="the validation data has no rows"):
        fit(Net(), validation=[])


def test_a_generator_runs_out():
    batches = ((X, Y) for _ in range(2))
    with pytest.raises(ValueError, match="no batches in epoch 2: a generator can be walked only"):
        fit(Net(), batches, epochs=2)


def test_rows_that_do_not_match():
    with pytest.raises(ValueError, match=r"the tensors have \[8, 7\] rows"):
        fit(Net(), (X, Y[:7]))


def test_data_that_is_none():
    with pytest.raises(ValueError, match="data is a int: give a tuple of arrays"):
        fit(Net(), 3)
    with pytest.raises(ValueError, match="a batch is a dict"):
        fit(Net(), [{"x": X, "y": Y}])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no MNIST files"),
        (b"\0\0\x08\x03", "truncated"),
        (b"<html>", "not an IDX file"),
    ],
    ids=["missing", "truncated", "foreign"],
)
def test_bad_data_files_on_the_command_line(tmp_path, content, message):
    if content is not None:
        for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
            (tmp_path / name).write_bytes(content)
    with pytest.raises(SystemExit, match=message) as stopped:
        cli.main(["train", "cnn", "--data", str(tmp_path)])
    assert "\n" not in str(stopped.value.code)


# --- models and optimizers ---------------------------------------------------------------------


def test_nothing_to_train():
    class Empty:
        def __call__(self, x):
            return x

    with pytest.raises(ValueError, match="Empty has nothing to train"):
        fit(Empty())


def test_an_optimizer_without_parameters():
    with pytest.raises(ValueError, match="empty parameter list"):
        av.optim.SGD([], lr=0.1)
    with pytest.raises(TypeError, match=r"Adam\(lr="):
        av.optim.Adam(1e-3)


def test_a_parameter_without_gradient():
    class Unused(Net):
        def __init__(self):
            super().__init__()
            self.spare = nn.Linear(2, 2)

    with pytest.raises(
        ValueError, match=r"does not depend on spare\.weight, spare\.bias.*freeze it"
    ):
        fit(Unused())


def test_unknown_metrics_and_arguments():
    with pytest.raises(ValueError, match="unknown metric 'acuracy': did you mean 'accuracy'"):
        fit(Net(), metrics=["acuracy"])
    with pytest.raises(ValueError, match="batch_size is 0"):
        fit(Net(), batch_size=0)
    with pytest.raises(ValueError, match="resume=True needs checkpoint="):
        fit(Net(), resume=True)


def test_checkpoints_of_other_runs(tmp_path):
    path = tmp_path / "run.safetensors"
    fit(Net(), checkpoint=path)
    with pytest.raises(av.errors.CheckpointError, match="2 batches an epoch, this data has 4"):
        fit(Net(), batch_size=2, checkpoint=path, resume=True)
    with pytest.raises(av.errors.CheckpointError, match=r"size mismatch for blocks\.0\.weight"):
        fit(Net(features=33), checkpoint=path, resume=True)
    av.save(Net(), path)
    with pytest.raises(av.errors.CheckpointError, match="no checkpoint of a run"):
        fit(Net(), checkpoint=path, resume=True)


# --- the machine -------------------------------------------------------------------------------


def test_devices_that_are_not_here():
    with pytest.raises(av.errors.DeviceError, match="not available here.*'cpu'"):
        av.ones(2).to("cuda")


def test_a_traced_tensor_in_python_control_flow():
    @av.compile
    def step(x):
        return x if x.sum() > 0 else -x

    with pytest.raises(av.errors.TraceError, match=r"where.*test_bad_input\.py:\d+"):
        step(av.ones(2))


CODE = """
import avalon as av
print((av.ones(3) * 2 + 1).sum().item())
"""

# A process that may write no byte to a file is one whose disk is full.
NO_ROOM = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"


@pytest.mark.parametrize("state", ["a file", "full"])
def test_a_cache_folder_that_cannot_be_used_harms_nothing(tmp_path, state):
    folder = tmp_path / "cache"
    if state == "a file":
        folder.write_text("no folder")
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM + CODE if state == "full" else CODE],
        env=os.environ | {"AVALON_CACHE": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "9.0\n", done.stderr
    assert done.stderr.count("Set AVALON_CACHE to a folder of yours with free space") == 1


@pytest.mark.parametrize("given", ["float32", np.float32, float])
@pytest.mark.parametrize("make", [
    lambda given: av.tensor([1.0], dtype=given), lambda given: av.ones(2, dtype=given),
    lambda given: av.full((2,), 1.0, dtype=given), lambda given: av.eye(2, dtype=given),
    lambda given: av.randn(2, dtype=given), lambda given: av.arange(3, dtype=given),
    lambda given: av.ones(2).to(dtype=given), lambda given: av.ones(2).type(given),
    lambda given: av.ones(2).sum(dtype=given), av.set_default_dtype,
    lambda given: av.nn.Linear(2, 3, dtype=given), lambda given: av.nn.Linear(2, 3).type(given),
])  # fmt: skip
def test_a_dtype_that_is_none_is_refused(make, given):
    with pytest.raises(TypeError, match=r"expected a type such as avalon\.float32, got"):
        make(given)


def test_a_module_is_not_converted_to_what_is_neither_device_nor_dtype():
    for given in (np.float32, float, 3):
        with pytest.raises(TypeError, match=r"expected a type such as avalon\.float32, got"):
            av.nn.Linear(2, 3).to(given)
    assert av.nn.Linear(2, 3).to("cpu", av.float64, True).weight.dtype is av.float64
