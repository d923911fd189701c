"""SSD and RetinaNet: counts of the papers, what the parts do, checkpoints good and bad. Beside torchvision's own:
test_torchvision_models.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pydet import models, ops
from pydet.models import SSD, RetinaNet, WeightsError
from pydet.models.backbones.resnet import FrozenBatchNorm2d, ResNet
from pydet.models.detection import DetectionModel
from pydet.preprocess import short_side, stretch

NAMES = ["__background__", "cell", "dust"]
PARAMETERS = {
    "ssd300": 35_641_826,
    "retinanet-resnet50": 34_014_999,  # its batch normalisation is constant: not counted
    "retinanet-resnet50-v2": 38_198_935,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name: str) -> None:
    with torch.device("meta"):
        network = models.MODELS[name].build()
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]
    assert len(network.class_names) == 91


def test_ssd_levels() -> None:
    """Figure 2: 38, 19, 10, 5, 3 and 1 cells a side."""
    network = SSD(NAMES).eval()
    with torch.inference_mode():
        levels = network.backbone(torch.rand(1, 3, 300, 300))
        logits, codes = network.forward_heads(torch.rand(2, 3, 300, 300))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (512, 38, 38),
        (1024, 19, 19),
        (512, 10, 10),
        (256, 5, 5),
        (256, 3, 3),
        (256, 1, 1),
    ]
    assert logits.shape == (2, 8732, 3)
    assert codes.shape == (2, 8732, 4)
    torch.testing.assert_close(levels[0].norm(dim=1), torch.full((1, 38, 38), 20.0))  # section 3.1


def test_ssd512_levels() -> None:
    with torch.device("meta"):
        levels = SSD(NAMES, 512).backbone(torch.rand(1, 3, 512, 512))
    assert [level.shape[-1] for level in levels] == [64, 32, 16, 8, 4, 2, 1]


class OffTheDevice(TorchDispatchMode):
    """Notes what is computed on, or copied from, the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)]
        if any(t.device.type == "cpu" for t in tensors):
            self.noted.append(str(func))
        return result


@pytest.mark.parametrize(
    "make", [lambda: SSD(NAMES, width=8), lambda: RetinaNet(NAMES, width=8)], ids=["ssd", "retina"]
)
def test_boxes_are_made_where_the_network_is(make: Any) -> None:
    """A copy from the CPU in every call would wait for a GPU, and no CUDA graph can hold it."""
    network = make().eval().to("meta")
    x, sizes = torch.empty(2, 3, 300, 300, device="meta"), torch.empty(2, 2, device="meta")
    with torch.no_grad():
        network.detect_batch(x, sizes, 0.1, 0.5)  # which takes along what is no weight
        with OffTheDevice() as mode:
            network.detect_batch(x, sizes, 0.1, 0.5)
    assert mode.noted == []


@pytest.mark.parametrize("most", [1, 30, 39, 40, 400])
def test_ssd_takes_the_best_of_each_class(most: int) -> None:
    """Forty boxes of each class are above the threshold: fewer, as many, and more than go on."""
    network = SSD(NAMES, width=4)
    network.class_top_k = most
    low, high = 0.4 * torch.rand(2, 60, 2), 0.6 + 0.4 * torch.rand(2, 40, 2)
    scores = torch.cat([low, high], dim=1)[:, torch.randperm(100)]
    corners = 250 * torch.rand(2, 100, 2)
    boxes = torch.cat([corners, corners + 50 * torch.rand(2, 100, 2)], dim=2)
    found = network.select(boxes, scores, 0.5, 0.45)
    for image in range(2):
        expected = []
        for label in range(2):
            best = scores[image, :, label].argsort(descending=True)[:most]
            best = best[scores[image, best, label] > 0.5]
            kept = best[ops.nms(boxes[image, best], scores[image, best, label], 0.45)]
            expected += [(scores[image, row, label], label + 1, boxes[image, row]) for row in kept]
        expected.sort(key=lambda one: -one[0])
        count = int(found[3][image])
        assert count == len(expected)
        assert torch.equal(found[1][image, :count], torch.stack([one[0] for one in expected]))
        assert found[2][image, :count].tolist() == [one[1] for one in expected]
        assert torch.equal(found[0][image, :count], torch.stack([one[2] for one in expected]))


