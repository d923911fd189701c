"""The convolutional layer of a Darknet network, and its batch normalisation."""

from __future__ import annotations

from fractions import Fraction
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pydet.models.darknet.activations import activation_of
from pydet.models.darknet.base import MAX_WEIGHTS, Before, Layer, Shape
from pydet.models.darknet.cfg import Section
from pydet.models.max_pool import MaxPool2x2
from pydet.models.packed import SLOPES, PackedWeight
from pydet.ops.batch_norm_leaky_relu import batch_norm_leaky_relu


class BatchNorm(nn.Module):
    """Batch normalisation with either of Darknet's formulas, which differ in where the epsilon goes.

    "cuda": (x - mean) / sqrt(var + 1e-5), as torch; what networks trained on a GPU have seen.
    "cpu": (x - mean) / (sqrt(var) + 1e-6); only evaluation differs, training is the same for both.

    Attributes:
        momentum: How much of a batch's statistics enters the running ones.
    """

    def __init__(self, channels: int, formula: str) -> None:
        super().__init__()
        self.formula = formula
        self.momentum = 0.01
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Float64 a and b, [C] each, of the a * x + b that evaluation computes."""
        variance = self.running_var.double()
        deviation = variance.sqrt() + 1e-6 if self.formula == "cpu" else (variance + 1e-5).sqrt()
        scale = self.weight.double() / deviation
        return scale, self.bias.double() - self.running_mean.double() * scale

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.with_leaky_relu(x, 1)
        if self.formula == "cpu":
            scale, shift = (t.to(x.dtype)[:, None, None] for t in self.scale_and_shift())
            return torch.addcmul(shift, x, scale)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=1e-5)

    def with_leaky_relu(self, x: Tensor, slope: float) -> Tensor:
        """In training, with what multiplies the result by `slope` where it is below 0."""
        running = self.running_mean, self.running_var
        return batch_norm_leaky_relu(x, running, self.weight, self.bias, self.momentum, 1e-5, slope)


class Convolutional(Layer):
    """Convolution, batch normalisation or bias, activation.

    Attributes:
        pool: the max pooling behind it, where that is done along with it.
    """

    unsupported = MappingProxyType(
        {"binary": 0, "xnor": 0, "flipped": 0, "dilation": 1, "antialiasing": 0, "stride_x": -1, "stride_y": -1}
    )

    def __init__(self, section: Section, before: Before) -> None:
        super().__init__(section, before)
        channels, *_ = before.shape(before.index - 1)
        filters = section.integer("filters", at_least=1)
        size = section.integer("size", 1, at_least=1)
        stride = section.integer("stride", 1, at_least=1)
        padding = section.integer("padding", 0, at_least=0)
        if section.integer("pad", 0):
            padding = size // 2
        groups = section.integer("groups", 1, at_least=1)
        if channels % groups or filters % groups:
            raise section.error(f"groups={groups} must divide its {channels} input channels and {filters} filters")
        count = filters * (channels // groups) * size * size
        if count > MAX_WEIGHTS:
            shape = f"{size}x{size}x{channels // groups}"
            raise section.error(f"{filters} filters of {shape} are {count:,} weights; the limit is {MAX_WEIGHTS:,}")
        self.stride = Fraction(stride)
        self.activation, self.activate = activation_of(section, "logistic")
        normalised = bool(section.integer("batch_normalize", 0))
        self.conv = nn.Conv2d(channels, filters, size, stride, padding, groups=groups, bias=not normalised)
        self.norm = BatchNorm(filters, before.batch_norm) if normalised else None
        self.folded = False
        self.pool: MaxPool2x2 | None = None
        self.packed = PackedWeight()

    def output_shape(self, *shapes: Shape) -> Shape:
        _, height, width = shapes[0]
        size, stride, padding = self.conv.kernel_size[0], self.conv.stride[0], int(self.conv.padding[0])
        out_height, out_width = ((n + 2 * padding - size) // stride + 1 for n in (height, width))
        if out_height < 1 or out_width < 1:
            raise self.section.error(f"a {size}x{size} filter does not fit into {height}x{width} padded by {padding}")
        return self.conv.out_channels, out_height, out_width

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is None:
            return self._forward(x)
        result = self.packed.convolve_and_pool(self.conv, self.activation, x, self.pool)
        return self.pool(self._forward(x)) if result is None else result

    def _forward(self, x: Tensor) -> Tensor:
        if self.norm is None:
            result = self.packed.convolve(self.conv, self.activation, x)
            if result is not None:
                return result
        x = self.conv(x)
        if self.norm is None:
            return self.activate(x)
        if self.training and self.activation in SLOPES and isinstance(self.norm, BatchNorm):
            return self.norm.with_leaky_relu(x, SLOPES[self.activation])
        return self.activate(self.norm(x))

    @torch.no_grad()
    def fold(self) -> None:
        """Moves the batch normalisation into the convolution, for evaluation."""
        if self.norm is None:
            return
        scale, shift = self.norm.scale_and_shift()
        weight = self.conv.weight
        folded = (weight.double() * scale[:, None, None, None]).to(weight.dtype)
        self.conv.weight = nn.Parameter(folded, requires_grad=False)
        self.conv.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)
        self.norm = None
        self.folded = True

    def darknet_tensors(self) -> dict[str, Tensor]:
        stored = ["norm.bias", "norm.weight", "norm.running_mean", "norm.running_var"] if self.norm else ["conv.bias"]
        tensors = self.state_dict(keep_vars=True)
        return {name: tensors[name] for name in [*stored, "conv.weight"]}
