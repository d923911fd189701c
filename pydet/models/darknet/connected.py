"""The layers of YOLO's first version whose weights belong to a place: connected, and locally connected."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pydet.models.darknet.activations import activation_of
from pydet.models.darknet.base import MAX_WEIGHTS, Before, Layer, Shape
from pydet.models.darknet.cfg import Section
from pydet.models.darknet.convolutional import BatchNorm
from pydet.models.packed import PackedWeight


class Connected(Layer):
    """Every output from every input, batch normalisation or bias, activation. Its map is [B, outputs, 1, 1]."""

    def __init__(self, section: Section, before: Before) -> None:
        super().__init__(section, before)
        channels, height, width = before.shape(before.index - 1)
        self.inputs, self.outputs = channels * height * width, section.integer("output", 1, at_least=1)
        _check_count(section, self.inputs * self.outputs)
        self.activation, self.activate = activation_of(section, "logistic")
        normalised = bool(section.integer("batch_normalize", 0))
        self.linear = nn.Linear(self.inputs, self.outputs, bias=not normalised)
        self.norm = BatchNorm(self.outputs, before.batch_norm) if normalised else None
        self.packed = PackedWeight()

    def output_shape(self, *shapes: Shape) -> Shape:
        channels, height, width = shapes[0]
        if channels * height * width != self.inputs:
            raise self.section.error(f"it was built for {self.inputs} inputs, got a map of {channels}x{height}x{width}")
        return self.outputs, 1, 1

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if self.norm is None:
            result = self.packed.connect(self.linear, self.activation, x)
            if result is not None:
                return result[:, :, None, None]
        x = self.linear(x)[:, :, None, None]
        return self.activate(x if self.norm is None else self.norm(x))

    def darknet_tensors(self) -> dict[str, Tensor]:
        statistics = ["norm.weight", "norm.running_mean", "norm.running_var"] if self.norm else []
        tensors = self.state_dict(keep_vars=True)
        names = ["norm.bias" if self.norm else "linear.bias", "linear.weight", *statistics]
        return {name: tensors[name] for name in names}


class Local(Layer):
    """A convolution with other weights at every place."""

    def __init__(self, section: Section, before: Before) -> None:
        super().__init__(section, before)
        channels, height, width = before.shape(before.index - 1)
        filters = section.integer("filters", 1, at_least=1)
        self.size = section.integer("size", 1, at_least=1)
        self.step = section.integer("stride", 1, at_least=1)
        self.padding = section.integer("pad", 0, at_least=0)  # of pixels, unlike that of a convolution
        # Darknet takes the output to be as large as the input whatever the padding: right for this one only.
        if self.padding and self.size != 2 * self.padding + 1:
            raise section.error(f"size must be 2 * pad + 1, got size={self.size} and pad={self.padding}")
        self.stride = Fraction(self.step)
        self.shape = (channels, height, width)
        rows, columns = self._places(height, width)
        count = rows * columns * filters * channels * self.size**2
        _check_count(section, count)
        self.activation, self.activate = activation_of(section, "logistic")
        self.bias = nn.Parameter(torch.zeros(filters, rows * columns))
        self.weight = nn.Parameter(torch.empty(rows * columns, filters, channels * self.size**2))
        bound = (channels * self.size**2) ** -0.5  # as Darknet
        nn.init.uniform_(self.weight, -bound, bound)

    def _places(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = ((n + 2 * self.padding - self.size) // self.step + 1 for n in (height, width))
        if min(rows, columns) < 1:
            raise self.section.error(f"a {self.size}x{self.size} filter does not fit into {height}x{width}")
        return rows, columns

    def output_shape(self, *shapes: Shape) -> Shape:
        if tuple(shapes[0]) != self.shape:
            built, got = ("x".join(map(str, shape)) for shape in (self.shape, shapes[0]))
            raise self.section.error(f"it was built for a map of {built}, got {got}")
        return self.bias.shape[0], *self._places(*self.shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        windows = F.unfold(x, self.size, padding=self.padding, stride=self.step)  # [B, inputs, places]
        result = torch.bmm(self.weight, windows.permute(2, 1, 0))  # [places, filters, B]
        result = result.permute(2, 1, 0) + self.bias
        return self.activate(result.unflatten(2, self._places(*self.shape[1:])))

    def darknet_tensors(self) -> dict[str, Tensor]:
        return {"bias": self.bias, "weight": self.weight}


def _check_count(section: Section, count: int) -> None:
    if count > MAX_WEIGHTS:
        raise section.error(f"its {count:,} weights are too many; the limit is {MAX_WEIGHTS:,}")
