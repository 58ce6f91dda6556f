"""The per-layer table: every kind of layer, forward and forward + backward, beside PyTorch.

Comes in: nothing. Goes out: for each row two contests, Avalon against PyTorch. A row is written
once and serves both libraries, because Avalon follows PyTorch's names: it is built from the
library's module. Avalon's side is compiled, PyTorch's is eager. Backward means the gradients of all
floating inputs and parameters from a given cotangent.

`python -m benchmarks.layers [NAME ...]` measures the rows whose names contain a NAME.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch

import avalon as av
from benchmarks import heap, measure

Arrays = tuple[Any, ...]
# Gets the library, torch or avalon, and returns what is called with the inputs.
Build = Callable[[Any], Callable[..., Any]]


@dataclass(frozen=True)
class Row:
    """One row: what is built, and the inputs that it is called with.

    A shape stands for random floats; (high, shape) for random integers below `high`. A row that
    has no gradient, or is a step of its own, is measured forward only.
    """

    name: str
    build: Build
    inputs: tuple[Any, ...]
    backward: bool = True


def _layer(name: str, *arguments: Any, **options: Any) -> Build:
    return lambda lib: getattr(lib.nn, name)(*arguments, **options)


def _first(name: str, *arguments: Any, **options: Any) -> Build:
    """A layer that returns a tuple, of which the first counts."""

    def build(lib: Any) -> Callable[..., Any]:
        layer = getattr(lib.nn, name)(*arguments, **options)
        return _Of(layer, lambda *x: layer(*x)[0])

    return build


def _method(name: str, *arguments: Any, **options: Any) -> Build:
    return lambda lib: lambda x: getattr(x, name)(*arguments, **options)


@dataclass(frozen=True)
class _Of:
    """A function of a layer, whose parameters are the layer's."""

    layer: Any
    function: Callable[..., Any]

    def parameters(self) -> Any:
        return self.layer.parameters()

    def __call__(self, *inputs: Any) -> Any:
        return self.function(*inputs)


def _attention(lib: Any) -> Callable[..., Any]:
    layer = lib.nn.MultiheadAttention(256, 8, batch_first=True)
    return _Of(layer, lambda x: layer(x, x, x)[0])


def _optimizer(name: str, clip: bool = False, **options: Any) -> Build:
    """A step of an optimizer on 2,000,000 parameters in 60 tensors whose gradients are there."""

    def build(lib: Any) -> Callable[..., Any]:
        generator = np.random.default_rng(0)
        parameters = []
        for index in range(60):
            shape = (512, 112) if index % 4 == 0 else (88, 256) if index % 4 == 1 else (26_880,)
            parameter = lib.nn.Parameter(_tensor(lib, generator.normal(size=shape)))
            parameter.grad = _tensor(lib, generator.normal(size=shape))
            parameters.append(parameter)
        optimizer = getattr(lib.optim, name)(parameters, lr=1e-3, **options)

        def step() -> Any:
            if clip:
                lib.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()

        return step

    return build


def _tensor(lib: Any, array: Any) -> Any:
    return lib.tensor(np.asarray(array, np.float32))


