"""Detectors to time where their official weights are not at hand: random numbers that behave like trained ones."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pydet import models
from pydet.models import Darknet, DetectionModel, RetinaNet
from pydet.models.darknet.heads import Grid
from pydet.models.registry import ASSETS

SHARE_OF_OBJECTS = 0.01
"""Of all boxes (RetinaNet: of all scores, divided by 100), as many are above the threshold: the order of a street."""


def detector(name: str, picture: Tensor) -> DetectionModel:
    """A detector of the registry, not fused, with its official weights where they come with pydet."""
    if (ASSETS / f"{name}.safetensors").exists():
        return models.load(name, fuse=False)
    torch.manual_seed(0)
    network = models.MODELS[name].build().eval().requires_grad_(False)
    x, _ = network.preprocess([picture])
    _normalise(network, x)
    if not isinstance(network, Darknet):
        _scale_predictions(network, x)
    if isinstance(network, Darknet):
        _make_objects_rare(network, x)
    elif isinstance(network, RetinaNet):
        logits = network.forward_heads(x)[0]
        bias = network.head.get_parameter("classification_head.cls_logits.bias")
        bias += math.log(0.05 / 0.95) - _quantile(logits, 1 - SHARE_OF_OBJECTS / 100)
    else:
        for conv in network.get_submodule("head.classification_head.module_list"):
            conv.bias[:: len(network.class_names)] += 7  # type: ignore[union-attr, operator]
    return network


def raw_outputs(network: DetectionModel, x: Tensor) -> list[Tensor]:
    """What the network alone gives, before boxes are made of it."""
    if isinstance(network, Darknet):
        return network.forward_features(x)
    outputs: list[Tensor] = list(network.forward_heads(x)[:2])  # type: ignore[operator]
    return outputs


def thresholds(network: DetectionModel) -> dict[str, float]:
    """torchvision's defaults for its networks."""
    score = 0.25 if isinstance(network, Darknet) else 0.05 if isinstance(network, RetinaNet) else 0.01
    return {"score_threshold": score, "iou_threshold": 0.5 if isinstance(network, RetinaNet) else 0.45}


def after_network(network: DetectionModel, x: Tensor, sizes: Tensor) -> Any:
    """() -> what `detect_batch` gives, from raw outputs that are there already."""
    raw = network.forward_features(x) if isinstance(network, Darknet) else network.forward_heads(x)  # type: ignore[operator]
    method = "forward_features" if isinstance(network, Darknet) else "forward_heads"

    def run() -> Any:
        network.__dict__[method] = lambda _: raw
        try:
            return network.detect_batch(x, sizes, **thresholds(network))
        finally:
            del network.__dict__[method]

    return run


def _normalise(network: nn.Module, x: Tensor) -> None:
    """Numbers of the order of one in all layers: convolutions by He's rule, statistics as they are for this picture."""

    def measure(module: Any, inputs: tuple[Tensor, ...]) -> None:
        over = [d for d in range(inputs[0].dim()) if d != 1]
        module.running_mean.copy_(inputs[0].mean(over))
        module.running_var.copy_(inputs[0].var(over))

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=0.1)
        if hasattr(module, "running_var"):
            hooks.append(module.register_forward_pre_hook(measure))
    raw_outputs(network, x)  # type: ignore[arg-type]
    for hook in hooks:
        hook.remove()


def _scale_predictions(network: DetectionModel, x: Tensor) -> None:
    """Class logits of the order of one, box codes of a third: boxes that lie about their anchors."""

    def scale(module: Any, _: Any, output: Tensor, target: float) -> None:
        module.weight *= target / output.std()

    hooks = []
    for name, module in network.named_modules():
        if name.startswith("head.") and isinstance(module, nn.Conv2d) and ".conv." not in name:
            target = 1.0 if "classification" in name else 0.3
            hooks.append(module.register_forward_hook(lambda m, i, o, target=target: scale(m, i, o, target)))
    raw_outputs(network, x)
    for hook in hooks:
        hook.remove()


def _make_objects_rare(network: Darknet, x: Tensor) -> None:
    for index, raw in zip(_head_indices(network), network.forward_features(x), strict=True):
        if isinstance(network.layers[index], Grid):
            continue  # no sigmoid: what is above the threshold is a matter of its scale
        bias = network.layers[index - 1].conv.bias  # type: ignore[union-attr]
        columns = 5 + network.num_classes
        objectness = raw.unflatten(1, (-1, columns))[:, :, 4]
        bias[4::columns] += math.log(0.25 / 0.75) - _quantile(objectness, 1 - SHARE_OF_OBJECTS)  # type: ignore[index, operator]


def _head_indices(network: Darknet) -> list[int]:
    return [i for i, layer in enumerate(network.layers) if layer in network.heads]


def _quantile(values: Tensor, share: float) -> float:
    return values.flatten().kthvalue(max(int(share * values.numel()), 1))[0].item()
