"""Small sets of real images, ready for training.

Comes in: nothing (the digits that scikit-learn carries) or a folder of MNIST files. Goes out: a
`Split` of NumPy arrays, images float32 in [0, 1] of shape (N, 1, 28, 28), labels int64 of shape
(N,). Guaranteed: the same split on every machine; bad files are `DataError`s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from avalon.data.idx import read_idx
from avalon.errors import DataError

Array = np.ndarray[Any, Any]


class Split(NamedTuple):
    """Images and labels to train on, and others to test with: each a pair (images, labels)."""

    train: tuple[Array, Array]
    test: tuple[Array, Array]


def digits() -> Split:
    """The 1,797 handwritten digits in scikit-learn: 1,437 to train on, 360 to test with.

    The 8x8 pictures are enlarged three times and framed by two empty pixels, so that they have
    MNIST's 28x28 pixels and one network serves both.

    Raises:
        ModuleNotFoundError: scikit-learn, which holds the pictures, is not installed.

    Source: https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "[digits] the digits come with scikit-learn, which is not installed: "
            "pip install 'avalon[train]'"
        ) from error
    bundle = load_digits()
    pictures = (bundle.images / 16).astype(np.float32)
    pictures = np.pad(pictures.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))
    images, labels = pictures[:, np.newaxis], bundle.target.astype(np.int64)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=360, random_state=0
    )
    return Split((train_images, train_labels), (test_images, test_labels))


def mnist(folder: str | Path) -> Split:
    """The images of a folder of MNIST files, plain or gzipped.

    With both pairs of files, `train-images-idx3-ubyte` and `train-labels-idx1-ubyte` are trained on
    and the `t10k-` pair tests. With one pair, its first 80 % are trained on and the rest tests.
    Fashion-MNIST, KMNIST and their like have the same names and work as well.

    Raises:
        DataError: the folder or its files are missing, damaged, or images and labels do not match.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"[mnist] there is no folder {folder}: give the folder that holds "
            f"t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz, or train on 'digits'"
        )
    pairs = {part: _read_pair(folder, part) for part in ("train", "t10k") if _find(folder, part)}
    if not pairs:
        raise DataError(
            f"[mnist] {folder} holds no MNIST files: expected train-images-idx3-ubyte and "
            f"train-labels-idx1-ubyte, or the t10k- pair, plain or with .gz"
        )
    if len(pairs) == 2:
        return Split(pairs["train"], pairs["t10k"])
    ((images, labels),) = pairs.values()
    cut = len(images) * 4 // 5
    return Split((images[:cut], labels[:cut]), (images[cut:], labels[cut:]))


def load_images(source: str | Path) -> Split:
    """The data that `--data` names on the command line: "digits", or a folder of MNIST files."""
    return digits() if str(source) == "digits" else mnist(source)


def _find(folder: Path, part: str, content: str = "images-idx3") -> Path | None:
    names = (f"{part}-{content}-ubyte", f"{part}-{content.replace('-', '.')}-ubyte")
    candidates = (folder / (name + suffix) for name in names for suffix in ("", ".gz"))
    return next((path for path in candidates if path.exists()), None)


def _read_pair(folder: Path, part: str) -> tuple[Array, Array]:
    image_path = _find(folder, part)
    label_path = _find(folder, part, "labels-idx1")
    assert image_path is not None
    if label_path is None:
        raise DataError(
            f"[mnist] {image_path} has no labels beside it: expected {part}-labels-idx1-ubyte, "
            f"plain or with .gz"
        )
    pictures, labels = read_idx(image_path), read_idx(label_path)
    if pictures.ndim != 3 or labels.ndim != 1:
        raise DataError(
            f"[mnist] expected images (N, height, width) and labels (N,): {image_path} holds shape "
            f"{pictures.shape}, {label_path} {labels.shape}. Are the two files exchanged?"
        )
    if len(pictures) != len(labels):
        raise DataError(
            f"[mnist] {len(pictures)} images in {image_path} against {len(labels)} labels in "
            f"{label_path}: they are not of one set"
        )
    images = (pictures / np.float32(255)).astype(np.float32)[:, np.newaxis]
    return images, labels.astype(np.int64)