FLOATS = (64, 64, 512)
PICTURE = (8, 64, 56, 56)
ROWS: tuple[Row, ...] = (
    Row("linear_small", _layer("Linear", 64, 64), ((32, 64),)),
    Row("linear_mid", _layer("Linear", 512, 512), ((128, 512),)),
    Row("linear_large", _layer("Linear", 2048, 2048), ((256, 2048),)),
    Row("linear_one_row", _layer("Linear", 784, 500), ((1, 784),)),
    Row("linear_odd", _layer("Linear", 333, 77), ((61, 333),)),
    Row("linear_seq", _layer("Linear", 256, 1024), ((16, 64, 256),)),
    Row("bilinear", _layer("Bilinear", 32, 48, 24), ((64, 32), (64, 48))),
    Row("conv1d", _layer("Conv1d", 32, 64, 5, padding=2), ((16, 32, 256),)),
    Row("conv1d_dilated", _layer("Conv1d", 64, 64, 3, padding=8, dilation=8), ((16, 64, 512),)),
    Row("conv2d_first", _layer("Conv2d", 3, 64, 7, stride=2, padding=3), ((8, 3, 112, 112),)),
    Row("conv2d_one_channel", _layer("Conv2d", 1, 16, 3, padding=1), ((100, 1, 28, 28),)),
    Row("conv2d_3x3_64", _layer("Conv2d", 64, 64, 3, padding=1), (PICTURE,)),
    Row("conv2d_3x3_256", _layer("Conv2d", 256, 256, 3, padding=1), ((8, 256, 14, 14),)),
    Row("conv2d_1x1", _layer("Conv2d", 256, 64, 1), ((8, 256, 28, 28),)),
    Row("conv2d_stride", _layer("Conv2d", 128, 256, 3, stride=2, padding=1), ((8, 128, 28, 28),)),
    Row("conv2d_5x5", _layer("Conv2d", 20, 50, 5), ((100, 20, 12, 12),)),
    Row("conv2d_grouped", _layer("Conv2d", 128, 128, 3, padding=1, groups=8), ((8, 128, 28, 28),)),
    Row(
        "conv2d_depthwise",
        _layer("Conv2d", 144, 144, 3, padding=1, groups=144),
        ((8, 144, 28, 28),),
    ),
    Row("conv2d_dilated", _layer("Conv2d", 64, 64, 3, padding=2, dilation=2), ((8, 64, 28, 28),)),
    Row("conv2d_odd", _layer("Conv2d", 13, 29, 3, padding=1), ((7, 13, 31, 27),)),
    Row("conv3d", _layer("Conv3d", 16, 32, 3, padding=1), ((4, 16, 8, 28, 28),)),
    Row(
        "convtranspose1d",
        _layer("ConvTranspose1d", 64, 32, 4, stride=2, padding=1),
        ((16, 64, 128),),
    ),
    Row(
        "convtranspose2d",
        _layer("ConvTranspose2d", 128, 64, 4, stride=2, padding=1),
        ((16, 128, 16, 16),),
    ),
    Row(
        "convtranspose3d",
        _layer("ConvTranspose3d", 16, 8, 4, stride=2, padding=1),
        ((2, 16, 8, 8, 8),),
    ),
    Row("maxpool2d", _layer("MaxPool2d", 2), ((32, 64, 28, 28),)),
    Row("maxpool2d_overlap", _layer("MaxPool2d", 3, stride=2, padding=1), (PICTURE,)),
    Row("avgpool2d", _layer("AvgPool2d", 2), ((32, 64, 28, 28),)),
    Row("adaptive_avgpool2d", _layer("AdaptiveAvgPool2d", 1), ((32, 512, 7, 7),)),
    Row("maxpool1d", _layer("MaxPool1d", 2), ((32, 64, 256),)),
    Row("batchnorm2d", _layer("BatchNorm2d", 64), ((16, 64, 32, 32),)),
    Row("batchnorm1d", _layer("BatchNorm1d", 256), ((128, 256),)),
    Row("layernorm", _layer("LayerNorm", 512), ((32, 64, 512),)),
    Row("groupnorm", _layer("GroupNorm", 8, 64), ((16, 64, 32, 32),)),
    Row("instancenorm2d", _layer("InstanceNorm2d", 64), ((16, 64, 32, 32),)),
    Row("rmsnorm", _layer("RMSNorm", 512), ((32, 64, 512),)),
    Row("relu", _layer("ReLU"), ((64, 64, 28, 28),)),
    Row("gelu", _layer("GELU"), (FLOATS,)),
    Row("silu", _layer("SiLU"), (FLOATS,)),
    Row("tanh", _layer("Tanh"), (FLOATS,)),
    Row("sigmoid", _layer("Sigmoid"), (FLOATS,)),
    Row("softmax_short", _layer("Softmax", dim=-1), ((4096, 10),)),
    Row("softmax_long", _layer("Softmax", dim=-1), ((128, 32000),)),
    Row("log_softmax", _layer("LogSoftmax", dim=1), ((4096, 100),)),
    Row("softmax_dim1", _layer("Softmax", dim=1), ((32, 64, 28, 28),)),
    Row("dropout", _layer("Dropout", 0.5), (FLOATS,)),
    Row("embedding", _layer("Embedding", 32000, 256), ((32000, (16, 128)),)),
    Row("embeddingbag", _layer("EmbeddingBag", 32000, 64), ((32000, (64, 20)),)),
    Row("rnn", _first("RNN", 64, 128, batch_first=True), ((32, 64, 64),)),
    Row("lstm", _first("LSTM", 64, 256, batch_first=True), ((32, 64, 64),)),
    Row(
        "lstm_2_bidirectional",
        _first("LSTM", 64, 128, num_layers=2, bidirectional=True, batch_first=True),
        ((16, 64, 64),),
    ),
    Row("gru", _first("GRU", 64, 256, batch_first=True), ((32, 64, 64),)),
    Row("lstm_cell", _first("LSTMCell", 64, 256), ((32, 64),)),
    Row("attention", _attention, ((8, 128, 256),)),
    Row(
        "sdpa_causal",
        lambda lib: (
            lambda q, k, v: lib.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        ),
        ((8, 8, 256, 64),) * 3,
    ),
    Row(
        "transformer_layer",
        _layer("TransformerEncoderLayer", 256, 8, 1024, batch_first=True),
        ((8, 64, 256),),
    ),
    Row("cross_entropy", _layer("CrossEntropyLoss"), ((512, 1000), (1000, (512,)))),
    Row("cross_entropy_large", _layer("CrossEntropyLoss"), ((768, 32000), (32000, (768,)))),
    Row("mse", _layer("MSELoss"), ((1024, 1024),) * 2),
    Row(
        "bce_logits",
        lambda lib: lambda x, y: lib.nn.BCEWithLogitsLoss()(x, y.abs()),
        ((128, 784),) * 2,
    ),
    Row(
        "ctc",
        lambda lib: (
            lambda x, y: lib.nn.CTCLoss()(
                x.log_softmax(2), y + 1, lengths(lib, 50), lengths(lib, 10)
            )
        ),
        ((50, 16, 20), (19, (16, 10))),
    ),
    Row("adam", _optimizer("Adam"), (), backward=False),
    Row("adamw_clip", _optimizer("AdamW", clip=True), (), backward=False),
    Row("sgd_momentum", _optimizer("SGD", momentum=0.9), (), backward=False),
    Row("matmul_batched", lambda lib: lib.matmul, ((64, 64, 64),) * 2),
    Row("matmul_batched_mid", lambda lib: lib.matmul, ((16, 256, 64), (16, 64, 256))),
    Row("matvec", lambda lib: lib.matmul, ((2048, 2048), (2048,))),
    Row(
        "einsum",
        lambda lib: lambda a, b: lib.einsum("bhid,bhjd->bhij", a, b),
        ((8, 8, 128, 32),) * 2,
    ),
    Row("sum_all", _method("sum"), ((4096, 4096),)),
    Row("sum_rows", _method("sum", dim=1), ((4096, 1024),)),
    Row("sum_columns", _method("sum", dim=0), ((4096, 1024),)),
    Row("variance", _method("var", dim=1), ((4096, 1024),)),
    Row("cumsum", _method("cumsum", dim=1), ((1024, 4096),)),
    Row("sort", lambda lib: lambda x: x.sort(dim=1)[0], ((256, 4096),)),
    Row("topk", lambda lib: lambda x: x.topk(50)[0], ((64, 32000),)),
    Row("argmax", _method("argmax", dim=1), ((512, 1000),), backward=False),
    Row(
        "transpose_copy",
        lambda lib: lambda x: x.transpose(1, 2).contiguous(),
        ((64, 512, 128),),
    ),
    Row("cat", lambda lib: lambda a, b: lib.cat([a, b], dim=1), ((32, 128, 28, 28),) * 2),
    Row("index_select", lambda lib: lambda x, i: x[i], ((60000, 784), (60000, (100,)))),
    Row(
        "interpolate",
        lambda lib: lambda x: lib.nn.functional.interpolate(x, scale_factor=2, mode="bilinear"),
        ((8, 64, 32, 32),),
    ),
    Row("pad_reflect", _layer("ReflectionPad2d", 3), ((8, 64, 64, 64),)),
)


