"""Pictures as SSD and RetinaNet want them: normalised, and stretched or scaled as torchvision does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pydet.placement import Placement


def normalize(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(image - mean) / std of each colour, in float32.

    Args:
        image: [3, height, width], floating point in 0..1 or uint8.
    """
    if image.dim() != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise ValueError(f"normalize: image must be [3, height, width] and not empty, got {list(image.shape)}")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise TypeError(f"normalize: image must be uint8 or floating point, got {image.dtype}")
    pixels = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    return (pixels - pixels.new_tensor(mean)[:, None, None]) / pixels.new_tensor(std)[:, None, None]


def stretch(pictures: Sequence[Tensor], side: int) -> tuple[list[Tensor], Placement]:
    """Pictures [3, height, width] of any sizes as squares of `side` pixels, their aspect lost."""
    resized = [_resize(picture, (side, side)) for picture in pictures]
    return resized, _placement([picture.shape[-2:] for picture in pictures], [(side, side)] * len(pictures))


def short_side(
    pictures: Sequence[Tensor], shortest: int, longest: int, multiple: int = 32
) -> tuple[list[Tensor], Placement]:
    """Pictures scaled so that the short side has `shortest` pixels, or less where the long one would exceed `longest`.

    All get the size of the largest, rounded up to a multiple of the network's coarsest stride; beside and below them
    are zeros.
    """
    scaled = [_resize(picture, _scaled_size(picture.shape[-2:], shortest, longest)) for picture in pictures]
    sizes = [(picture.shape[1], picture.shape[2]) for picture in scaled]
    height, width = (math.ceil(max(side) / multiple) * multiple for side in zip(*sizes, strict=True))
    padded = [F.pad(picture, (0, width - picture.shape[2], 0, height - picture.shape[1])) for picture in scaled]
    return padded, _placement([picture.shape[-2:] for picture in pictures], sizes)


def _scaled_size(size: Sequence[int], shortest: int, longest: int) -> tuple[int, int]:
    scale = min(shortest / min(size), longest / max(size))
    height, width = (max(math.floor(side * scale), 1) for side in size)
    return height, width


def _resize(picture: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(picture[None], size=size, mode="bilinear", align_corners=False)[0]


def _placement(sizes: Sequence[Sequence[int]], scaled: Sequence[tuple[int, int]]) -> Placement:
    # In double precision, so that a scale and its inverse both round to what torchvision multiplies by.
    before, after = (torch.tensor([list(size) for size in s], dtype=torch.float64) for s in (sizes, scaled))
    return Placement(torch.zeros(len(sizes), 2), (before / after).flip(1), torch.tensor(scaled))
