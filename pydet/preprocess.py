"""Pictures as SSD and RetinaNet want them: normalised, and stretched or scaled as torchvision does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from pydet.letterbox import taps_at
from pydet.ops.resample import Taps, resample
from pydet.placement import Placement

Size = tuple[int, int]
MULTIPLE = 32  # of which both sides of a batch of `short_side` are: the stride of the last feature map of a ResNet
NewBatch = Callable[[int, int, Size], Tensor]


def _new_batch(count: int, channels: int, size: Size) -> Tensor:
    return torch.empty(count, channels, *size)


def stretch(
    images: Sequence[Tensor],
    side: int,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    new_batch: NewBatch = _new_batch,
) -> tuple[Tensor, Placement]:
    """Pictures of any sizes as squares of `side` pixels, their aspect lost.

    Args:
        images: [3, height, width] each, floating point in 0..1 or uint8.
        mean, std: What is taken off each colour and divided by, in float32, before the size changes; empty for nothing.
        new_batch: Gives memory for so many pictures of so many colours and (height, width).

    Returns:
        [B, 3, side, side], and where the pictures lie in it.
    """
    _check(images)
    batch = new_batch(len(images), 3, (side, side))
    for i, image in enumerate(images):  # batch[i], not a loop over batch: torch gives such rows no gradient
        _resize(image, batch[i], mean, std)
    return batch, _placement([image.shape[-2:] for image in images], [(side, side)] * len(images))


def short_side(
    images: Sequence[Tensor],
    shortest: int,
    longest: int,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    new_batch: NewBatch = _new_batch,
    least: Size = (0, 0),
) -> tuple[Tensor, Placement]:
    """Pictures scaled so that the short side has `shortest` pixels, or less where the long one would exceed `longest`.

    All get the size of the largest, rounded up to a multiple of the network's coarsest stride, and at least that of
    `least`; beside and below them are zeros. Arguments and results are those of `stretch`.
    """
    _check(images)
    sizes = _scaled_sizes(images, shortest, longest)
    height, width = map(max, least, _around(sizes))
    batch = new_batch(len(images), 3, (height, width))
    for i, (image, (rows, columns)) in enumerate(zip(images, sizes, strict=True)):
        place = batch[i]
        place[:, rows:] = 0
        place[:, :rows, columns:] = 0
        _resize(image, place[:, :rows, :columns], mean, std)
    return batch, _placement([image.shape[-2:] for image in images], sizes)


def short_side_size(images: Sequence[Tensor], shortest: int, longest: int) -> Size:
    """(height, width) of the batch that `short_side` makes of such pictures."""
    return _around(_scaled_sizes(images, shortest, longest))


def _check(images: Sequence[Tensor]) -> None:
    for image in images:
        if image.dim() != 3 or image.shape[0] != 3 or image.numel() == 0:
            raise ValueError(f"preprocess: image must be [3, height, width] and not empty, got {list(image.shape)}")
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise TypeError(f"preprocess: image must be uint8 or floating point, got {image.dtype}")


def _scaled_sizes(images: Sequence[Tensor], shortest: int, longest: int) -> list[Size]:
    return [_scaled_size(image.shape[-2:], shortest, longest) for image in images]


def _around(sizes: Sequence[Size]) -> Size:
    """The (height, width) of a batch that has room for all of them."""
    height, width = (math.ceil(max(side) / MULTIPLE) * MULTIPLE for side in zip(*sizes, strict=True))
    return height, width


def _scaled_size(size: Sequence[int], shortest: int, longest: int) -> Size:
    scale = min(shortest / min(size), longest / max(size))
    height, width = (max(math.floor(side * scale), 1) for side in size)
    return height, width


def _resize(image: Tensor, out: Tensor, mean: Sequence[float], std: Sequence[float]) -> None:
    """As `torch.nn.functional.interpolate` with mode "bilinear", to the last bit on a CPU with fused multiply-adds.

    Not with one thread, or for at most 128 rows and columns together, where torch sums in another order.
    """
    image = image.float() if image.dtype == torch.float64 else image
    rows, columns = (_neighbours(image.shape[d], out.shape[d]) for d in (1, 2))
    resample(image, rows, columns, out, mean, std, fuse=True)


def _neighbours(size: int, new_size: int) -> Taps:
    """For each of `new_size` pixels the two of `size` around it: the centres of pixels are scaled."""
    # Rounded once, as torch's fused multiply-add does: in double precision the product is exact.
    centres = np.arange(new_size, dtype=np.float64) + 0.5
    position = (centres * float(np.float32(size) / np.float32(new_size)) - 0.5).astype(np.float32)
    return taps_at(np.maximum(position, 0), size)


def _placement(sizes: Sequence[Sequence[int]], scaled: Sequence[Size]) -> Placement:
    # In double precision, so that a scale and its inverse both round to what torchvision multiplies by.
    before, after = (torch.tensor([list(size) for size in s], dtype=torch.float64) for s in (sizes, scaled))
    return Placement(torch.zeros(len(sizes), 2), (before / after).flip(1), torch.tensor(scaled))
