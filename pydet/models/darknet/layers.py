"""The layers of a Darknet network without weights of their own; those that find objects are in `heads`."""

from __future__ import annotations

from fractions import Fraction
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from pydet.models.darknet.activations import activation_of
from pydet.models.darknet.base import MAX_OUTPUTS, Before, Layer, Shape
from pydet.models.darknet.cfg import Section
from pydet.ops.max_pool_2x2 import max_pool_2x2


class MaxPool(Layer):
    """Maximum over windows that start at i * stride - padding // 2; what lies outside of the map does not count.

    Attributes:
        is_done: Whether the layer before it has pooled the map.
    """

    unsupported = MappingProxyType({"maxpool_depth": 0, "antialiasing": 0, "stride_x": -1, "stride_y": -1})

    def __init__(self, section: Section, before: Before) -> None:
        super().__init__(section, before)
        self.step = section.integer("stride", 1, at_least=1)
        self.size = section.integer("size", self.step, at_least=1)
        self.padding = section.integer("padding", self.size - 1, at_least=0)
        self.stride = Fraction(self.step)
        self.is_done = False

    @property
    def halves(self) -> bool:
        """Whether windows of 2 x 2 lie side by side, an odd last row or column by itself."""
        return (self.size, self.step, self.padding) == (2, 2, 1)

    def output_shape(self, *shapes: Shape) -> Shape:
        channels, height, width = shapes[0]
        if channels * (height + self.padding) * (width + self.padding) > MAX_OUTPUTS:
            raise self.section.error(f"{height}x{width} padded by {self.padding} is too large")
        out_height, out_width = ((n + self.padding - self.size) // self.step + 1 for n in (height, width))
        if out_height < 1 or out_width < 1:  # not their minimum: of symbols that depends on which is smaller
            padded = f"{height}x{width} padded by {self.padding}"
            raise self.section.error(f"a window of {self.size} does not fit into {padded}")
        return channels, out_height, out_width

    def forward(self, x: Tensor) -> Tensor:
        if self.is_done:
            return x
        _, height, width = self.output_shape((x.shape[1], x.shape[2], x.shape[3]))
        if self.size == 2 and self.step <= 2 and self.padding < 2:
            return max_pool_2x2(x, self.step, (height, width))
        before = self.padding // 2
        # What the last window needs beyond the map; negative where the last rows or columns are not looked at.
        bottom = (height - 1) * self.step + self.size - before - x.shape[2]
        right = (width - 1) * self.step + self.size - before - x.shape[3]
        if before or bottom > 0 or right > 0:
            x = F.pad(x, (before, max(right, 0), before, max(bottom, 0)), value=-torch.inf)
        return F.max_pool2d(x, self.size, self.step)


class Upsample(Layer):
    """Every pixel becomes stride x stride pixels, multiplied by `scale`."""

    def __init__(self, section: Section, before: Before) -> None:
        super().__init__(section, before)
        self.factor = section.integer("stride", 2, at_least=1)
        self.scale = section.number("scale", 1)
        self.stride = Fraction(1, self.factor)

    def output_shape(self, *shapes: Shape) -> Shape:
        channels, height, width = shapes[0]
        return channels, height * self.factor, width * self.factor

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=self.factor, mode="nearest")
        return x if self.scale == 1 else x * self.scale


class Route(Layer):
    """The outputs of earlier layers, their channels one after another."""

    unsupported = MappingProxyType({"groups": 1})

    def __init__(self, section: Section, before: Before) -> None:
        indices = [before.resolve(section, "layers", value) for value in section.integers("layers")]
        super().__init__(section, before, tuple(indices))

    def output_shape(self, *shapes: Shape) -> Shape:
        sizes = [shape[1:] for shape in shapes]
        if any(size != sizes[0] for size in sizes[1:]):
            listed = ", ".join(f"{h}x{w} of layer {i}" for i, (h, w) in zip(self.sources, sizes, strict=True))
            raise self.section.error(f"maps of different sizes cannot be joined: {listed}")
        return sum(shape[0] for shape in shapes), *shapes[0][1:]

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1)


class Shortcut(Layer):
    """The output before it plus that of an earlier layer, over the channels that both have, then the activation.

    Where they meet it is alpha times the one plus beta times the other. If one map is a multiple of the other in size,
    each pixel of the smaller one meets the first of its block in the larger one.
    """

    def __init__(self, section: Section, before: Before) -> None:
        if "," in section.text("from"):
            raise section.error(f"from must be one layer, got {section.text('from')[:40]!r}")
        origin = before.resolve(section, "from", section.integer("from"))
        super().__init__(section, before, (before.index - 1, origin))
        _, self.activate = activation_of(section, "linear")
        self.alpha, self.beta = section.number("alpha", 1), section.number("beta", 1)

    def output_shape(self, *shapes: Shape) -> Shape:
        (_, height, width), (_, from_height, from_width) = shapes
        if self._steps(height, from_height) != self._steps(width, from_width):
            raise self.section.error(
                f"{from_height}x{from_width} of layer {self.sources[1]} cannot be added to {height}x{width}"
            )
        return shapes[0]

    @staticmethod
    def _steps(size: int, from_size: int) -> tuple[int, int]:
        """Distance of the pixels that meet, in the output and in the other map."""
        return max(size // from_size, 1), max(from_size // size, 1)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        if self.beta != 1:
            other = other * self.beta
        if x.shape == other.shape:
            return self.activate((x if self.alpha == 1 else x * self.alpha) + other)
        step, from_step = self._steps(x.shape[3], other.shape[3])
        channels = min(x.shape[1], other.shape[1])
        height, width = min(x.shape[2], other.shape[2]), min(x.shape[3], other.shape[3])
        x = x.clone()
        target = x[:, :channels, : height * step : step, : width * step : step]
        if self.alpha != 1:
            target *= self.alpha
        target += other[:, :channels, : height * from_step : from_step, : width * from_step : from_step]
        return self.activate(x)


class Reorg(Layer):
    """YOLOv2's passthrough in Darknet's order of the elements, which is neither pixel_unshuffle nor space-to-depth."""

    unsupported = MappingProxyType({"flatten": 0, "extra": 0})

    def __init__(self, section: Section, before: Before) -> None:
        super().__init__(section, before)
        self.step = section.integer("stride", 1, at_least=1)
        self.reverse = bool(section.integer("reverse", 0))
        self.stride = Fraction(1, self.step) if self.reverse else Fraction(self.step)

    def output_shape(self, *shapes: Shape) -> Shape:
        (channels, height, width), step = shapes[0], self.step
        # Without reverse, too, the elements are taken as channels / step^2 larger maps.
        if channels % step**2 or (not self.reverse and (height % step or width % step)):
            raise self.section.error(
                f"stride {step} must divide height and width and its square the channels of {channels}x{height}x{width}"
            )
        if self.reverse:
            return channels // step**2, height * step, width * step
        return channels * step**2, height // step, width // step

    def forward(self, x: Tensor) -> Tensor:
        (_, channels, height, width), step = x.shape, self.step
        channels //= step**2
        # By way of one axis: how torch reshapes several at once depends on which divides which, and a program with
        # symbols for sizes would be one for some of them only.
        flat = x.flatten(1)
        if self.reverse:
            x = flat.unflatten(1, (step, step, channels, height, width)).permute(0, 3, 4, 1, 5, 2)
            return x.flatten(1).unflatten(1, (channels, height * step, width * step))
        x = flat.unflatten(1, (channels, height, step, width, step)).permute(0, 3, 5, 1, 2, 4)
        return x.flatten(1).unflatten(1, (channels * step**4, height // step, width // step))


class Crop(Layer):
    """The middle of the map, its values from 0..1 brought to -1..1 unless `noadjust`: how the first cfgs of YOLO begin.

    In training Darknet draws the place, and whether it is flipped; here it is the middle then, too.
    """

    def __init__(self, section: Section, before: Before) -> None:
        super().__init__(section, before)
        self.height = section.integer("crop_height", 1, at_least=1)
        self.width = section.integer("crop_width", 1, at_least=1)
        self.adjusts = not section.integer("noadjust", 0)

    def output_shape(self, *shapes: Shape) -> Shape:
        channels, height, width = shapes[0]
        if height < self.height or width < self.width:
            raise self.section.error(f"{self.height}x{self.width} cannot be cut out of {height}x{width}")
        return channels, self.height, self.width

    def forward(self, x: Tensor) -> Tensor:
        top, left = (x.shape[2] - self.height) // 2, (x.shape[3] - self.width) // 2
        x = x[:, :, top : top + self.height, left : left + self.width]
        return x * 2 - 1 if self.adjusts else x


class Dropout(Layer):
    """Zeroes a part of its input in training; in evaluation it does nothing."""

    def __init__(self, section: Section, before: Before) -> None:
        super().__init__(section, before)
        self.probability = section.number("probability", 0.5)
        if not 0 <= self.probability <= 1:
            raise section.error(f"probability must be in 0..1, got {self.probability}")

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.probability, self.training)
