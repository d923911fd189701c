"""VGG-16 (Simonyan and Zisserman 2015), configuration D."""

from __future__ import annotations

from torch import nn

# Table 1, D: the channels of the convolutions between two max pools.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16_stages() -> list[list[nn.Module]]:
    """The five stages: 3x3 convolutions with their ReLUs; what pools them stands between, and is its user's choice."""
    stages, channels = [], 3
    for widths in STAGES:
        stage: list[nn.Module] = []
        for width in widths:
            stage += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        stages.append(stage)
    return stages
