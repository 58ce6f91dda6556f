"""A variational autoencoder trained the functional way: a plain object, its gradients, an update.

    python examples/vae.py [--epochs 10] [--data FOLDER_OF_MNIST_FILES]

A model is any object with tensors in its fields, and a gradient is an object of the same form:
`gradients.decoder.weight` belongs to `model.decoder.weight`. `avalon train vae` draws, too.
"""

import argparse

import avalon as av
from avalon.data import DataLoader, TensorDataset, load_images
from avalon.zoo.vae import VAE, vae_loss


def cost(model: VAE, images: av.Tensor) -> av.Tensor:
    """What is to become small."""
    return vae_loss(model(images), images)


def main() -> None:
    """Train, and print the mean loss of each epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()

    av.manual_seed(0)
    images = load_images(options.data).train[0].reshape(-1, 784)
    batches = DataLoader(TensorDataset(images), batch_size=100, shuffle=True)

    model = VAE()
    optimizer = av.optim.Adam(lr=1e-3)

    for epoch in range(options.epochs):
        losses = []
        for (batch,) in batches:
            loss, (gradients, _) = av.grad(cost, model, batch)
            av.update(optimizer, model, gradients)
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {sum(losses) / len(losses):.2f}")


if __name__ == "__main__":
    main()