def lengths(lib: Any, length: int) -> Any:
    """Sixteen equal lengths, as CTC takes them."""
    return lib.full((16,), length, dtype=lib.long)


def steps(row: Row, backward: bool) -> dict[str, Callable[[], Any]]:
    """The row's two sides, each a function that does the work once.

    Raises:
        AttributeError: Avalon does not have the layer.
    """
    generator = np.random.default_rng(0)
    arrays = [
        generator.integers(0, one[0], one[1])
        if len(one) == 2 and isinstance(one[1], tuple)
        else generator.normal(size=one).astype(np.float32)
        for one in row.inputs
    ]
    return {
        "avalon": _step(av, row.build, arrays, backward),
        "torch": _step(torch, row.build, arrays, backward),
    }


def _step(lib: Any, build: Build, arrays: Sequence[Any], backward: bool) -> Callable[[], Any]:
    function = build(lib)
    inputs = [lib.tensor(array) for array in arrays]

    def forward(*given: Any) -> Any:
        with lib.no_grad():
            return function(*given)

    if not backward:
        whole = av.compile(forward) if lib is av else forward
        return lambda: whole(*inputs)
    parameters = list(getattr(function, "parameters", list)())
    for one in inputs:
        if one.is_floating_point():
            one.requires_grad_()
    shape = tuple(function(*inputs).shape)
    cotangent = lib.tensor(np.random.default_rng(1).normal(size=shape).astype(np.float32))

    def both(seed: Any, *given: Any) -> Any:
        wanted = [one for one in given if one.requires_grad] + parameters
        return lib.autograd.grad(function(*given), wanted, seed, allow_unused=True)

    step = av.compile(both) if lib is av else both
    return lambda: step(cotangent, *inputs)


