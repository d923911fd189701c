"""The feature pyramid (Lin et al. 2017) with the two coarser levels of RetinaNet."""

from __future__ import annotations

from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """FPN (Lin et al. 2017) with RetinaNet's two coarser levels: C3, C4, C5 to P3 ... P7, strides 8 to 128.

    Args:
        in_channels: of C3, C4 and C5.
        channels: of each level.
        p6_from_c5: P6 is made of C5, as in the paper, instead of P5.
    """

    def __init__(self, in_channels: list[int], channels: int = 256, p6_from_c5: bool = False) -> None:
        super().__init__()
        self.p6_from_c5 = p6_from_c5
        self.inner_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(c, channels, 1)) for c in in_channels)
        self.layer_blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1)) for _ in in_channels
        )
        coarser = {
            "p6": nn.Conv2d(in_channels[-1] if p6_from_c5 else channels, channels, 3, stride=2, padding=1),
            "p7": nn.Conv2d(channels, channels, 3, stride=2, padding=1),
        }
        self.extra_blocks = nn.ModuleDict(coarser)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        top = self.inner_blocks[-1](features[-1])
        levels = [self.layer_blocks[-1](top)]
        for i in range(len(features) - 2, -1, -1):
            lateral = self.inner_blocks[i](features[i])
            top = lateral + nn.functional.interpolate(top, size=lateral.shape[-2:], mode="nearest")
            levels.insert(0, self.layer_blocks[i](top))
        p6 = self.extra_blocks["p6"](features[-1] if self.p6_from_c5 else levels[-1])
        # Without the ReLU before P7 there would be two linear convolutions in a row (footnote 2).
        return [*levels, p6, self.extra_blocks["p7"](nn.functional.relu(p6))]
