"""VGG-16 (Simonyan and Zisserman 2015), configuration D."""

from __future__ import annotations

from torch import nn

# Table 1, D: the channels of the convolutions between two max pools.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16_stages(width: int = 64) -> list[list[nn.Module]]:
    """The five stages: 3x3 convolutions with their ReLUs; what pools them stands between, and is its user's choice.

    Args:
        width: channels of the first stage; the others have in proportion.
    """
    stages, channels = [], 3
    for widths in STAGES:
        stage: list[nn.Module] = []
        for out in (width * each // STAGES[0][0] for each in widths):
            conv = nn.Conv2d(channels, out, 3, padding=1)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # else 13 layers without normalisation lose all
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            stage += [conv, nn.ReLU(inplace=True)]
            channels = out
        stages.append(stage)
    return stages
