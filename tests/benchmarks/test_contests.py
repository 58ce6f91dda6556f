"""From the same weights all libraries have the same losses: like is compared with like."""

import numpy as np

from benchmarks import cnn


def test_all_libraries_train_the_same_network():
    competitors = cnn.contest().competitors
    losses = {name: [side.train() for _ in range(4)] for name, side in competitors.items()}
    assert losses["avalon"] == losses["avalon loop"]
    for peer in ("torch", "jax"):
        np.testing.assert_allclose(losses["avalon"], losses[peer], rtol=1e-5)
    predictions = {name: side.predict() for name, side in competitors.items()}
    np.testing.assert_array_equal(predictions["avalon"], predictions["avalon loop"])
    for peer in ("torch", "jax"):
        np.testing.assert_allclose(predictions["avalon"], predictions[peer], atol=1e-3)
