"""Pictures of any size brought to a network's input, inside of an ONNX file.

The arithmetic is that of `pydet.letterbox` and `pydet.preprocess`, with the size of the pictures as a tensor instead of
numbers, so that one file takes them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Fitted(NamedTuple):
    """Pictures in the network's input: picture = (input - offset) * scale, as in `pydet.placement`.

    Attributes:
        x: [B, 3, height, width].
        offset: [2] x and y.
        scale: [2] x and y.
        size: [2] height and width of what the pictures take of x.
    """

    x: Tensor
    offset: Tensor
    scale: Tensor
    size: Tensor


class _Samples(NamedTuple):
    """Of each pixel along an axis of the result: the two pixels it lies between and their weights, and whether it is
    of the picture at all."""

    first: Tensor
    second: Tensor
    of_first: Tensor
    of_second: Tensor
    inside: Tensor


def letterboxed(images: Tensor, network_size: tuple[int, int], stretched: bool) -> Fitted:
    """As `pydet.letterbox.letterbox`, or as its `stretch`."""
    height, width = (torch.scalar_tensor(images.shape[axis], dtype=torch.int64) for axis in (2, 3))
    rows, columns = (torch.tensor(length) for length in network_size)
    if not stretched:
        wide = columns.float() / width.float() < rows.float() / height.float()
        scaled = (height * columns // width).clamp(min=1), (width * rows // height).clamp(min=1)
        rows, columns = torch.where(wide, scaled[0], rows), torch.where(wide, columns, scaled[1])
    down, across = _corners(height, rows, network_size[0]), _corners(width, columns, network_size[1])
    # Darknet's last column is the picture's, its last row lacks the second part: see `pydet.letterbox.resize_taps`.
    last = torch.arange(network_size[1]) >= (network_size[1] - columns) // 2 + columns - 1
    across = across._replace(first=torch.where(last, width - 1, across.first))
    across = across._replace(second=torch.where(last, width - 1, across.second))
    last = torch.arange(network_size[0]) >= (network_size[0] - rows) // 2 + rows - 1
    down = down._replace(of_second=torch.where(last, 0.0, down.of_second))
    x = torch.where(down.inside[:, None] & across.inside, _interpolated(images, down, across), 0.5)
    taken = torch.stack([columns, rows])
    full = torch.tensor([network_size[1], network_size[0]])
    scale = torch.stack([width, height]).float() / taken.float()
    return Fitted(x, (full - taken).float() / 2, scale, torch.tensor(network_size))


def normalized_square(images: Tensor, side: int, mean: Sequence[float], std: Sequence[float]) -> Fitted:
    """As `pydet.preprocess.stretch`."""
    mean_, std_ = (torch.tensor(list(values))[:, None, None] for values in (mean, std))
    height, width = (torch.scalar_tensor(images.shape[axis], dtype=torch.int64) for axis in (2, 3))
    x = _interpolated((images - mean_) / std_, _centres(height, side), _centres(width, side))
    scale = torch.stack([width, height]).float() / side
    return Fitted(x, torch.zeros(2), scale, torch.tensor([side, side]))


def _corners(size: Tensor, taken: Tensor, length: int) -> _Samples:
    """The corner pixels coincide: `size` pixels on `taken` ones in the middle of `length`."""
    place = torch.arange(length) - (length - taken) // 2
    step = (size - 1).float() / (taken - 1).clamp(min=1).float()
    position = place.clamp(min=0).minimum(taken - 1).float() * step
    return _between(position, size)._replace(inside=(place >= 0) & (place < taken))


def _centres(size: Tensor, length: int) -> _Samples:
    """The centres of the pixels are scaled, as in torch's bilinear interpolation: `size` pixels on `length` ones."""
    position = (torch.arange(length).float() + 0.5) * (size.float() / length) - 0.5
    return _between(position.clamp(min=0), size)


def _between(position: Tensor, size: Tensor) -> _Samples:
    first = position.long().minimum(size - 1)
    after = position - first
    return _Samples(first, (first + 1).minimum(size - 1), 1 - after, after, torch.ones_like(first, dtype=torch.bool))


def _interpolated(images: Tensor, down: _Samples, across: _Samples) -> Tensor:
    upper, lower = (images.index_select(2, rows) for rows in (down.first, down.second))
    upper, lower = (
        line.index_select(3, across.first) * across.of_first + line.index_select(3, across.second) * across.of_second
        for line in (upper, lower)
    )
    return upper * down.of_first[:, None] + lower * down.of_second[:, None]
