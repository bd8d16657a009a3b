"""Three convolutions and a linear head: a small network whose whole curvature can be asked for.

Of the size of that of ColoredMNIST-S in "Group-robust Sample Reweighting for Subpopulation Shifts
via Influence Functions" (ICLR 2025), of which the paper says no more; a factory for
`--backbone own:conv3:conv3`.
"""

from __future__ import annotations

from torch import nn

__all__ = ["conv3"]


def conv3(channels: int = 3) -> nn.Module:
    """Return the network in two classes, with random weights.

    Args:
        channels: Of an image; 4,850 parameters with two, 4,922 with three.
    """
    return nn.Sequential(
        *(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 2)),
    )
