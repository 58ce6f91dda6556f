"""Runs one expression in PyTorch and in Avalon and compares values, dtypes, shapes and gradients.

Comes in: Python expressions over `T` (torch or avalon), `F` (nn.functional), `nn` and the named
inputs below. Goes out: an assertion error that shows the first difference. An expression that
raises in PyTorch has to raise in Avalon.
"""

import re
import warnings
import zlib
from collections import Counter

import numpy as np
import torch

import avalon
import avalon.nn.functional

COUNTS = Counter()

_rng = np.random.default_rng(7)


def _ties(*shape):
    """Multiples of a half in [-2, 2]: full of ties and zeros, some of them negative."""
    found = _rng.integers(-4, 5, shape) / 2.0
    return np.where((found == 0) & (_rng.random(shape) < 0.5), -0.0, found)


def _spread(*shape):
    return _rng.normal(size=shape)


SPECIALS = [
    np.nan,
    np.inf,
    -np.inf,
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    2.5,
    -3.5,
    1e-30,
    30.0,
    -30.0,
    100.0,
    -100.0,
]

# name -> array; floats take the dtype under test and get gradients
INPUTS = {
    "x": _ties(3, 5),
    "y": _ties(3, 5),
    "r": _spread(3, 5),
    "q": _spread(3, 5),
    "v": _spread(5),
    "v3": _spread(3),
    "col": _spread(3, 1),
    "one": _spread(1),
    "lone": _spread(1, 1, 1),
    "scalar": np.array(0.75),
    "s": np.array(SPECIALS),
    "p": _rng.uniform(0.2, 4.0, (3, 5)),
    "u": _rng.uniform(-0.95, 0.95, (3, 5)),
    "prob": _rng.uniform(0.01, 0.99, (3, 5)),
    "edge": np.array([0.0, 1.0, 0.5, 1e-3, 0.999]),
    "edget": np.array([0.0, 1.0, 0.0, 1.0, 1.0]),
    "e": np.zeros((0, 4)),
    "e2": np.zeros((3, 0)),
    "cube": _spread(2, 3, 4),
    "tcube": _ties(2, 3, 4),
    "base": _spread(6, 4, 5),
    "m": _spread(4, 3),
    "m2": _spread(3, 6),
    "sq": _spread(4, 4),
    "bm": _spread(2, 4, 3),
    "bm2": _spread(2, 3, 5),
    "sig": _spread(2, 3, 11),
    "im": _spread(2, 4, 7, 6),
    "tim": _ties(2, 3, 6, 7),
    "vol": _spread(2, 2, 4, 5, 4),
    "k1": _spread(4, 3, 3),
    "k2": _spread(6, 4, 3, 2),
    "k2g": _spread(6, 2, 3, 3),
    "k2d": _spread(8, 1, 3, 3),
    "k3": _spread(3, 2, 2, 3, 2),
    "kt1": _spread(3, 4, 3),
    "kt2": _spread(4, 5, 3, 2),
    "kt2g": _spread(4, 2, 3, 3),
    "kt3": _spread(2, 3, 2, 2, 3),
    "b4": _spread(4),
    "b6": _spread(6),
    "b5": _spread(5),
    "w64": _spread(6, 4),
    "g3": _spread(3),
    "h3": _spread(3),
    "rm3": _spread(3) * 0.1,
    "rv3": _rng.uniform(0.5, 2.0, 3),
    "logits": _spread(5, 4),
    "seg": _spread(2, 4, 3, 3),
    "soft": _rng.dirichlet(np.ones(4), 5),
    "cw": _rng.uniform(0.5, 2.0, 4),
    "table": _spread(7, 3),
    "att": _spread(2, 3, 5, 4),
    "keys": _spread(2, 3, 6, 4),
    "vals": _spread(2, 3, 6, 5),
    "i": _rng.integers(-5, 6, (3, 5)),
    "j": np.array([[3, -2, 5, 1, 7], [2, 2, -3, 4, 1], [1, -1, 6, 2, 3]]),
    "idx": _rng.integers(0, 3, (2, 5)),
    "idx5": _rng.integers(0, 5, (3, 4)),
    "pos": np.array([2, 0, 2, 1]),
    "labels": np.array([0, 3, 1, 2, 3]),
    "ignored": np.array([0, -100, 1, -100, 3]),
    "seglabels": _rng.integers(0, 4, (2, 3, 3)),
    "words": _rng.integers(0, 7, (3, 4)),
    "pm": np.sign(_spread(3, 5)),
    "pm5": np.sign(_spread(5)),
    "b": _rng.random((3, 5)) < 0.5,
    "b2": _rng.random((3, 5)) < 0.5,
    "none": np.zeros((3, 5), bool),
    "byte": _rng.integers(0, 256, (3, 5)).astype(np.uint8),
    "short": _rng.integers(-100, 100, (3, 5)).astype(np.int16),
}  # fmt: skip
NO_GRADIENT = {"pm", "pm5", "soft", "cw", "edget", "rm3", "rv3"}
NAMES = re.compile(r"\b(" + "|".join(INPUTS) + r")\b")