def test_ssd_ranks_only_crowded_classes() -> None:
    """One class of three, in one of two pictures; what is above a negative threshold counts, too."""
    network = SSD(["background", "a", "b", "c"], width=4)
    network.class_top_k = 20
    scores = -0.4 * torch.rand(2, 60, 3)
    scores[0, :50, 1] = torch.rand(50)
    scores[1, :20, 1] = torch.rand(20)
    scores[:, 40:55, 2] = torch.rand(2, 15)
    boxes = torch.arange(120.0).view(2, 60, 1) * 10 + torch.tensor([0, 0, 9, 9])  # none overlaps another
    before = scores.clone()
    for threshold in (0.0, -0.1):
        count = network.select(boxes, scores, threshold, 0.45)[3].tolist()
        expected = [[min(int((one > threshold).sum()), 20) for one in picture.unbind(1)] for picture in before]
        assert count == [sum(numbers) for numbers in expected]
        found = network.select(boxes, scores, threshold, 0.45)
        for image in range(2):
            of_b = found[1][image][found[2][image] == 2]
            assert torch.equal(of_b, before[image, :, 1].sort(descending=True)[0][: len(of_b)])
            assert len(of_b) == expected[image][1]
    assert torch.equal(scores, before)


def small_retinanet(version: int = 1, **options: Any) -> RetinaNet:
    torch.manual_seed(0)
    network = RetinaNet(NAMES, 50, version, shortest=96, longest=160, width=8, **options)
    for key, tensor in network.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif key.endswith(("running_mean", "bn1.bias")):
            tensor.normal_(0, 0.3)
    # As they are initialised, all scores are the prior.
    for conv in network.head.modules():
        if isinstance(conv, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(conv.weight)
    return network.eval().requires_grad_(False)


def test_retinanet_starts_with_the_prior() -> None:
    """Section 3.3."""
    logits, _, _ = RetinaNet(NAMES, width=8).eval().forward_heads(torch.rand(1, 3, 64, 96))
    torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, 0.01), rtol=0.2, atol=0)


@pytest.mark.parametrize("version", [1, 2])
def test_retinanet_levels(version: int) -> None:
    network = small_retinanet(version)
    levels = network.backbone(torch.rand(1, 3, 128, 192))
    assert [tuple(level.shape[-2:]) for level in levels] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    logits, codes, anchors = network.forward_heads(torch.rand(1, 3, 128, 192))
    assert [len(level) for level in anchors] == [9 * 16 * 24, 9 * 8 * 12, 9 * 4 * 6, 9 * 2 * 3, 9 * 1 * 2]
    assert logits.shape == (1, sum(map(len, anchors)), 3)
    assert codes.shape == (1, sum(map(len, anchors)), 4)


