"""LeNet-5 for 28 x 28 images in colour, the network of SPARE's coloured MNIST.

LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition" (1998),
with ReLU and max pooling; a factory for `--backbone own:lenet:lenet5`.
"""

from __future__ import annotations

from torch import nn

__all__ = ["lenet5"]


def lenet5(classes: int = 5) -> nn.Module:
    """Return the network, with random weights.

    Args:
        classes: K.
    """
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )
