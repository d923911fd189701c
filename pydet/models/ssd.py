"""SSD: Single Shot MultiBox Detector (Liu et al. 2016), on VGG-16.

Tensors have the names of torchvision's ssd300_vgg16, so that its checkpoints load as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pydet import ops
from pydet.losses import Targets, ssd_loss
from pydet.models.anchors import default_boxes
from pydet.models.backbones.vgg import vgg16_stages
from pydet.models.detection import DetectionModel
from pydet.models.heads import by_anchor
from pydet.models.max_pool import MaxPool2x2
from pydet.ops.multiclass_nms import multiclass_nms_by_class
from pydet.placement import Placement
from pydet.preprocess import stretch

# VGG's own normalisation: the mean of ImageNet's pixels, in 0..255.
MEAN = (0.48235, 0.45882, 0.40784)
STD = (1 / 255,) * 3
BOX_WEIGHTS = [10.0, 10.0, 5.0, 5.0]  # one over the variances .1 and .2


class VggLevels(nn.Module):
    """Maps of all levels (figure 2): conv4_3 with its L2 norm, conv7, and what halves the map again and again.

    Args:
        size: 300, or 512, which has one level more (footnote 5 of the paper's appendix).
        width: channels of the first stage.

    Attributes:
        channels: of the map of each level.
    """

    def __init__(self, size: int, width: int = 64) -> None:
        super().__init__()
        *stages, conv4, conv5 = vgg16_stages(width)
        features: list[nn.Module] = []
        for stage in stages:
            # 75 pixels become 38: the third pool rounds up, as in the paper's Caffe.
            features += [*stage, MaxPool2x2(ceil_mode=stage is stages[2])]
        self.features = nn.Sequential(*features, *conv4)
        fourth, eighth, sixteenth = 4 * width, 8 * width, 16 * width
        self.scale_weight = nn.Parameter(torch.full((eighth,), 20.0))
        # fc6 and fc7 of VGG as convolutions; fc6 is dilated in place of the stride that pool5 has lost (section 3).
        fc = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            nn.Conv2d(eighth, sixteenth, 3, padding=6, dilation=6),
            nn.ReLU(inplace=True),
            nn.Conv2d(sixteenth, sixteenth, 1),
            nn.ReLU(inplace=True),
        )
        extra = [nn.Sequential(MaxPool2x2(), *conv5, fc), _narrow_then(sixteenth, eighth, 3, stride=2, padding=1)]
        extra += [_narrow_then(eighth, fourth, 3, stride=2, padding=1)]
        if size == 512:
            extra += [_narrow_then(fourth, fourth, 3, stride=2, padding=1) for _ in range(2)]
            extra += [_narrow_then(fourth, fourth, 4, padding=1)]
        else:
            extra += [_narrow_then(fourth, fourth, 3) for _ in range(2)]
        self.extra = nn.ModuleList(extra)
        self.channels = (eighth, sixteenth, eighth, *[fourth] * (len(extra) - 2))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.features(x)
        # ParseNet's L2 norm over the channels: conv4_3's features have another magnitude than the others' (3.1).
        levels = [self.scale_weight[:, None, None] * F.normalize(x)]
        for block in self.extra:
            x = block(x)
            levels.append(x)
        return levels


def _narrow_then(channels: int, out: int, size: int, stride: int = 1, padding: int = 0) -> nn.Sequential:
    """A 1x1 convolution to half of the output's channels, then the larger one."""
    return nn.Sequential(
        nn.Conv2d(channels, out // 2, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(out // 2, out, size, stride=stride, padding=padding),
        nn.ReLU(inplace=True),
    )


class Predictor(nn.Module):
    """A 3x3 convolution on each level: `columns` numbers for each of its boxes (section 2.1)."""

    def __init__(self, channels: Sequence[int], boxes: Sequence[int], columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.module_list = nn.ModuleList(
            nn.Conv2d(c, n * columns, 3, padding=1) for c, n in zip(channels, boxes, strict=True)
        )

    def forward(self, levels: list[Tensor]) -> Tensor:
        return by_anchor([conv(x) for conv, x in zip(self.module_list, levels, strict=True)], self.columns)


class Head(nn.Module):
    """Class scores and box codes of every default box."""

    def __init__(self, channels: Sequence[int], boxes: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.classification_head = Predictor(channels, boxes, num_classes)
        self.regression_head = Predictor(channels, boxes, 4)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self.classification_head(levels), self.regression_head(levels)


LAYOUTS = {
    300: {
        "scales": (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
        "ratios": ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
        "sides": (38, 19, 10, 5, 3, 1),
        "steps": (8, 16, 32, 64, 100, 300),
    },
    512: {
        "scales": (0.04, 0.1, 0.26, 0.42, 0.58, 0.74, 0.9, 1.06),
        "ratios": ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)),
        "sides": (64, 32, 16, 8, 4, 2, 1),
        "steps": (8, 16, 32, 64, 128, 256, 512),
    },
}
"""Levels of SSD300 and SSD512 for COCO (section 3.4), with the side of each map and of its cells in pixels."""


class SSD(DetectionModel):
    """SSD300 or SSD512.

    Args:
        class_names: of all labels; the first is the background.
        size: 300 or 512, the side of the square that pictures are stretched to.
        width: channels of the first stage; VGG-16 has 64.

    Attributes:
        boxes: float32 [N, 4] xyxy in pixels of the network's input, 8,732 or 24,564 default boxes.
    """

    first_label = 1
    max_detections = 200
    class_top_k = 400

    def __init__(self, class_names: Sequence[str], size: int = 300, width: int = 64) -> None:
        super().__init__()
        if size not in LAYOUTS:
            raise ValueError(f"SSD: size must be 300 or 512, got {size}")
        if width < 1:
            raise ValueError(f"SSD: width must be at least 1, got {width}")
        if len(class_names) < 2:
            raise ValueError(f"SSD: class_names must be the background and at least one class, got {len(class_names)}")
        layout = LAYOUTS[size]
        self.class_names = list(class_names)
        self.size = size
        self.backbone = VggLevels(size, width)
        boxes_a_cell = [2 + 2 * len(ratios) for ratios in layout["ratios"]]  # type: ignore[arg-type]
        self.head = Head(self.backbone.channels, boxes_a_cell, len(class_names))
        grids = [(side, side) for side in layout["sides"]]
        with torch.device("cpu"):  # they are no weights: a network without memory of its own has them too
            # Not a buffer: half a network keeps whole boxes.
            self.boxes = default_boxes(layout["scales"], layout["ratios"], grids, layout["steps"], (size, size))  # type: ignore[arg-type]
        for module in [*self.backbone.extra.modules(), *self.head.modules()]:
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def preprocess(self, images: Sequence[Tensor]) -> tuple[Tensor, Placement]:
        device = next(self.parameters()).device
        return stretch([image.to(device) for image in images], self.size, MEAN, STD, self.new_batch)

    def _boxes_on(self, device: torch.device) -> Tensor:
        if self.boxes.device != device:
            self.boxes = self.boxes.to(device)
        return self.boxes

    def forward_heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits [B, N, C], the background's first, and box codes [B, N, 4] of a batch."""
        return self.head(self.backbone(x))

    def loss(self, raw: tuple[Tensor, Tensor], targets: Targets, seen: int | None = None) -> dict[str, Tensor]:
        return ssd_loss(*raw, self._boxes_on(raw[0].device), targets, BOX_WEIGHTS)

    def predict(self, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        logits, codes = self.forward_heads(x)
        boxes = ops.decode_boxes(codes.float(), self._boxes_on(x.device), BOX_WEIGHTS)
        return ops.clip_boxes_to_image(boxes, (self.size, self.size)), logits.float().softmax(dim=-1)[..., 1:]

    def select(
        self, boxes: Tensor, scores: Tensor, score_threshold: float, iou_threshold: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # The best 400 boxes of each class go on, as in the paper's code.
        boxes, scores, labels, count = multiclass_nms_by_class(
            boxes, scores, score_threshold, iou_threshold, self.max_detections, self.class_top_k
        )
        return boxes, scores, labels + self.first_label, count