@pytest.mark.parametrize("make", [small_retinanet, lambda: small_retinanet(2), lambda: SSD(NAMES).eval()])
@torch.inference_mode()
def test_a_batch_is_its_pictures_and_fusing_changes_nothing(make: Any) -> None:
    network: DetectionModel = make()
    g = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=g) for size in ((90, 120), (90, 120))]
    together = network(images, score_threshold=0.05, iou_threshold=0.5)
    assert min(len(found["boxes"]) for found in together) > 5
    for image, found in zip(images, together, strict=True):
        (alone,) = network([image], score_threshold=0.05, iou_threshold=0.5)
        # Scores differ by rounding, and so may the order of what is nearly equal, at the end of the list.
        torch.testing.assert_close(alone["boxes"][:100], found["boxes"][:100], rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(alone["scores"], found["scores"], rtol=0, atol=1e-3)
    before, after = network.batch_of(network.preprocess(images)[0]), None
    heads = network.forward_heads(before)[:2]  # type: ignore[operator]
    after = network.fuse().forward_heads(before)[:2]  # type: ignore[operator]
    for a, b in zip(heads, after, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_boxes_lie_in_the_picture_and_the_background_is_never_found() -> None:
    g = torch.Generator().manual_seed(0)
    image = torch.rand(3, 80, 200, generator=g)
    for network in (small_retinanet(), SSD(NAMES).eval()):
        (found,) = network([image], score_threshold=0.05, iou_threshold=0.5)
        boxes = found["boxes"]
        assert len(boxes)
        assert boxes.min() >= 0
        assert boxes[:, [0, 2]].max() <= 200.001
        assert boxes[:, [1, 3]].max() <= 80.001
        if isinstance(network, SSD):
            assert found["labels"].min() >= 1


def test_the_best_thousand_of_a_level_are_those_of_a_sort() -> None:
    network = small_retinanet()
    g = torch.Generator().manual_seed(0)
    logits, codes = torch.randn(2, 900, 3, generator=g), torch.randn(2, 900, 4, generator=g)
    anchors = torch.rand(900, 4, generator=g) * 50
    anchors[:, 2:] += anchors[:, :2] + 1
    boxes, scores = network._best_of_level(codes, logits, anchors, 0.0)
    assert boxes.shape == (2, 1000, 4)
    assert scores.shape == (2, 1000, 3)
    for image in range(2):
        flat = logits[image].flatten()
        best = flat[flat > 0].sort(descending=True).values[:1000].sigmoid()
        found = scores[image].amax(dim=1)
        torch.testing.assert_close(found[: len(best)], best)
        assert (found[len(best) :] == 0).all()
        assert ((scores[image] > 0).sum(dim=1) <= 1).all()


def test_short_side_as_torchvision() -> None:
    """The short side 800, unless the long one would exceed 1333; whole pixels; room to a multiple of 32."""
    pictures, placement = short_side([torch.rand(3, 480, 640), torch.rand(3, 200, 640)], 800, 1333)
    assert placement.size.tolist() == [[800, 1066], [416, 1333]]
    assert [tuple(p.shape) for p in pictures] == [(3, 800, 1344)] * 2
    assert pictures[1][:, 417:].abs().max() == 0
    assert placement.scale.tolist() == [[640 / 1066, 480 / 800], [640 / 1333, 200 / 416]]


def test_stretch() -> None:
    pictures, placement = stretch([torch.rand(3, 20, 40)], 10)
    assert pictures[0].shape == (3, 10, 10)
    boxes = placement.to_picture(torch.tensor([[[0.0, 0, 10, 10]]]))
    assert boxes.tolist() == [[[0, 0, 40, 20]]]


def test_frozen_batch_norm_is_batch_norm_in_evaluation() -> None:
    frozen, plain = FrozenBatchNorm2d(3), torch.nn.BatchNorm2d(3).eval()
    state = {k: torch.rand(3) + 0.5 for k in frozen.state_dict()}
    frozen.load_state_dict(state)
    plain.load_state_dict(state, strict=False)
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(frozen(x), plain(x))
    assert not list(frozen.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_checkpoint_round_trip(dtype: torch.dtype, tmp_path: Path) -> None:
    network = models.MODELS["ssd300"].build(NAMES)
    models.save_checkpoint(network, tmp_path / "a.safetensors", dtype)
    again = models.load(weights=tmp_path / "a.safetensors", fuse=False)
    assert isinstance(again, SSD)
    assert again.class_names == NAMES
    for key, tensor in network.state_dict().items():
        expected = tensor.to(dtype if tensor.dim() > 1 else torch.float32).float()
        assert torch.equal(again.state_dict()[key], expected), key


def test_the_old_names_of_the_published_retinanet(tmp_path: Path) -> None:
    """Saved before torchvision wrapped the convolutions of the pyramid and the subnets, without batch counters."""
    network = models.MODELS["retinanet-resnet50"].build(NAMES)
    state = {}
    for key, tensor in network.state_dict().items():
        old = key
        for part in ("inner_blocks", "layer_blocks"):
            for i in range(3):
                old = old.replace(f"{part}.{i}.0.", f"{part}.{i}.")
        for i in range(4):
            old = old.replace(f"_head.conv.{i}.0.", f"_head.conv.{2 * i}.")
        state[old] = tensor
    assert "head.regression_head.conv.6.bias" in state
    torch.save(state, tmp_path / "old.pth")
    loaded = models.load("retinanet-resnet50", weights=tmp_path / "old.pth", class_names=NAMES, fuse=False)
    for key, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key


class Evil:
    def __reduce__(self) -> Any:
        return eval, ("1/0",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"backbone": Evil()}, "not a checkpoint of tensors only"),
        ([torch.zeros(1)], "must be a state dict"),
        ({"x": torch.zeros(1)}, "backbone.scale_weight is missing"),
    ],
)
def test_bad_torchvision_checkpoints(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match=rf"bad\.pth: .*{message}"):
        models.load("ssd300", weights=tmp_path / "bad.pth")


