"""A Darknet network as a PyTorch module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor, nn

from pydet.letterbox import letterbox, placement, stretch
from pydet.losses import Targets
from pydet.models.darknet.base import MAX_LAYERS, MAX_OUTPUTS, MAX_WEIGHTS, Before, Layer, Shape
from pydet.models.darknet.cfg import CfgError, Section
from pydet.models.darknet.connected import Connected, Local
from pydet.models.darknet.convolutional import Convolutional
from pydet.models.darknet.heads import Grid, Head, Region, Yolo
from pydet.models.darknet.layers import Crop, Dropout, MaxPool, Reorg, Route, Shortcut, Upsample
from pydet.models.darknet.tree import TreeWalk
from pydet.models.detection import DetectionModel
from pydet.models.max_pool import MaxPool2x2
from pydet.placement import Placement
from pydet.wordtree import WordTree

LAYERS: dict[str, type[Layer]] = {
    "connected": Connected,
    "convolutional": Convolutional,
    "crop": Crop,
    "detection": Grid,
    "dropout": Dropout,
    "local": Local,
    "maxpool": MaxPool,
    "region": Region,
    "reorg": Reorg,
    "route": Route,
    "shortcut": Shortcut,
    "upsample": Upsample,
    "yolo": Yolo,
}
BATCH_NORM_FORMULAS = ("cuda", "cpu")
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in a grey picture: ITU-R BT.601, as in OpenCV and Pillow


class ClassNamesError(ValueError):
    """Names that are not one for each class."""


class Darknet(DetectionModel):
    """The network that the sections of a cfg describe.

    Args:
        sections: [net] first, then a section for every layer: from `read_cfg`, or a definition such as `yolov3()`.
        image_size: (height, width) to work at instead of the cfg's.
        class_names: One for each class; "class 0", ... if None.
        batch_norm: "cuda" or "cpu", the formula of Darknet's build that trained the network (see `BatchNorm`).
        tree: What the classes of a [region] with `tree=` are, instead of the file that it names.

    Attributes:
        sections: What it was built from, with `image_size` put in.
        image_size: (height, width) in pixels that pictures are letterboxed to.
        channels: of its input; 1: RGB pictures are made grey, as Darknet's `load_image` does where one is asked for.
        num_classes: 0 where no layer finds objects.
        weights_header: (major, minor, revision, seen) of the `.weights` file, kept for writing.
        walk: How detections are read off a tree, where there is one.
    """

    def __init__(
        self,
        sections: Sequence[Section],
        image_size: tuple[int, int] | None = None,
        class_names: Sequence[str] | None = None,
        batch_norm: str = "cuda",
        tree: WordTree | None = None,
    ) -> None:
        super().__init__()
        if batch_norm not in BATCH_NORM_FORMULAS:
            raise ValueError(f"Darknet: batch_norm must be one of {', '.join(BATCH_NORM_FORMULAS)}, got {batch_norm!r}")
        self.sections = _own_sections(sections, image_size)
        net = self.sections[0]
        self.image_size = (net.integer("height", at_least=1), net.integer("width", at_least=1))
        self.channels = net.integer("channels", 3, at_least=1)
        self.weights_header = (0, 2, 0, 0)
        self.layers = nn.ModuleList(_build_layers(self.sections, (self.channels, *self.image_size), batch_norm, tree))
        # Per layer, the outputs that no later layer needs: they are dropped at once, which halves the peak of memory.
        self._unneeded = _last_uses([layer.sources for layer in self.layers])  # type: ignore[misc]
        self._checked_sizes: set[tuple[int, int]] = set()
        self.walk = TreeWalk()
        self._check_size(self.image_size)
        self.num_classes = self._count_classes()
        self.class_names = self._check_names(class_names)

    @property
    def heads(self) -> list[Head]:
        """The layers that find objects."""
        return [layer for layer in self.layers if isinstance(layer, Head)]

    @property
    def stretches(self) -> bool:
        """Whether pictures lose their aspect, as for YOLO's first version, instead of being letterboxed."""
        return any(isinstance(head, Grid) for head in self.heads)

    @property
    def tree(self) -> WordTree | None:
        """What the classes are, where they are the nodes of a WordTree."""
        return next((head.tree for head in self.heads if head.tree is not None), None)

    @property
    def fused(self) -> bool:
        """Whether a batch normalisation has been folded away; such a network can neither be trained nor saved."""
        return any(isinstance(layer, Convolutional) and layer.folded for layer in self.layers)

    def fuse(self) -> Darknet:
        """Puts batch normalisation and max pooling into the convolutions before them, for speed; returns self."""
        for layer in self.layers:
            if isinstance(layer, Convolutional):
                layer.fold()
                layer.conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        uses = Counter(source for layer in self.layers for source in layer.sources)  # type: ignore[union-attr]
        for index, (layer, pool) in enumerate(pairwise(self.layers)):
            if isinstance(layer, Convolutional) and isinstance(pool, MaxPool) and pool.halves and uses[index] == 1:
                layer.pool, pool.is_done = MaxPool2x2(ceil_mode=True), True
        return self

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """Raw maps [B, A * (5 + C), H, W] of the heads (of the last layer where there is none).

        Args:
            x: [B, 3, height, width] RGB in 0..1, of any size that the network can take; it is not letterboxed.
        """
        if x.dim() == 4 and x.shape[1] == 3 and self.channels == 1:
            red, green, blue = (part * weight for part, weight in zip(x.split(1, dim=1), LUMA, strict=True))
            x = red + green + blue
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise ValueError(f"Darknet: x must be [B, {self.channels}, height, width], got {list(x.shape)}")
        self._check_size((x.shape[2], x.shape[3]))
        outputs = {-1: x.contiguous(memory_format=torch.channels_last)}
        features = []
        for index, layer in enumerate(self.layers):
            outputs[index] = layer(*[outputs[source] for source in layer.sources])  # type: ignore[union-attr]
            if isinstance(layer, Head):
                features.append(outputs[index])
            for source in self._unneeded[index]:
                del outputs[source]
        return features or [outputs[len(self.layers) - 1]]

    def preprocess(self, images: Sequence[Tensor]) -> tuple[Tensor, Placement]:
        weight = next(self.parameters(), None)
        if weight is None:  # a head may stand alone where only its loss is wanted
            raise self.sections[0].error("no layer of the network has weights")
        device = weight.device
        fit = stretch if self.stretches else letterbox
        # forward_features makes RGB grey. Where one picture is, all of the batch are.
        rgb = self.channels == 1 and any(image.dim() == 3 and image.shape[0] == 3 for image in images)
        for image in images:
            if image.dim() == 3 and image.shape[0] not in (self.channels, 3 * rgb):
                raise ValueError(f"Darknet: images must be [{self.channels}, height, width], got {list(image.shape)}")
        batch = self.new_batch(len(images), 3 if rgb else self.channels, self.image_size)
        for i, image in enumerate(images):  # batch[i], not a loop over batch: torch gives such rows no gradient
            image = image.to(device)
            fit(image.expand(3, -1, -1) if rgb and image.dim() == 3 else image, self.image_size, batch[i])
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        return batch, placement(sizes, self.image_size, self.stretches)

    def predict(self, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        if not self.num_classes:
            raise self.sections[0].error("no layer of the network finds objects")
        boxes, _, scores = self.decode(self.forward_features(x), (x.shape[2], x.shape[3]))
        return boxes, scores

    def detect_batch(
        self, x: Tensor, sizes: Tensor, score_threshold: float, iou_threshold: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if self.tree is None:
            return super().detect_batch(x, sizes, score_threshold, iou_threshold)
        decoded = self.decode(self.forward_features(x), (x.shape[2], x.shape[3]))
        return self.walk.select(*decoded, self.tree, score_threshold, iou_threshold, self.max_detections)

    @property
    def num_labels(self) -> int:
        return self.heads[0].num_labels

    @property
    def label_names(self) -> list[str]:
        nodes = self.walk.nodes
        return self.class_names if self.tree is None or nodes is None else [self.class_names[node] for node in nodes]

    def forward_heads(self, x: Tensor) -> list[Tensor]:
        return self.forward_features(x)

    def loss(self, raw: Sequence[Tensor], targets: Targets, seen: int | None = None) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for head, features in zip(self.heads, raw, strict=True):
            for name, term in head.loss(features, targets, seen).items():
                terms[name] = terms[name] + term if name in terms else term
        return terms

    def decode(
        self, features: Sequence[Tensor], image_size: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All boxes of raw maps, in Darknet's order: head, cell, anchor.

        Args:
            image_size: (height, width) in pixels of the input that gave these maps; None for the network's own.

        Returns:
            boxes [B, N, 4] xyxy in pixels of the network's input, objectness [B, N], scores [B, N, C]; with a tree
            the logits of its nodes instead of scores.
        """
        size = image_size or self.image_size
        decoded = [head.decode(raw, size) for head, raw in zip(self.heads, features, strict=True)]
        if len(decoded) == 1:
            return decoded[0]
        boxes, objectness, scores = (torch.cat(parts, dim=1) for parts in zip(*decoded, strict=True))
        return boxes, objectness, scores

    def _check_size(self, size: tuple[int, int]) -> None:
        """Raises CfgError where the network cannot work on pictures of [height, width] pixels."""
        compiling = torch.compiler.is_compiling()  # there a size may be a symbol, which is in no set
        if not compiling and size in self._checked_sizes:
            return
        before = Before((self.channels, *size))
        for layer in self.layers:
            assert isinstance(layer, Layer)
            _advance(before, layer)
        if not compiling:
            self._checked_sizes.add(size)

    def _count_classes(self) -> int:
        counts = {head.num_classes for head in self.heads}
        if len(counts) > 1:
            last = self.heads[-1].section
            raise last.error(f"all [{last.name}] layers must have the same number of classes, got {sorted(counts)}")
        return counts.pop() if counts else 0

    def _check_names(self, names: Sequence[str] | None) -> list[str]:
        if names is None:
            return [f"class {i}" for i in range(self.num_classes)]
        if len(names) != self.num_classes:
            raise ClassNamesError(
                f"Darknet: class_names must be {self.num_classes} names, one per class, got {len(names)}"
            )
        return list(names)


def _own_sections(sections: Sequence[Section], image_size: tuple[int, int] | None) -> list[Section]:
    """Copies that know their place."""
    if not sections or sections[0].name != "net":
        first = sections[0].error("the first section must be [net]") if sections else CfgError("Darknet: no sections")
        raise first
    if len(sections) == 1:
        raise sections[0].error("there is no layer after [net]")
    copies = [
        Section(s.name, dict(s.options), s.place or f"layer {i} [{s.name}]") for i, s in enumerate(sections, start=-1)
    ]
    if image_size is not None:
        copies[0].options |= {"height": str(image_size[0]), "width": str(image_size[1])}
    return copies


def _build_layers(
    sections: Sequence[Section], input_shape: Shape, batch_norm: str, tree: WordTree | None
) -> list[Layer]:
    if len(sections) - 1 > MAX_LAYERS:
        raise sections[0].error(f"{len(sections) - 1:,} layers are too many; the limit is {MAX_LAYERS:,}")
    before = Before(input_shape, batch_norm, tree=tree)
    _check_outputs(sections[0], input_shape)
    layers: list[Layer] = []
    weights, coarsest = 0, Fraction(1)
    for section in sections[1:]:
        if section.name not in LAYERS:
            raise section.error(f"unknown layer; known ones are {', '.join(LAYERS)}")
        layer = LAYERS[section.name](section, before)
        for source in layer.sources:
            if source >= 0 and isinstance(layers[source], Head):
                raise section.error(f"it takes the output of layer {source} [{layers[source].section.name}], no map")
        weights += sum(tensor.numel() for tensor in layer.darknet_tensors().values())
        if weights > MAX_WEIGHTS:
            raise section.error(f"up to here the network has {weights:,} weights; the limit is {MAX_WEIGHTS:,}")
        layers.append(layer)
        source = layer.sources[0]
        before.strides.append((before.strides[source] if source >= 0 else Fraction(1)) * layer.stride)
        coarsest = max(coarsest, before.strides[-1])
        layer.multiple = coarsest.numerator
        _advance(before, layer)
    return layers


def _advance(before: Before, layer: Layer) -> None:
    """Puts a layer behind those of `before`. Raises CfgError where it cannot be, because of the picture's size."""
    before.shapes.append(_output_shape(before, layer))
    before.sections.append(layer.section)


def _output_shape(before: Before, layer: Layer) -> Shape:
    """Written for numbers that a compiler has only as symbols: each comparison becomes a condition of its program."""
    _, height, width = before.input_shape

    def fits() -> bool:
        return height % layer.multiple == 0 and width % layer.multiple == 0

    try:
        shape = layer.output_shape(*[before.shape(i) for i in layer.sources])
    except CfgError as error:
        raise error if fits() else _size_error(before, layer) from error
    if isinstance(layer, (Yolo, Region)):
        rows, columns = layer.built_for
        if layer.one_size and (height != rows or width != columns):
            raise layer.section.error(f"the network works at {rows}x{columns} only, got {height}x{width}")
        if not layer.one_size and not fits() and (height != rows or width != columns):
            raise _size_error(before, layer)
    _check_outputs(layer.section, shape)
    return shape


def _size_error(before: Before, layer: Layer) -> CfgError:
    _, height, width = before.input_shape
    return layer.section.error(
        f"height and width of the network's input must be multiples of {layer.multiple}, its coarsest stride, "
        f"got {height}x{width}"
    )


def _check_outputs(section: Section, shape: Shape) -> None:
    channels, height, width = shape
    if channels * height * width > MAX_OUTPUTS:
        raise section.error(f"a map of {channels}x{height}x{width} is too large; the limit is {MAX_OUTPUTS:,} numbers")


def _last_uses(sources: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """For each layer, the outputs that it is the last one to use."""
    last = {source: index for index, layer in enumerate(sources) for source in layer}
    unneeded: list[list[int]] = [[] for _ in sources]
    for source, user in last.items():
        unneeded[user].append(source)
    return unneeded
