"""Data: sets, loaders, files. `from avalon.data import DataLoader` by PyTorch's names."""

from avalon.data.dataset import Dataset, IterableDataset, Subset, TensorDataset, random_split
from avalon.data.idx import read_idx
from avalon.data.images import Split, digits, load_images, mnist
from avalon.data.loader import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    default_collate,
)