def measure_row(row: Row, rounds: int, seconds: float) -> dict[str, dict[str, list[float]] | str]:
    """The turns of a row by "forward" and "both"; in their place a sentence if it cannot run."""
    found: dict[str, dict[str, list[float]] | str] = {}
    for kind in ("forward", "both") if row.backward else ("forward",):
        try:
            sides = steps(row, kind == "both")
            sides["avalon"]()  # many layers are only made when they are called
        except AttributeError as missing:
            if not isinstance(missing.obj, ModuleType):
                raise
            return {kind: f"not there: {missing}"}
        found[kind] = measure.take_turns(sides, rounds, seconds, pause=0.05)
    return found


def main(names: Sequence[str]) -> None:
    """Print the rows whose names contain one of `names`; all without any."""
    print(f"{'row':<24}{'avalon us':>12}{'torch us':>12}{'ratio':>8}")
    for row in ROWS:
        if names and not any(name in row.name for name in names):
            continue
        for kind, turns in measure_row(row, 5, 0.1).items():
            title = row.name if kind == "forward" else f"{row.name} +backward"
            if isinstance(turns, str):
                print(f"{title:<24} {turns}")
                continue
            ours, peer = (1e6 * measure.middle(turns[name]) for name in ("avalon", "torch"))
            print(f"{title:<32}{ours:12.1f}{peer:12.1f}{measure.ratio(turns):8.2f}", flush=True)


if __name__ == "__main__":
    heap.settle("benchmarks.layers")
    main(sys.argv[1:])
