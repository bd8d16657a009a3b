"""SimConv-1, the small network for coloured digits.

Ahn, Kim and Yun, "Mitigating Dataset Bias by Using Per-sample Gradient" (ICLR 2023).
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from gsr_core.features.kinds import Built, Request
from gsr_core.features.merging import Merge, Written, save_state
from gsr_core.features.preprocessing import ImagePreprocessing

__all__ = ["SIMCONV_PREPROCESSING", "SimConv1", "load_simconv", "write_simconv"]

SIMCONV_PREPROCESSING = ImagePreprocessing(image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class SimConv1(nn.Module):
    """SimConv-1: three 4 x 4 convolutions, global average pooling, 64 features, linear head."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 4)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 32, 4)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 64, 4)
        self.bn3 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(0.5)
        self.pool = nn.AvgPool2d(2)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, K) of images (n, 3, H, W), at least 28 pixels a side."""
        x = self.pool(self.dropout(self.relu(self.bn1(self.conv1(x)))))
        x = self.pool(self.dropout(self.relu(self.bn2(self.conv2(x)))))
        # The authors put ReLU before the normalisation in the third block.
        x = self.dropout(self.bn3(self.relu(self.conv3(x))))
        return self.fc(self.global_pool(x).flatten(1))


def load_simconv(request: Request) -> Built:
    """Return a new SimConv-1.

    Raises:
        SettingError: If weights or arguments are given; it has neither.
    """
    request.without_weights()
    request.without_arguments()
    return Built(SimConv1(request.n_classes or 2), SIMCONV_PREPROCESSING)


def write_simconv(merge: Merge, folder: Path) -> Written:
    """Write the state dict; the class is this module's, so that gsr-core opens it.

    Raises:
        SettingError: If the features are not those before its head.
    """
    save_state(merge.network(), folder)
    factory, arguments = f"{__name__}:SimConv1", {"n_classes": len(merge.classes)}
    about = {"factory": factory, "arguments": arguments, "head": None}
    return Written("of_own", "SimConv1 of gsr-core with model.safetensors", about=about)
