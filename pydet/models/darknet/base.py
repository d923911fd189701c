"""What all layers of a Darknet network have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType
from typing import TypeAlias

from torch import Tensor, nn

from pydet.models.darknet.cfg import Section
from pydet.wordtree import WordTree

Shape: TypeAlias = tuple[int, int, int]  # channels, height, width

# A cfg may come from a stranger. YOLOv1, the biggest known network, has 197 million weights; Darknet itself counts the
# outputs of a layer in an int.
MAX_WEIGHTS = 2**29
MAX_OUTPUTS = 2**31 - 1
MAX_LAYERS = 5000


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
    # What height and width of the network's input must be multiples of, for the coarsest map up to this layer.
    multiple = 1
    # Options of Darknet or of its forks that change what is computed and are not supported, with the value that does
    # no harm. Others that are not known are ignored, as by Darknet.
    unsupported: Mapping[str, float] = MappingProxyType({})

    def __init__(self, section: Section, before: Before, sources: tuple[int, ...] | None = None) -> None:
        super().__init__()
        for key, harmless in {"dontloadscales": 0, "numload": 0, **self.unsupported}.items():
            if section.number(key, harmless) != harmless:
                raise section.error(f"{key}={section.text(key)[:40]} is not supported")
        self.section = section
        self.dontload = bool(section.integer("dontload", 0))
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
