"""Bad arguments of functions: the operation, the shapes and the remedy are in the message."""

import pytest

import avalon as av
import avalon.nn.functional as F

X = av.ones(2, 3)

CASES = [
    (lambda: X @ X, RuntimeError, r"\[matmul\] shapes \(2, 3\) and \(2, 3\).*the first, 3"),
    (lambda: av.mm(X, av.ones(3)), RuntimeError, "expected a matrix and a matrix"),
    (lambda: X @ av.ones(3, 2, dtype=av.float64), RuntimeError, "float32 and avalon.float64"),
    (lambda: F.linear(X, av.ones(4, 5)), RuntimeError, "its last size must be 5"),
    (lambda: F.conv2d(av.ones(1, 2, 5, 5), av.ones(3, 4, 3, 3)), RuntimeError, "2 channels.* 4"),
    (lambda: F.conv2d(av.ones(1, 1, 2, 2), av.ones(1, 1, 3, 3)), RuntimeError, "larger than"),
    (lambda: F.max_pool2d(X, 2), RuntimeError, "expected"),
    (lambda: F.nll_loss(X, av.tensor([0, 3])), IndexError, r"label 3 is out of range.*\[0, 3\)"),
    (lambda: F.nll_loss(X, av.tensor([0])), RuntimeError, r"must have shape \(2,\)"),
    (lambda: F.cross_entropy(X, av.ones(2)), RuntimeError, r"target.long\(\)"),
    (lambda: F.embedding(av.tensor([5]), X), IndexError, "index 5 is out of range"),
    (lambda: F.embedding(X, X), RuntimeError, r"input.long\(\)"),
    (lambda: av.cat([X, av.ones(3, 2)]), RuntimeError, r"shapes \(2, 3\) and \(3, 2\)"),
    (lambda: av.stack([X, av.ones(3)]), RuntimeError, "must be equal; use cat"),
    (lambda: av.gather(X, 1, av.tensor([[7]])), IndexError, "index 7 is out of range"),
    (lambda: av.max(av.zeros(0)), RuntimeError, "no elements"),
    (lambda: av.mean(av.tensor([1, 2])), RuntimeError, r"x.float\(\).mean\(\)"),
    (lambda: F.batch_norm(av.ones(1, 3), None, None, training=True), ValueError, "larger batch"),
    (lambda: F.layer_norm(X, (4,)), RuntimeError, r"must end in normalized_shape \(4,\)"),
    (lambda: F.dropout(X, 2.0), ValueError, r"p must lie in \[0, 1\]"),
    (lambda: F.group_norm(X, 2), RuntimeError, "must divide the channels"),
    (lambda: av.einsum("ij,jk", X, X), RuntimeError, "letter 'j'.*sizes 3 and 2"),
    (lambda: av.where(X, X, X), RuntimeError, "must be a bool tensor"),
    (lambda: av.topk(X, 4), RuntimeError, "k = 4 is out of range"),
    (lambda: F.softmax(av.tensor([1, 2]), 0), RuntimeError, r"x.float\(\)"),
    (lambda: F.pad(av.ones(1, 2, 3), (3, 0), mode="reflect"), RuntimeError, "must not exceed 2"),
    (lambda: av.arange(0, 5, 0), RuntimeError, "step must not be zero"),
    (lambda: F.binary_cross_entropy(X, av.ones(2)), ValueError, "must have the shape of the input"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), CASES)
def test_message(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_labels_that_are_not_known_yet_fail_when_they_are():
    labels = av.tensor([0, 1]) + av.tensor([0, 5])
    loss = F.nll_loss(X, labels)
    apart = X * 2  # waits in the same program, and has nothing to do with the labels
    with pytest.raises(IndexError, match="label 6 is out of range"):
        loss.item()
    assert apart.tolist() == [[2.0] * 3] * 2


def test_labels_cut_from_data_are_checked_at_once():
    labels = av.tensor([0, 1, 2, 3, 0, 1])
    assert F.nll_loss(X, labels[1:3]).item() == -1.0
    with pytest.raises(IndexError, match="label 3 is out of range"):
        F.nll_loss(X, labels[2:4])
    with pytest.raises(IndexError, match="label 3 is out of range"):
        F.nll_loss(X, labels.reshape(3, 2).t()[1, :2])


def test_losses_of_other_shapes_warn():
    with pytest.warns(UserWarning, match="rarely meant") as warned:
        loss = F.mse_loss(av.ones(3, 1), 2 * av.ones(3))
    assert "(3, 1)" in str(warned[0].message)
    assert loss.item() == 1.0
