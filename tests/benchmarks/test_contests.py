"""From the same weights all libraries have the same losses: like is compared with like.

JAX forbids its process to fork, which other tests do; so the libraries meet in a process of their
own.
"""

import json
import subprocess
import sys

import numpy as np

PROGRAM = """
import json
from benchmarks import cnn

sides = cnn.contest().competitors
found = {name: [side.train() for _ in range(4)] for name, side in sides.items()}
seen = {name: side.predict().tolist() for name, side in sides.items()}
print(json.dumps([found, seen]))
"""


def test_all_libraries_train_the_same_network():
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stderr
    losses, predictions = json.loads(run.stdout)
    assert losses["avalon"] == losses["avalon loop"]
    for peer in ("torch", "jax"):
        np.testing.assert_allclose(losses["avalon"], losses[peer], rtol=1e-5)
    np.testing.assert_array_equal(predictions["avalon"], predictions["avalon loop"])
    for peer in ("torch", "jax"):
        np.testing.assert_allclose(predictions["avalon"], predictions[peer], atol=1e-3)
