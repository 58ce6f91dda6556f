"""Layers: initial distributions, state keys, printed forms and defaults as PyTorch's."""

import math

import numpy as np
import pytest
import torch

import avalon as av
from avalon import nn

LAYERS = """
Linear(3, 4); Linear(3, 4, bias=False); Bilinear(2, 3, 4); Identity(5, a=3)
Conv1d(4, 6, 3); Conv2d(4, 6, (3, 2), stride=2, padding=1, dilation=2, groups=2, bias=False)
Conv2d(2, 2, 3, padding='same', padding_mode='reflect'); Conv3d(2, 4, 3)
ConvTranspose1d(4, 2, 3); ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2)
ConvTranspose3d(2, 3, 2); MaxPool1d(2); MaxPool2d(3, 2, 1); MaxPool3d(2); AvgPool1d(2)
AvgPool2d(3, stride=2, padding=1); AvgPool3d(2); AdaptiveAvgPool2d((1, None)); AdaptiveMaxPool1d(3)
LPPool2d(2, 3); BatchNorm1d(4); BatchNorm2d(4, affine=False); BatchNorm3d(2, momentum=None)
BatchNorm2d(3, track_running_stats=False); InstanceNorm2d(3); InstanceNorm1d(3, affine=True)
LayerNorm(5); LayerNorm((2, 3), bias=False); GroupNorm(2, 4); RMSNorm(4)
LocalResponseNorm(2); Dropout(0.3); Dropout2d(); AlphaDropout(0.1); Embedding(5, 3)
Embedding(5, 3, padding_idx=-1); EmbeddingBag(4, 2, mode='sum'); Flatten(); Unflatten(1, (2, 3))
ReLU(); ReLU(inplace=True); LeakyReLU(0.2); ELU(); GELU('tanh'); SiLU(); Softmax(dim=1); PReLU()
Hardtanh(-2, 2); Softplus(2); Threshold(0.1, 20); GLU(); LogSoftmax(dim=-1); Tanh()
CrossEntropyLoss(label_smoothing=0.1); NLLLoss(); MSELoss(reduction='sum'); BCEWithLogitsLoss()
ZeroPad2d(1); ReflectionPad1d((1, 2)); ConstantPad2d(2, 3.5); PixelShuffle(2)
Upsample(scale_factor=2); Unfold((2, 3)); ParameterList([])
""".replace("\n", "; ").split(";")


@pytest.mark.parametrize("text", [text.strip() for text in LAYERS if text.strip()])
def test_printed_form_and_state_are_pytorchs(text):
    ours, theirs = eval(text, vars(nn).copy()), eval(text, vars(torch.nn).copy())
    assert repr(ours) == repr(theirs)
    expected = {name: tuple(t.shape) for name, t in theirs.state_dict().items()}
    assert {name: tuple(t.shape) for name, t in ours.state_dict().items()} == expected
    assert ours.training == theirs.training
    assert [p.requires_grad for p in ours.parameters()] == [
        p.requires_grad for p in theirs.parameters()
    ]


@pytest.mark.parametrize(
    ("make", "bounds"),
    [
        (lambda: nn.Linear(100, 300), {"weight": 0.1, "bias": 0.1}),
        (lambda: nn.Conv2d(4, 64, 5), {"weight": 0.1, "bias": 0.1}),
        (lambda: nn.Conv2d(8, 64, 5, groups=2), {"weight": 0.1, "bias": 0.1}),
        (lambda: nn.ConvTranspose2d(64, 4, 5), {"weight": 0.1, "bias": 0.1}),
        (lambda: nn.Bilinear(25, 30, 20), {"weight": 0.2, "bias": 0.2}),
    ],
)
def test_initial_values_are_uniform_within_the_bound(make, bounds):
    av.manual_seed(0)
    for name, parameter in make().named_parameters():
        values = parameter.detach().numpy()
        bound = bounds[name]
        assert np.abs(values).max() <= bound
        if values.size > 1000:
            assert np.abs(values).max() > 0.98 * bound
            assert abs(values.std() - bound / math.sqrt(3)) < 0.03 * bound
            assert abs(values.mean()) < 0.05 * bound


def test_embedding_starts_normal_with_a_zero_row():
    av.manual_seed(1)
    table = nn.Embedding(200, 50, padding_idx=3).weight.detach().numpy()
    assert abs(table.std() - 1) < 0.03
    assert not table[3].any()


