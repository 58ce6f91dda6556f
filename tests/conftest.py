"""What all tests share: one thread for the oracle, so that it does not fight the library for cores."""

import torch

torch.set_num_threads(1)
