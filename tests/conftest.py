"""What all tests share: one thread for the oracle, so that it leaves the library its cores."""

import torch

torch.set_num_threads(1)
