"""Detectors as ONNX files that need no pydet: pictures in, boxes in their pixels out, suppression included."""

from __future__ import annotations

import copy
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pydet.files import whole_file
from pydet.models.darknet import Darknet
from pydet.models.detection import DetectionModel
from pydet.models.retinanet import RetinaNet
from pydet.models.ssd import MEAN, SSD, STD
from pydet.onnx.fit import Fitted, letterboxed, normalized_square
from pydet.onnx.tree import Walk

try:
    import onnx
    from onnxscript import ir

    from pydet.onnx import short_side
    from pydet.onnx.operators import DECOMPOSITIONS, TRANSLATIONS
except ImportError as error:
    raise ImportError(f"export_onnx: {error}; pip install 'pydet[onnx]'") from error

OPSET = 18
OUTPUTS = ["boxes", "scores", "labels", "count"]


def export_onnx(
    network: DetectionModel,
    path: str | os.PathLike[str],
    score_threshold: float = 0.25,
    iou_threshold: float = 0.45,
) -> None:
    """Writes a detector as an ONNX file for onnxruntime and its like; needs `pip install 'pydet[onnx]'`.

    The file takes `images`, float32 [B, 3, height, width] RGB in 0..1, any number of pictures of any one size, and
    gives what the network gives for them: `boxes` [B, K, 4] xyxy in pixels of the pictures, `scores` [B, K], `labels`
    int64 [B, K] and `count` int64 [B], how many of the K of each picture are detections, best first; what stands behind
    them is padding. It consists of ONNX's standard operators (opset 18). The names of the labels are in its metadata,
    under "names", as a JSON list.

    Args:
        network: In evaluation mode, float32, on the CPU; its file runs faster where it has been fused.
        score_threshold, iou_threshold: As for the network itself; they become part of the file.
    """
    if network.training:
        raise RuntimeError("export_onnx: the network must be in evaluation mode; call .eval() first")
    weight = next(network.parameters())
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        raise ValueError(f"export_onnx: the network must be float32 on the CPU, got {weight.dtype} on {weight.device}")
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad(), _quiet():
        if isinstance(network, RetinaNet):
            model = _from_input(network, score_threshold, iou_threshold)
        else:
            picture = {0: batch, 2: torch.export.Dim("height", min=1), 3: torch.export.Dim("width", min=1)}
            whole = _FromPictures(network, score_threshold, iou_threshold)
            model = _translated(whole, (torch.rand(2, 3, 90, 120),), (picture,), ["images"])
    model.metadata_props.add(key="names", value=json.dumps(network.label_names, ensure_ascii=False))
    with whole_file(path) as temporary:
        onnx.save(model, temporary)


class _Detections(nn.Module):
    """From a network's input to what stands in the file."""

    def __init__(self, network: DetectionModel, score_threshold: float, iou_threshold: float) -> None:
        super().__init__()
        self.network = copy.copy(network)  # shares all but its walk
        if isinstance(network, Darknet):
            self.network.walk = Walk(**vars(network.walk))  # type: ignore[assignment]
        self.thresholds = score_threshold, iou_threshold

    def forward(self, x: Tensor, offset: Tensor, scale: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        sizes = size.expand(x.shape[0], 2)
        boxes, scores, labels, count = self.network.detect_batch(x, sizes, *self.thresholds)
        boxes = (boxes - offset.repeat(2)) * scale.repeat(2)
        behind = torch.arange(boxes.shape[1]) >= count[:, None]
        return boxes.masked_fill(behind[..., None], 0), scores, labels, count


class _FromPictures(_Detections):
    """From pictures of any one size."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return super().forward(*self._fit(images))

    def _fit(self, images: Tensor) -> Fitted:
        if isinstance(self.network, Darknet):
            return letterboxed(images, self.network.image_size, self.network.stretches)
        assert isinstance(self.network, SSD)
        return normalized_square(images, self.network.size, MEAN, STD)


def _from_input(network: RetinaNet, score_threshold: float, iou_threshold: float) -> onnx.ModelProto:
    """RetinaNet's input is as large as its pictures make it; the two parts are joined as ONNX."""
    dims = {0: torch.export.Dim("batch"), 2: 32 * torch.export.Dim("h32"), 3: 32 * torch.export.Dim("w32")}
    x = torch.rand(2, 3, 7 * 32, 10 * 32)
    args = (x, torch.zeros(2), torch.ones(2), torch.tensor(x.shape[2:]))
    names = list(Fitted._fields)
    second = _translated(_Detections(network, score_threshold, iou_threshold), args, (dims, None, None, None), names)
    first = short_side.model(network.shortest, network.longest)
    return onnx.compose.merge_models(first, second, [(name, name) for name in names])


def _translated(
    module: _Detections, args: tuple[Tensor, ...], dynamic_shapes: tuple[Any, ...], names: list[str]
) -> onnx.ModelProto:
    program = torch.export.export(module.eval(), args, dynamic_shapes=dynamic_shapes, strict=False)
    table = torch.export.default_decompositions()
    table.update(DECOMPOSITIONS)
    result = torch.onnx.export(
        program.run_decompositions(table),
        dynamo=True,
        custom_translation_table=TRANSLATIONS,
        dynamic_shapes=dynamic_shapes,  # for the names
        opset_version=OPSET,
        input_names=names,
        output_names=OUTPUTS,
        verbose=False,
    )
    assert result is not None
    return ir.to_proto(result.model)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch tells about the torchvision that is not installed, and about itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