def _leaves(names, library, dtype):
    made = {}
    for name in names:
        array = INPUTS[name]
        floating = array.dtype.kind == "f"
        if library is torch:
            tensor = torch.tensor(array.astype(dtype) if floating else array)
        else:
            tensor = avalon.tensor(array.astype(dtype) if floating else array)
        if floating and name not in NO_GRADIENT:
            tensor.requires_grad_()
        made[name] = tensor
    return made


def _flat(result):
    if isinstance(result, (tuple, list)):
        return [leaf for part in result for leaf in _flat(part)]
    return [result]


def _numbers(value):
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, avalon.Tensor):
        return value.detach().numpy()
    return np.asarray(value)


def _cotangent(array):
    rng = np.random.default_rng(zlib.crc32(str(array.shape).encode()))
    return rng.uniform(0.5, 1.5, array.shape).astype(array.dtype)


def _evaluate(expression, library, dtype):
    """Outputs as arrays, and gradients by name."""
    names = sorted(set(NAMES.findall(expression)))
    leaves = _leaves(names, library, dtype)
    scope = {
        "T": library,
        "F": library.nn.functional,
        "nn": library.nn,
        "inf": np.inf,
        "nan": np.nan,
    }
    if library is avalon:
        default = avalon.get_default_dtype()
        avalon.set_default_dtype(avalon.float64 if dtype == np.float64 else avalon.float32)
    else:
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64 if dtype == np.float64 else torch.float32)
    try:
        outputs = _flat(eval(expression, scope, dict(leaves)))
        arrays = [_numbers(output) for output in outputs]
        loss = None
        for output, array in zip(outputs, arrays, strict=True):
            if getattr(output, "requires_grad", False):
                weight = _cotangent(array)
                weight = torch.tensor(weight) if library is torch else avalon.tensor(weight)
                term = (output * weight).sum()
                loss = term if loss is None else loss + term
        if loss is not None:
            loss.backward()
    finally:
        if library is avalon:
            avalon.set_default_dtype(default)
        else:
            torch.set_default_dtype(default)
    gradients = {
        name: None if leaf.grad is None else _numbers(leaf.grad)
        for name, leaf in leaves.items()
        if leaf.requires_grad
    }
    return arrays, gradients


def _close(what, expected, found, dtype):
    assert found.shape == expected.shape, f"{what}: shape {found.shape}, expected {expected.shape}"
    if expected.dtype.kind == "f":
        assert found.dtype == expected.dtype, f"{what}: {found.dtype}, expected {expected.dtype}"
        relative = 1e-9 if expected.dtype == np.float64 else 2e-5
        np.testing.assert_allclose(
            found, expected, rtol=relative, atol=relative, equal_nan=True, err_msg=what
        )
    else:
        assert found.dtype == expected.dtype, f"{what}: {found.dtype}, expected {expected.dtype}"
        np.testing.assert_array_equal(found, expected, err_msg=what)


def compare(kind, expression):
    """Assert that an expression gives the same in both libraries, in both float types."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for dtype in (np.float64, np.float32):
            try:
                expected, slopes = _evaluate(expression, torch, dtype)
            except Exception as error:
                _must_raise(expression, dtype, error)
                COUNTS[f"{kind}: errors"] += 1
                continue
            found, gradients = _evaluate(expression, avalon, dtype)
            assert len(found) == len(expected)
            for position, (one, other) in enumerate(zip(expected, found, strict=True)):
                _close(f"{expression} output {position}", one, other, dtype)
            for name, slope in slopes.items():
                gradient = gradients[name]
                if slope is None or gradient is None:
                    # PyTorch gives zeros in some places where others give nothing
                    for given in (slope, gradient):
                        assert given is None or not given.any(), f"{expression}: gradient of {name}"
                else:
                    _close(f"{expression} gradient of {name}", slope, gradient, dtype)
                    COUNTS[f"{kind}: gradients"] += 1
    COUNTS[f"{kind}: cases"] += 1


def _must_raise(expression, dtype, error):
    try:
        found, _ = _evaluate(expression, avalon, dtype)
    except Exception as ours:
        assert isinstance(ours, (type(error), RuntimeError, ValueError, TypeError, IndexError)), (
            ours
        )
        return
    raise AssertionError(f"{expression}: PyTorch raises {error!r}, Avalon gives {found}")


def lines(text):
    """The cases of a table: one expression per line."""
    return [line.strip() for line in text.strip().splitlines() if line.strip()]
