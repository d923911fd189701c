"""What all layers of a Darknet network have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pydet.models.darknet.cfg import Section
from pydet.wordtree import WordTree

Shape: TypeAlias = tuple[int, int, int]  # channels, height, width

# A cfg may come from a stranger. YOLOv1, the biggest known network, has 197 million weights; Darknet itself counts the
# outputs of a layer in an int.
MAX_WEIGHTS = 2**29
MAX_OUTPUTS = 2**31 - 1


def _linear(x: Tensor) -> Tensor:
    return x


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu_(x, 0.1)


# All in place: each is applied to a tensor that its layer has just made. None is a lambda, which cannot be pickled.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": _linear,
    "leaky": _leaky,
    "logistic": torch.sigmoid_,
    "relu": F.relu_,
}


@dataclass
class Before:
    """What a section may look at while its layer is built: the network up to there."""

    input_shape: Shape
    batch_norm: str = "cuda"
    strides: list[Fraction] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    tree: WordTree | None = None

    @property
    def index(self) -> int:
        """Index of the layer that is being built; 0 is the first one after [net]."""
        return len(self.shapes)

    def shape(self, index: int) -> Shape:
        """Of the output of a layer; -1 is the network's input."""
        return self.shapes[index] if index >= 0 else self.input_shape

    def resolve(self, section: Section, key: str, value: int) -> int:
        """Absolute index of the layer that `value` means: negative counts from this layer, others from the first."""
        index = value if value >= 0 else self.index + value
        if not 0 <= index < self.index:
            what = "itself" if index == self.index else f"layer {index}"
            raise section.error(f"{key}={value} refers to {what}, only layers before layer {self.index} can be used")
        return index


class Layer(nn.Module):
    """A section at work. A new kind of layer is a subclass of this and an entry in `LAYERS`.

    Its constructor takes the section and the network before it; `forward` takes the outputs of `sources`.
    """

    # How many times coarser the output is than the input.
    stride = Fraction(1)

    def __init__(self, section: Section, before: Before, sources: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.section = section
        # Indices of the layers whose outputs it takes: the one before it, unless it says otherwise. -1: the input.
        self.sources = (before.index - 1,) if sources is None else sources

    def output_shape(self, *shapes: Shape) -> Shape:
        """Of the output, from the shapes of the inputs. Raises CfgError for those it cannot take."""
        return shapes[0]

    def darknet_tensors(self) -> dict[str, Tensor]:
        """Its numbers by name, in the order of a `.weights` file."""
        return {}

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.section.options.items())


def activation_of(section: Section, default: str) -> tuple[str, Callable[[Tensor], Tensor]]:
    """The name and the function."""
    name = section.text("activation", default)
    if name not in ACTIVATIONS:
        raise section.error(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name[:40]!r}")
    return name, ACTIVATIONS[name]