def test_a_truncated_checkpoint_and_one_of_another_model(tmp_path: Path) -> None:
    torch.save(models.MODELS["ssd300"].build(NAMES).state_dict(), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a\.pth: head.*has shape .*, the model needs"):
        models.load("ssd300", weights=tmp_path / "a.pth", class_names=["bg", "a", "b", "c"])
    with pytest.raises(WeightsError, match=r"a\.pth: .* is missing; the model is for another network"):
        models.load("retinanet-resnet50", weights=tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"b\.pth: not a checkpoint of PyTorch, or a damaged one: "):
        models.load("ssd300", weights=tmp_path / "b.pth")


def test_names_of_a_training_with_several_gpus(tmp_path: Path) -> None:
    network, copy = (RetinaNet(NAMES, width=4) for _ in range(2))
    state = network.state_dict()
    torch.save({f"module.{name}": tensor.half() for name, tensor in state.items()}, tmp_path / "a.pth")
    models.load_torchvision(copy, tmp_path / "a.pth")
    assert all(torch.equal(tensor, state[name].half().float()) for name, tensor in copy.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.to_sparse(), r"must be dense and of floating point, got torch\.sparse_coo torch\.float32"),
        (lambda t: t.to("meta"), "must be dense and of floating point, got no numbers"),
        (lambda t: t.int(), r"must be dense and of floating point, got torch\.strided torch\.int32"),
        (lambda t: t.to(torch.complex64), r"got torch\.strided torch\.complex64"),
        (lambda t: torch.nested.nested_tensor([t, t[:1]]), "must be dense and of floating point, got a nested tensor"),
        (lambda t: torch.full_like(t, 1e300, dtype=torch.float64), "has numbers that are not finite, inf to inf"),
    ],
)
def test_tensors_that_are_no_weights(change: Any, message: str, tmp_path: Path) -> None:
    network = RetinaNet(NAMES, width=4)
    state = network.state_dict()
    last = list(state)[-1]
    torch.save({name: change(t) if name == last else t * 2 for name, t in state.items()}, tmp_path / "a.pth")
    before = {name: tensor.clone() for name, tensor in state.items()}
    with pytest.raises(WeightsError, match=rf"a\.pth: {last} {message}" if message[0] == "m" else message):
        models.load_torchvision(network, tmp_path / "a.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.bfloat16, torch.float64])
def test_weights_of_other_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    network, copy = (RetinaNet(NAMES, width=4) for _ in range(2))
    state = {name: tensor.to(dtype) for name, tensor in network.state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    models.load_torchvision(copy, tmp_path / "a.pth")
    assert all(torch.equal(tensor, state[name].float()) for name, tensor in copy.state_dict().items())


def test_a_counter_of_another_shape(tmp_path: Path) -> None:
    network = RetinaNet(NAMES, width=4, version=2)
    counter = "backbone.body.bn1.num_batches_tracked"
    torch.save(network.state_dict() | {counter: torch.zeros(5)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=rf"{counter} has shape \[5\], the model needs \[\]"):
        models.load_torchvision(network, tmp_path / "a.pth")


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="size must be 300 or 512, got 400"):
        SSD(NAMES, 400)
    with pytest.raises(ValueError, match="at least one class, got 1"):
        SSD(["background"])
    with pytest.raises(ValueError, match="RetinaNet: class_names must be at least one, got 0"):
        RetinaNet([])
    with pytest.raises(ValueError, match="version must be 1 or 2, got 3"):
        RetinaNet(NAMES, version=3)
    with pytest.raises(ValueError, match="depth must be one of 50, 101, got 34"):
        ResNet(34)
    with pytest.raises(ValueError, match=r"ssd300 do not come with pydet. Their author offers .*b556d3b4\.pth"):
        models.load("ssd300")
    with pytest.raises(ValueError, match="ssd512 do not come with pydet; nobody is known to publish any"):
        models.load("ssd512")
    with pytest.raises(ValueError, match=r"yolov3-tiny has Darknet's weights, not a \.pth file"):
        models.load("yolov3-tiny", weights="a.pth")
    with pytest.raises(ValueError, match=r"ssd300 has torchvision's weights, not a \.weights file"):
        models.load("ssd300", weights="a.weights")
    with pytest.raises(ValueError, match=r"preprocess: image must be \[3, height, width\]"):
        SSD(NAMES).eval()([torch.zeros(1, 5, 5)])


@pytest.mark.parametrize("make", [small_retinanet, lambda: SSD(NAMES).eval()])
def test_only_a_fused_network_takes_channels_last_batches(make: Any) -> None:
    """Else its sums are torchvision's to the last bit, and so is the order of what is nearly equal."""
    network: DetectionModel = make()
    pictures = [torch.rand(3, 64, 64)] * 2
    assert network.batch_of(pictures).is_contiguous()
    assert network.fuse().batch_of(pictures).is_contiguous(memory_format=torch.channels_last)
