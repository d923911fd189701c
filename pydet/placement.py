"""Where pictures lie in the input of a network, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Placement:
    """Where pictures lie in a batch: picture = (batch - offset) * scale, in pixels.

    Attributes:
        offset: [B, 2] x and y, in pixels of the network's input.
        scale: [B, 2] x and y, pixels of the picture for one of the network's input.
        size: [B, 2] height and width of what they take of the network's input, margins included.
    """

    offset: Tensor
    scale: Tensor
    size: Tensor

    def to_picture(self, boxes: Tensor) -> Tensor:
        """Boxes [B, K, 4] xyxy of the network's input as boxes of the pictures."""
        corners = boxes.unflatten(-1, (2, 2))
        offset, scale = (t.to(boxes.device, boxes.dtype)[:, None, None] for t in (self.offset, self.scale))
        return ((corners - offset) * scale).flatten(-2)

    def to_batch(self, boxes: Tensor, images: Tensor) -> Tensor:
        """The way there: boxes [G, 4] xyxy of the pictures, the picture of each in `images` [G]."""
        offset, shrink = (t.to(boxes.device, boxes.dtype).repeat(1, 2)[images] for t in (self.offset, 1 / self.scale))
        return boxes * shrink + offset
