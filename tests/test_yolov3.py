from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pydet import models, ops
from pydet.models import MODELS, packed
from pydet.models.darknet import CfgError, Darknet, Section, read_cfg
from pydet.models.packed import PackedWeight

CFG_FOLDER = Path("/usr/share/darknet/cfg")
DOG = models.ASSETS / "dog.jpg"
# Of every convolution whose batch normalisation has been folded in, and of the others.
PARAMETERS = {"yolov3": 62_001_757, "yolov3-tiny": 8_858_734, "yolov3-spp": (252_209_544 - 20) // 4}


def network(name: str, **options: object) -> Darknet:
    with torch.device("meta"):
        return Darknet(MODELS[name].sections(**options))


def random_network(sections: list[Section]) -> Darknet:
    torch.manual_seed(0)
    return Darknet(sections).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tiny() -> Darknet:
    return models.load("yolov3-tiny")


@pytest.fixture(scope="module")
def dog() -> Tensor:
    return torch.from_numpy(np.array(Image.open(DOG).convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name: str) -> None:
    stored = sum(t.numel() for layer in network(name).layers for t in layer.darknet_tensors().values())
    assert stored == PARAMETERS[name]
    assert 4 * stored + 20 == MODELS[name].weights.size


@pytest.mark.parametrize("name", PARAMETERS)
def test_definitions_are_the_authors_cfgs(name: str) -> None:
    if not CFG_FOLDER.is_dir():
        pytest.skip("needs Debian's darknet package for its cfgs, which is not installed")
    theirs, ours = read_cfg(CFG_FOLDER / f"{name}.cfg"), MODELS[name].sections()
    for key in ("width", "height", "channels"):
        assert ours[0].integer(key) == theirs[0].integer(key)
    if name == "yolov3-tiny":  # see TINY_MASKS
        assert theirs[-1].options["mask"] == "0,1,2"
        theirs[-1].options["mask"] = "1,2,3"
    assert ours[1:] == theirs[1:]


def test_heads_at_416() -> None:
    shapes = {
        name: [list(map_.shape) for map_ in network(name).forward_features(torch.zeros(1, 3, 416, 416, device="meta"))]
        for name in PARAMETERS
    }
    three = [[1, 255, 13, 13], [1, 255, 26, 26], [1, 255, 52, 52]]
    assert shapes == {"yolov3": three, "yolov3-spp": three, "yolov3-tiny": three[:2]}


@pytest.mark.parametrize("size", [(32, 32), (320, 416), (608, 608), (96, 640)])
def test_any_multiple_of_32(tiny: Darknet, size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    coarse, fine = tiny.forward_features(x)
    assert list(coarse.shape) == [2, 255, size[0] // 32, size[1] // 32]
    assert list(fine.shape) == [2, 255, size[0] // 16, size[1] // 16]
    for i in range(2):  # a batch is its pictures
        for together, alone in zip((coarse, fine), tiny.forward_features(x[i : i + 1]), strict=True):
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(410, 416), (416, 400), (16, 32)])
def test_other_sizes_name_the_rule(tiny: Darknet, size: tuple[int, int]) -> None:
    message = rf"layer \d+ .*height and width .* must be multiples of 32, its coarsest stride, got {size[0]}x{size[1]}"
    with pytest.raises(CfgError, match=message):
        tiny.forward_features(torch.zeros(1, 3, *size))


@pytest.mark.parametrize("size", [(416, 400), (16, 32)])
def test_sizes_whose_maps_do_not_meet(size: tuple[int, int]) -> None:
    message = rf"layer 20 \[route\]: height and width .* must be multiples of 32, .* got {size[0]}x{size[1]}"
    with pytest.raises(CfgError, match=message):
        models.load(image_size=size)


def test_a_size_that_is_rounded_up_is_the_only_one() -> None:
    """As Darknet takes it; a map of 13 rows does not say that they were 410 pixels, so that the loss asks the head."""
    network = models.load(image_size=(410, 416))
    coarse, fine = network.forward_features(torch.zeros(1, 3, 410, 416))
    assert (list(coarse.shape[2:]), list(fine.shape[2:])) == ([13, 13], [26, 26])
    assert [head.input_size(raw) for head, raw in zip(network.heads, (coarse, fine), strict=True)] == [(410, 416)] * 2
    with pytest.raises(CfgError, match=r"layer 16 \[yolo\]: the network works at 410x416 only, got 416x416"):
        network.forward_features(torch.zeros(1, 3, 416, 416))


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("batch_norm", ["cuda", "cpu"])
def test_the_dog(dog: Tensor, fuse: bool, batch_norm: str) -> None:
    (found,) = models.load(fuse=fuse, batch_norm=batch_norm)([dog], score_threshold=0.5)
    names = [models.coco_names()[label] for label in found["labels"]]
    assert sorted(names) == ["bicycle", "car", "dog", "truck"]
    assert found["scores"].tolist() == sorted(found["scores"].tolist(), reverse=True)
    box = found["boxes"][names.index("dog")]
    by_hand = torch.tensor([[130.0, 218.0, 312.0, 538.0]])  # drawn around the dog in an image viewer
    assert ops.box_iou(box[None], by_hand).item() > 0.6


def test_pictures_of_several_sizes_at_once(tiny: Darknet, dog: Tensor) -> None:
    pictures = [dog, dog[:, :400, :500] / 255.0, torch.zeros(3, 1, 1), dog.flip(2)]
    together = tiny(pictures, score_threshold=0.25, iou_threshold=0.45)
    assert len(together) == 4
    for picture, result in zip(pictures, together, strict=True):
        (alone,) = tiny([picture], score_threshold=0.25, iou_threshold=0.45)
        assert torch.equal(result["labels"], alone["labels"])
        torch.testing.assert_close(result["boxes"], alone["boxes"], rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(result["scores"], alone["scores"], rtol=0, atol=1e-4)
    assert [len(result["scores"]) > 0 for result in together] == [True, True, False, True]
    assert together[2]["boxes"].shape == (0, 4)
    assert together[2]["labels"].dtype == torch.int64
    assert tiny([]) == []


def test_thresholds(tiny: Darknet, dog: Tensor) -> None:
    (loose,), (strict,) = tiny([dog], score_threshold=0.1), tiny([dog], score_threshold=0.6)
    (all_,) = tiny([dog], score_threshold=0.1, iou_threshold=1.0)
    assert (loose["scores"] > 0.1).all()
    assert torch.equal(strict["scores"], loose["scores"][loose["scores"] > 0.6])
    assert len(all_["scores"]) > len(loose["scores"])
    for label in loose["labels"].unique():
        boxes = loose["boxes"][loose["labels"] == label]
        assert (ops.box_iou(boxes, boxes).triu(1) <= 0.4501).all()


def test_fusing_changes_nothing_but_rounding(dog: Tensor) -> None:
    x = torch.rand(1, 3, 64, 96)
    for name, options in {"yolov3-tiny": {}, "yolov3-spp": {"num_classes": 2}}.items():
        plain = random_network(MODELS[name].sections(**options))
        for layer in plain.layers:
            if getattr(layer, "norm", None) is not None:
                layer.norm.running_mean.normal_(0, 0.1)
                layer.norm.running_var.uniform_(0.5, 2)
                layer.norm.weight.uniform_(0.5, 1.5)
                layer.norm.bias.normal_(0, 0.1)
        before = plain.forward_features(x)
        fused = copy.deepcopy(plain).fuse()
        assert fused.fused
        assert not plain.fused
        with torch.inference_mode():
            after = fused.forward_features(x)
        for a, b in zip(before, after, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * a.abs().max().item())


@pytest.mark.parametrize("channels", [(128, 128), (160, 128)])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (13, 13), (26, 5), (7, 12)])
def test_packed_weights_make_the_same_convolution(channels: tuple[int, int], size: tuple[int, int]) -> None:
    """As exact as the ordinary way, for even and odd sizes and several pictures."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(*channels, 3, padding=1).requires_grad_(False)
    x = torch.randn(2, channels[0], *size).contiguous(memory_format=torch.channels_last)
    exact = copy.deepcopy(conv).double()(x.double())
    if not packed.available():
        pytest.skip("only on x86 with oneDNN")
    result = PackedWeight().convolve(conv, "leaky", x)
    assert result is not None
    torch.testing.assert_close(result.double(), torch.where(exact > 0, exact, 0.1 * exact), rtol=0, atol=1e-5)


def test_loaded_networks_take_the_fast_path(dog: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a caller who has not switched gradients off."""
    if not packed.available():
        pytest.skip("only on x86 with oneDNN")
    monkeypatch.setattr(torch.nn.Conv2d, "forward", None)
    assert torch.is_grad_enabled()
    assert len(models.load("yolov3-tiny")([dog])[0]["labels"]) == 4


def test_the_fast_path_follows_changed_weights(tiny: Darknet) -> None:
    """The layout that is kept for speed must not outlive the weights that it was made of, nor stop a copy."""
    model = copy.deepcopy(tiny)
    x = torch.rand(1, 3, 64, 64)
    before = model.forward_features(x)
    again = copy.deepcopy(model)
    with torch.no_grad():
        model.layers[15].conv.weight.mul_(2)
        model.layers[15].conv.bias.mul_(2)
    torch.testing.assert_close(model.forward_features(x)[0], 2 * before[0])
    torch.testing.assert_close(again.forward_features(x)[0], before[0])
    ordinary = again.forward_features(x.requires_grad_())[0]
    torch.testing.assert_close(ordinary, before[0], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        again.layers[12].conv.bias.add_(1)
    torch.testing.assert_close(
        again.forward_features(x.detach())[0], again.forward_features(x)[0], rtol=1e-4, atol=1e-4
    )
    (gradient,) = torch.autograd.grad(ordinary.square().sum(), x)
    assert gradient.abs().sum() > 0


def test_own_classes_anchors_and_masks() -> None:
    anchors, masks = [(8, 9), (20.5, 30), (50, 60), (99, 99)], [(2, 3), (0,)]
    model = random_network(MODELS["yolov3-tiny"].sections(2, anchors, masks, (64, 96)))
    assert (model.image_size, model.num_classes, model.class_names) == ((64, 96), 2, ["class 0", "class 1"])
    coarse, fine = model.forward_features(torch.rand(1, 3, 64, 96))
    assert list(coarse.shape) == [1, 2 * 7, 2, 3]
    assert list(fine.shape) == [1, 7, 4, 6]
    assert model.heads[0].anchors.tolist() == [[50, 60], [99, 99]]
    assert model.heads[1].anchors.tolist() == [[8, 9]]
    boxes, objectness, scores = model.decode([coarse, fine])
    assert (list(boxes.shape), list(objectness.shape), list(scores.shape)) == ([1, 36, 4], [1, 36], [1, 36, 2])


def test_anchors_stay_exact_in_half_precision(dog: Tensor) -> None:
    model = models.load("yolov3-tiny").bfloat16()
    assert model.heads[0].anchors.dtype == torch.float32
    names = [model.class_names[label] for label in model([dog], score_threshold=0.4)[0]["labels"]]
    assert {"dog", "bicycle"} <= set(names)


def test_what_cannot_be_done_is_said(tiny: Darknet) -> None:
    with pytest.raises(ValueError, match=r"Darknet: x must be \[B, 3, height, width\], got \[1, 1, 32, 32\]"):
        tiny.forward_features(torch.zeros(1, 1, 32, 32))
    with pytest.raises(ValueError, match="Darknet: targets must be given in training mode"):
        copy.deepcopy(tiny).train()([torch.zeros(3, 8, 8)])
    with pytest.raises(TypeError, match=r"Darknet: targets must be .*, got 0\.5; thresholds are given by name"):
        tiny([torch.zeros(3, 8, 8)], 0.5)
