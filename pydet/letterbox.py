"""Darknet's letterbox: a picture scaled into the network's input with its aspect kept, and the way back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pydet.ops.resample import Taps, resample
from pydet.placement import Placement


def scaled_size(size: tuple[int, int], network_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) that a picture of `size` takes inside of `network_size`, both (height, width) in pixels.

    Integer division and a comparison in float32, as in Darknet, but never less than one pixel: Darknet shows the
    network nothing at all of a picture that is hundreds of times longer than wide.
    """
    (height, width), (net_height, net_width) = size, network_size
    if np.float32(net_width) / np.float32(width) < np.float32(net_height) / np.float32(height):
        return max(height * net_width // width, 1), net_width
    return net_height, max(width * net_height // height, 1)


def letterbox(image: Tensor, network_size: tuple[int, int], out: Tensor | None = None) -> Tensor:
    """Scales a picture into the middle of a grey (0.5) one.

    Args:
        image: [C, height, width], floating point in 0..1 or uint8 in 0..255.
        network_size: (height, width) in pixels.
        out: Where the result is written, [C, *network_size] of any floating type, such as a part of a batch.

    Returns:
        `out`, or a new [C, *network_size], float32 in 0..1 (float64 for float64).
    """
    _check_image("letterbox", image)
    size = image.shape[1], image.shape[2]
    height, width = scaled_size(size, network_size)
    top, left = (network_size[0] - height) // 2, (network_size[1] - width) // 2
    if out is None:
        dtype = torch.float64 if image.dtype == torch.float64 else torch.float32
        out = image.new_empty((image.shape[0], *network_size), dtype=dtype)
    for margin in (out[:, :top], out[:, top + height :], out[..., :left], out[..., left + width :]):
        if margin.numel():
            margin.fill_(0.5)
    inside = out[:, top : top + height, left : left + width]
    bilinear(image, *resize_taps(size, (height, width)), inside)
    return out


def stretch(image: Tensor, network_size: tuple[int, int], out: Tensor | None = None) -> Tensor:
    """A picture [C, height, width] resized to `network_size`, its aspect lost: what YOLO's first version looks at."""
    _check_image("stretch", image)
    return bilinear(image, *resize_taps((image.shape[1], image.shape[2]), network_size), out)


def bilinear(image: Tensor, rows: Taps, columns: Taps, out: Tensor | None = None) -> Tensor:
    """A picture [C, height, width] looked at where the taps say: floating point [C, len(rows), len(columns)] in 0..1.

    Without rounding to whole grey levels, as Darknet's.
    """
    return resample(image, rows, columns, out)


def placement(sizes: Sequence[tuple[int, int]], network_size: tuple[int, int], stretched: bool = False) -> Placement:
    """Where letterboxed, or stretched, pictures of these (height, width) lie in the network's input.

    As Darknet, it takes the margin as half of what is left over, although `letterbox` rounds it down to whole pixels.
    """
    scaled = [network_size if stretched else scaled_size(size, network_size) for size in sizes]
    offset = [((network_size[1] - w) / 2, (network_size[0] - h) / 2) for h, w in scaled]
    scale = [(size[1] / w, size[0] / h) for size, (h, w) in zip(sizes, scaled, strict=True)]
    return Placement(torch.tensor(offset), torch.tensor(scale), torch.tensor([network_size] * len(sizes)))


def unletterbox_boxes(boxes: Tensor, size: tuple[int, int], network_size: tuple[int, int]) -> Tensor:
    """Boxes [K, 4] xyxy in pixels of the network's input as boxes in pixels of the picture of `size` before."""
    return placement([size], network_size).to_picture(boxes[None])[0]


def _check_image(name: str, image: Tensor) -> None:
    if image.dim() != 3 or image.numel() == 0:
        raise ValueError(f"{name}: image must be [C, height, width] and not empty, got {list(image.shape)}")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise TypeError(f"{name}: image must be uint8 or floating point, got {image.dtype}")


def resize_taps(size: tuple[int, int], new_size: tuple[int, int]) -> tuple[Taps, Taps]:
    """The rows and columns that Darknet's resize looks at, for (height, width) before and after.

    The corner pixels of both pictures coincide.
    """
    rows, columns = (_neighbours(*sides) for sides in zip(size, new_size, strict=True))
    # Two of Darknet's habits. The last column is the picture's last one even where rounding puts it just before; in
    # the same case the last row lacks its second part, so that it is almost black.
    columns.places[:, -1] = size[1] - 1
    rows.parts[1, -1] = 0
    return rows, columns


def _neighbours(size: int, new_size: int) -> Taps:
    """For each of `new_size` pixels the two of `size` around it."""
    step = np.float32(size - 1) / np.float32(max(new_size - 1, 1))
    return taps_at(np.arange(new_size, dtype=np.float32) * step, size)


def taps_at(position: np.ndarray, size: int) -> Taps:
    """The two of `size` pixels around each position, where 0 is the first pixel and there is none behind the last."""
    first = position.astype(np.int64)
    places = np.minimum((first, first + 1), size - 1)
    part = position - places[0].astype(np.float32)
    return Taps(places, np.stack((1 - part, part)))
