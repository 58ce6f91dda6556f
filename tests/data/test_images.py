"""The bundled digits and folders of MNIST files: shapes, splits, and the errors of bad folders."""

import gzip
import struct
import sys

import numpy as np
import pytest

from avalon.data.images import digits, load_images, mnist
from avalon.errors import DataError


def write_pair(folder, part, count, labels=None, suffix=""):
    pictures = np.arange(count * 6, dtype=np.uint8).reshape(count, 2, 3)
    digits = np.arange(count if labels is None else labels, dtype=np.uint8) % 10
    pack = gzip.compress if suffix else bytes
    for name, array in (("images-idx3", pictures), ("labels-idx1", digits)):
        header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (folder / f"{part}-{name}-ubyte{suffix}").write_bytes(pack(header + array.tobytes()))


def test_digits_split_and_range():
    (images, labels), (test_images, test_labels) = digits()
    assert images.shape == (1437, 1, 28, 28)
    assert test_images.shape == (360, 1, 28, 28)
    assert images.dtype == np.float32
    assert labels.dtype == np.int64
    assert (images.min(), images.max()) == (0, 1)
    assert sorted(np.unique(test_labels)) == list(range(10))
    assert images[:, :, :2].max() == 0
    np.testing.assert_array_equal(images[:, :, 2:26:3, 2:26:3], images[:, :, 4:28:3, 4:28:3])


def test_digits_without_scikit_learn_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'avalon\[train\]'"):
        digits()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_one_pair_of_files_is_cut_at_four_fifths(tmp_path, suffix):
    write_pair(tmp_path, "t10k", 10, suffix=suffix)
    train, test = load_images(tmp_path)
    assert train[0].shape == (8, 1, 2, 3)
    np.testing.assert_array_equal(train[1], np.arange(8))
    np.testing.assert_array_equal(test[1], [8, 9])
    np.testing.assert_allclose(test[0].ravel(), np.arange(48, 60) / 255, rtol=1e-6)


def test_two_pairs_of_files_are_the_published_split(tmp_path):
    write_pair(tmp_path, "train", 7)
    write_pair(tmp_path, "t10k", 3, suffix=".gz")
    train, test = mnist(tmp_path)
    assert (len(train[0]), len(test[0])) == (7, 3)


def test_missing_folder_and_files(tmp_path):
    with pytest.raises(DataError, match="there is no folder .*or train on 'digits'"):
        mnist(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no MNIST files: expected train-images-idx3-ubyte"):
        mnist(tmp_path)


def test_images_without_labels(tmp_path):
    write_pair(tmp_path, "t10k", 4)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="no labels beside it: expected t10k-labels-idx1-ubyte"):
        mnist(tmp_path)


def test_counts_that_do_not_match(tmp_path):
    write_pair(tmp_path, "t10k", 4, labels=5)
    with pytest.raises(DataError, match=r"4 images in .* against 5 labels in"):
        mnist(tmp_path)


def test_files_exchanged(tmp_path):
    write_pair(tmp_path, "t10k", 4)
    images, labels = tmp_path / "t10k-images-idx3-ubyte", tmp_path / "t10k-labels-idx1-ubyte"
    images.rename(tmp_path / "other")
    labels.rename(images)
    (tmp_path / "other").rename(labels)
    with pytest.raises(DataError, match="Are the two files exchanged"):
        mnist(tmp_path)
