"""ResNet-50 and -101 (He et al. 2016) without their classifier; a stride is that of the 3x3 convolution."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pydet.models.packed import PackedConv2d

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
EXPANSION = 4

Norm = Callable[[int], nn.Module]


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation whose four vectors are constants: a pretrained backbone sees too few pictures at once."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight: Tensor
        self.bias: Tensor
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


@torch.no_grad()
def fold_into(owner: nn.Module, conv_name: str, norm_name: str) -> None:
    """conv and norm of a module become a convolution with a bias and nothing."""
    conv, norm = getattr(owner, conv_name), getattr(owner, norm_name)
    if isinstance(norm, nn.Identity):
        return
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    folded = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, device=conv.weight.device
    )
    folded.weight.copy_(conv.weight.double() * scale[:, None, None, None])
    folded.bias.copy_(norm.bias.double() - norm.running_mean.double() * scale)  # type: ignore[union-attr]
    setattr(owner, conv_name, folded.to(conv.weight.dtype).requires_grad_(conv.weight.requires_grad))
    setattr(owner, norm_name, nn.Identity())


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and the way around them (figure 5, right)."""

    def __init__(self, channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        out = width * EXPANSION
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = norm(out)
        self.relu1, self.relu2, self.relu3 = (nn.ReLU(inplace=True) for _ in range(3))
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), norm(out))

    def forward(self, x: Tensor) -> Tensor:
        around = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        if isinstance(self.conv3, PackedConv2d):
            return self.conv3.add_to(around, x)  # `around` is of no more use: it was made here or by the block before
        return self.relu3(self.bn3(self.conv3(x)) + around)

    def fold(self) -> None:
        """Moves its batch normalisations into the convolutions before them and the ReLUs behind, for evaluation."""
        for number in ("1", "2", "3"):
            fold_into(self, "conv" + number, "bn" + number)
            setattr(self, "conv" + number, PackedConv2d(getattr(self, "conv" + number), relu=True))
            setattr(self, "relu" + number, nn.Identity())
        if self.downsample is not None:
            fold_into(self.downsample, "0", "1")


class ResNet(nn.Module):
    """Gives the outputs C3, C4, C5 of its last three stages, strides 8, 16 and 32.

    Args:
        depth: 50 or 101.
        norm: nn.BatchNorm2d or FrozenBatchNorm2d.
        width: channels of the first stage; the outputs have 8, 16 and 32 times as many.
    """

    def __init__(self, depth: int = 50, norm: Norm = nn.BatchNorm2d, width: int = 64) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"ResNet: depth must be one of {', '.join(map(str, BLOCKS))}, got {depth}")
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(width)
        self.relu: nn.Module = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        blocks = BLOCKS[depth]
        self.layer1 = self._stage(width, width, blocks[0], 1, norm)
        self.layer2 = self._stage(width * EXPANSION, width * 2, blocks[1], 2, norm)
        self.layer3 = self._stage(width * 2 * EXPANSION, width * 4, blocks[2], 2, norm)
        self.layer4 = self._stage(width * 4 * EXPANSION, width * 8, blocks[3], 2, norm)
        self.out_channels = [width * 2**stage * EXPANSION for stage in (1, 2, 3)]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(channels: int, width: int, blocks: int, stride: int, norm: Norm) -> nn.Sequential:
        first = Bottleneck(channels, width, stride, norm)
        return nn.Sequential(first, *(Bottleneck(width * EXPANSION, width, 1, norm) for _ in range(blocks - 1)))

    def fold(self) -> None:
        """Moves all batch normalisations into the convolutions before them, for evaluation."""
        fold_into(self, "conv1", "bn1")
        self.conv1, self.relu = PackedConv2d(self.conv1, relu=True), nn.Identity()
        for module in self.modules():
            if isinstance(module, Bottleneck):
                module.fold()

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        c2 = self.layer1(x)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return [c3, c4, self.layer4(c4)]
