"""The convolutional network trained the PyTorch way: a module, a loader, a loop written by hand.

    python examples/cnn.py [--epochs 10] [--data FOLDER_OF_MNIST_FILES]

`avalon train cnn` trains the same network with `av.fit`. Here nothing is hidden: to move a script
from PyTorch, change its imports to these.
"""

import argparse
import time

import avalon as av
import avalon.nn.functional as F
from avalon import nn
from avalon.data import DataLoader, TensorDataset, load_images


class Net(nn.Module):
    """Two convolutions with pooling, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(4 * 4 * 50, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: av.Tensor) -> av.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.reshape(-1, 4 * 4 * 50)))
        return F.log_softmax(self.fc2(x), dim=1)


def main() -> None:
    """Train, and test after each epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()

    av.manual_seed(0)
    train, test = load_images(options.data)
    batches = DataLoader(TensorDataset(*train), batch_size=32, shuffle=True)
    test_images, test_labels = map(av.tensor, test)

    net = Net()
    optimizer = av.optim.Adam(net.parameters(), lr=1e-3)

    for epoch in range(options.epochs):
        start = time.perf_counter()
        net.train()
        for images, labels in batches:
            optimizer.zero_grad()
            loss = F.nll_loss(net(images), labels)
            loss.backward()
            optimizer.step()

        net.eval()
        with av.no_grad():
            right = (net(test_images).argmax(dim=1) == test_labels).float().mean().item()
        seconds = time.perf_counter() - start
        print(f"epoch {epoch + 1}: test accuracy {right:.2%}, {seconds:.1f} s")


if __name__ == "__main__":
    main()
