"""RetinaNet: Focal Loss for Dense Object Detection (Lin et al. 2017), on ResNet and a feature pyramid.

Tensors have the names of torchvision's retinanet_resnet50_fpn and _v2, so that their checkpoints load as they are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pydet import ops
from pydet.losses import Targets, retinanet_loss
from pydet.models.anchors import cell_anchors, grid_anchors, retinanet_sides
from pydet.models.backbones.fpn import FeaturePyramid
from pydet.models.backbones.resnet import FrozenBatchNorm2d, ResNet
from pydet.models.detection import DetectionModel
from pydet.models.heads import by_anchor
from pydet.models.packed import PackedConv2d
from pydet.placement import Placement
from pydet.preprocess import short_side, short_side_size

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as the backbone's
PRIOR = 0.01  # section 3.3: the probability of an object at the start of training
SIDES = [retinanet_sides(size) for size in (32, 64, 128, 256, 512)]  # of the anchors of P3 ... P7, in pixels
ANCHORS_A_CELL = 9
BOX_WEIGHTS = [1.0, 1.0, 1.0, 1.0]
NO_SUPPRESSION = 2.0  # no IoU is above it


class Subnet(nn.Module):
    """Four 3x3 convolutions and one that predicts, shared by all levels (figure 3, c and d).

    Args:
        name: of the last convolution, as in torchvision.
        norm: None, or group normalisation behind each convolution, as in version 2.
    """

    def __init__(self, name: str, channels: int, columns: int, norm: Callable[[int], nn.Module] | None) -> None:
        super().__init__()
        self.name, self.columns = name, columns
        blocks: list[nn.Module] = []
        for _ in range(4):
            conv = nn.Conv2d(channels, channels, 3, padding=1, bias=norm is None)
            blocks.append(nn.Sequential(conv, *([norm(channels)] if norm else []), nn.ReLU(inplace=True)))
        self.conv = nn.Sequential(*blocks)
        setattr(self, name, nn.Conv2d(channels, ANCHORS_A_CELL * columns, 3, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, levels: list[Tensor]) -> Tensor:
        predict = getattr(self, self.name)
        return by_anchor([predict(self.conv(x)) for x in levels], self.columns)


class Head(nn.Module):
    """The classification and the box regression subnet."""

    def __init__(self, channels: int, num_classes: int, norm: Callable[[int], nn.Module] | None) -> None:
        super().__init__()
        self.classification_head = Subnet("cls_logits", channels, num_classes, norm)
        self.regression_head = Subnet("bbox_reg", channels, 4, norm)
        nn.init.constant_(self.classification_head.get_parameter("cls_logits.bias"), -math.log((1 - PRIOR) / PRIOR))

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self.classification_head(levels), self.regression_head(levels)


class Backbone(nn.Module):
    """Pictures to P3 ... P7."""

    def __init__(self, body: ResNet, channels: int, p6_from_c5: bool) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramid(body.out_channels, channels, p6_from_c5)

    def forward(self, x: Tensor) -> list[Tensor]:
        levels: list[Tensor] = self.fpn(self.body(x))
        return levels


class RetinaNet(DetectionModel):
    """RetinaNet on ResNet-50 or -101.

    Args:
        class_names: of all labels. The published ones begin with "__background__", which is never found.
        depth: of the ResNet, 50 or 101.
        version: 1, torchvision's first, with P6 made of P5; or 2: P6 of C5, as in the paper, group normalisation in the
            subnets, and batch normalisation that is trained.
        frozen: whether version 1's batch normalisation is constant, as with a pretrained backbone.
        shortest: pictures are scaled so that the short side has so many pixels ...
        longest: ... or, where the long side would have more than this, so that it has these.
        width: channels of the first stage of the ResNet; the pyramid has four times as many.

    Attributes:
        box_loss: "l1" in version 1, "giou" in version 2, as torchvision's; the paper's "smooth_l1" can be set.
    """

    level_top_k = 1000

    def __init__(
        self,
        class_names: Sequence[str],
        depth: int = 50,
        version: int = 1,
        frozen: bool = True,
        shortest: int = 800,
        longest: int = 1333,
        width: int = 64,
    ) -> None:
        super().__init__()
        if version not in (1, 2):
            raise ValueError(f"RetinaNet: version must be 1 or 2, got {version}")
        if not class_names:
            raise ValueError("RetinaNet: class_names must be at least one, got 0")
        for key, value in (("width", width), ("shortest", shortest), ("longest", longest)):
            if value < 1:
                raise ValueError(f"RetinaNet: {key} must be at least 1, got {value}")
        self.class_names = list(class_names)
        self.shortest, self.longest = shortest, longest
        second = version == 2
        self.box_loss = "giou" if second else "l1"
        body = ResNet(depth, nn.BatchNorm2d if second or not frozen else FrozenBatchNorm2d, width)
        self.backbone = Backbone(body, 4 * width, p6_from_c5=second)
        norm = functools.partial(nn.GroupNorm, min(32, width)) if second else None
        self.head = Head(4 * width, len(class_names), norm)
        with torch.device("cpu"):  # as SSD's boxes: no weights, and not a buffer
            self.cell_anchors = torch.stack([cell_anchors(sides) for sides in SIDES])  # [levels, A, 4]

    def preprocess(self, images: Sequence[Tensor], least: tuple[int, int] = (0, 0)) -> tuple[Tensor, Placement]:
        """As `DetectionModel`'s; `least` is the (height, width) that the batch has at least: zeros are added."""
        device = next(self.parameters()).device
        pictures = [image.to(device) for image in images]
        return short_side(pictures, self.shortest, self.longest, MEAN, STD, self.new_batch, least)

    def batch_size(self, images: Sequence[Tensor]) -> tuple[int, int]:
        """(height, width) of what `preprocess` makes of such pictures."""
        return short_side_size(images, self.shortest, self.longest)

    @property
    def fused(self) -> bool:
        return isinstance(self.backbone.body.bn1, nn.Identity)

    def fuse(self) -> DetectionModel:
        self.backbone.body.fold()
        super().fuse()
        for module in self.head.modules():
            if isinstance(module, PackedConv2d):
                module.packed.most_sizes = len(SIDES)
        return self

    def forward_heads(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Class logits [B, N, C], box codes [B, N, 4], and the anchors [n, 4] of each level, of a batch."""
        levels = self.backbone(x)
        grids = [(level.shape[-2], level.shape[-1]) for level in levels]
        if self.cell_anchors.device != x.device:
            self.cell_anchors = self.cell_anchors.to(x.device)
        anchors = [
            grid_anchors(cell, grid, (x.shape[-2] // grid[0], x.shape[-1] // grid[1]))
            for cell, grid in zip(self.cell_anchors, grids, strict=True)
        ]
        logits, codes = self.head(levels)
        return logits, codes.float(), anchors  # half a network has whole boxes

    def loss(
        self, raw: tuple[Tensor, Tensor, list[Tensor]], targets: Targets, seen: int | None = None
    ) -> dict[str, Tensor]:
        logits, codes, anchors = raw
        return retinanet_loss(logits, codes, torch.cat(anchors), targets, BOX_WEIGHTS, self.box_loss)

    def predict(self, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("RetinaNet: all boxes of all classes are never made; see detect_batch")

    def detect_batch(
        self, x: Tensor, sizes: Tensor, score_threshold: float, iou_threshold: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Section 4.1: the best 1,000 predictions of each level above the threshold, then NMS over all levels."""
        logits, codes, anchors = self.forward_heads(x)
        # A logit orders as its probability does: only those that are chosen need to be made one.
        bound = math.log(score_threshold / (1 - score_threshold)) if 0 < score_threshold < 1 else math.inf
        bound = -math.inf if score_threshold <= 0 else bound
        boxes, scores, start = [], [], 0
        for level in anchors:
            rows = slice(start, start + level.shape[0])
            start += level.shape[0]
            found = self._best_of_level(codes[:, rows], logits[:, rows], level, bound)
            boxes.append(found[0])
            scores.append(found[1])
        limits = sizes.flip(1).float().repeat(1, 2)[:, None]  # width, height, width, height
        clipped = torch.cat(boxes, dim=1).clamp(min=0).minimum(limits)
        return self.select(clipped, torch.cat(scores, dim=1), score_threshold, iou_threshold)

    def _best_of_level(self, codes: Tensor, logits: Tensor, anchors: Tensor, bound: float) -> tuple[Tensor, Tensor]:
        """Boxes [B, K, 4] and scores [B, K, C], of which one in each row is not 0."""
        _, best, labels, rows, _ = ops.multiclass_nms(codes, logits, bound, NO_SUPPRESSION, self.level_top_k)
        chosen = codes.gather(1, rows[..., None].expand(-1, -1, 4))
        found = ops.decode_boxes(chosen, anchors[rows], BOX_WEIGHTS)
        probability = torch.where(labels >= 0, best.sigmoid(), 0.0)
        scores = logits.new_zeros(*rows.shape, logits.shape[2])
        return found, scores.scatter(2, labels.clamp(min=0)[..., None], probability[..., None])