@pytest.mark.parametrize(
    ("name", "arguments", "deviation"),
    [
        ("kaiming_uniform_", {"nonlinearity": "relu"}, math.sqrt(2 / 300)),
        ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}, math.sqrt(2 / 200)),
        ("xavier_uniform_", {"gain": 2.0}, 2 * math.sqrt(2 / 500)),
        ("xavier_normal_", {}, math.sqrt(2 / 500)),
        ("normal_", {"std": 0.3}, 0.3),
        ("uniform_", {"a": -1, "b": 1}, 1 / math.sqrt(3)),
        ("trunc_normal_", {"std": 0.02}, 0.02),
    ],
)
def test_initializers(name, arguments, deviation):
    av.manual_seed(2)
    made = getattr(nn.init, name)(av.empty(200, 300), **arguments)
    assert abs(made.numpy().std() - deviation) < 0.02 * deviation


def test_orthogonal_and_others():
    for shape in ((4, 9), (9, 4), (3, 2, 2)):
        flat = nn.init.orthogonal_(av.empty(*shape)).reshape(shape[0], -1).numpy()
        product = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
        np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-5)
    assert nn.init.eye_(av.empty(2, 3)).tolist() == [[1, 0, 0], [0, 1, 0]]
    kernel = nn.init.dirac_(av.empty(2, 2, 3))
    assert kernel[:, :, 1].tolist() == [[1, 0], [0, 1]]
    assert nn.init.calculate_gain("tanh") == pytest.approx(5 / 3)
    with pytest.raises(ValueError, match="two axes"):
        nn.init.xavier_normal_(av.empty(3))


def test_running_statistics_follow_pytorch():
    rng = np.random.default_rng(0)
    for momentum in (0.1, None):
        ours, theirs = (
            nn.BatchNorm1d(3, momentum=momentum),
            torch.nn.BatchNorm1d(3, momentum=momentum),
        )
        for _ in range(4):
            x = rng.normal(2, 3, (7, 3)).astype(np.float32)
            ours(av.tensor(x))
            theirs(torch.tensor(x))
        np.testing.assert_allclose(
            ours.running_mean.numpy(), theirs.running_mean.numpy(), rtol=1e-5
        )
        np.testing.assert_allclose(ours.running_var.numpy(), theirs.running_var.numpy(), rtol=1e-5)
        assert ours.num_batches_tracked.item() == 4
        x = rng.normal(size=(2, 3)).astype(np.float32)
        np.testing.assert_allclose(
            ours.eval()(av.tensor(x)).detach().numpy(),
            theirs.eval()(torch.tensor(x)).detach().numpy(),
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip


def test_transposed_convolution_reaches_a_given_size():
    layer = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)
    x = av.ones(1, 2, 5, 5)
    assert layer(x, output_size=(10, 9)).shape == (1, 3, 10, 9)
    with pytest.raises(RuntimeError, match="must lie in"):
        layer(x, output_size=(12, 9))


def test_dropout_keeps_the_mean_and_nothing_in_evaluation():
    av.manual_seed(3)
    layer = nn.Dropout(0.25)
    x = av.ones(200, 100)
    y = layer(x).numpy()
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.01
    assert layer.eval()(x) is x
    channels = nn.Dropout2d(0.5)(av.ones(8, 16, 3, 3)).numpy().reshape(8, 16, 9)
    assert (channels.min(-1) == channels.max(-1)).all()


def test_clipping():
    rng = np.random.default_rng(0)
    for scale, norm_type in ((0.1, 2.0), (10.0, 2.0), (10.0, math.inf), (3.0, 1.0)):
        arrays = [(scale * rng.normal(size=shape)).astype(np.float32) for shape in ((3, 4), (5,))]
        ours = [av.zeros(a.shape, requires_grad=True) for a in arrays]
        theirs = [torch.zeros(a.shape, requires_grad=True) for a in arrays]
        for one, other, array in zip(ours, theirs, arrays, strict=True):
            one.grad, other.grad = av.tensor(array), torch.tensor(array)
        total = nn.utils.clip_grad_norm_(ours, 1.5, norm_type)
        expected = torch.nn.utils.clip_grad_norm_(theirs, 1.5, norm_type)
        assert total.item() == pytest.approx(expected.item(), rel=1e-5)
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one.grad.numpy(), other.grad.numpy(), rtol=1e-5)
        nn.utils.clip_grad_value_(ours, 0.1)
        assert all(p.grad.abs().max().item() <= np.float32(0.1) for p in ours)
    ours[0].grad.fill_(math.nan)
    with pytest.raises(RuntimeError, match="nan"):
        nn.utils.clip_grad_norm_(ours, 1.0, error_if_nonfinite=True)
    vector = nn.utils.parameters_to_vector(ours)
    nn.utils.vector_to_parameters(vector + 1, ours)
    assert ours[1].tolist() == [1.0] * 5
