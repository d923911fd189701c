"""Networks in half precision: when they may be had, and that boxes stay whole in them."""

from __future__ import annotations

import copy
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import shared_path
from torch import Tensor
from torch.nn import functional as F

import pydet
from pydet import cli, models
from pydet.data import load_dataset
from pydet.evaluate import evaluate
from pydet.models import packed, precision
from pydet.models.darknet.base import Before
from pydet.models.darknet.cfg import Section
from pydet.models.darknet.connected import Connected
from pydet.models.packed import PackedConv2d, PackedWeight
from pydet.models.retinanet import RetinaNet
from pydet.models.ssd import SSD
from pydet.ops import conv as ours
from pydet.ops.round_weight import round_weight

DOG = Path(__file__).parent.parent / "pydet" / "assets" / "dog.jpg"
bfloat16_here = pytest.mark.skipif(not packed.computes_in(torch.bfloat16), reason="a CPU without bfloat16")


@pytest.fixture
def without_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older processor."""
    monkeypatch.setattr(precision, "computes_in", lambda dtype: dtype == torch.float32)


@bfloat16_here
def test_bfloat16_finds_the_same() -> None:
    whole, half = (pydet.load("yolov3-tiny", precision=name).detect(DOG, threshold=0.4) for name in ("f32", "bf16"))
    assert len(whole) == len(set(whole.names)) == len(half) == 4
    assert not torch.equal(half.scores.sort()[0], whole.scores.sort()[0])
    expected = {found.name: found for found in whole}
    for found in half:
        assert found.score == pytest.approx(expected[found.name].score, abs=0.03)
        assert found.box == pytest.approx(expected[found.name].box, abs=4)


@bfloat16_here
def test_auto_is_bfloat16_only_for_what_was_measured(tmp_path: Path) -> None:
    assert next(models.load("yolov3-tiny", precision="auto").parameters()).dtype == torch.bfloat16
    own = models.MODELS["yolov3-tiny"].build()
    models.save_checkpoint(own, tmp_path / "own.safetensors")
    loaded = models.load("yolov3-tiny", weights=tmp_path / "own.safetensors", precision="auto")
    assert next(loaded.parameters()).dtype == torch.float32
    assert precision.dtype_of("auto", "cpu", "yolov3") == torch.float32
    assert precision.dtype_of("auto", "meta", "yolov3-tiny") == torch.float32


@bfloat16_here
@pytest.mark.slow
@pytest.mark.parametrize("split", ["val2017", "train2017"])
def test_bfloat16_keeps_the_ap_of_what_auto_takes(split: str) -> None:
    """Within the .002 that `auto` promises."""
    data = load_dataset(shared_path(f"data/coco160/annotations/instances_{split}.json"))
    for name in precision.EXACT_IN_BFLOAT16:
        half, whole = (evaluate(pydet.load(name, precision=kind), data).metrics["AP"] for kind in ("auto", "f32"))
        assert half != whole
        assert half == pytest.approx(whole, abs=0.002)


def rounded_one_by_one(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Error diffusion, read from its description."""
    flat, owed, columns = weight.double().flatten(1), torch.zeros(len(weight), dtype=torch.float64), []
    for column in flat.unbind(1):
        columns.append((column + owed).float().to(dtype))
        owed = column + owed - columns[-1].double()
    return torch.stack(columns, dim=1).view(weight.shape)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_errors_of_rounded_weights_cancel(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 30, 3, 3, generator=g)
    found = round_weight(weight, dtype)
    assert found.dtype == dtype
    assert torch.equal(found, rounded_one_by_one(weight, dtype))
    assert torch.equal(round_weight(weight.contiguous(memory_format=torch.channels_last), dtype), found)
    step = torch.finfo(dtype).eps * 4  # between neighbours, of numbers below 8
    assert (found.float() - weight).abs().max() <= step
    for some in (slice(0, 1), slice(0, 7), slice(None)):
        owed = (found.double() - weight.double())[:, some].sum(dim=(1, 2, 3))
        assert owed.abs().max() <= step / 2
    nearest = (weight.to(dtype).double() - weight.double()).sum(dim=(1, 2, 3))
    assert nearest.abs().max() > 1.5 * step


def test_a_weight_that_is_too_large_spoils_no_other() -> None:
    weight = torch.tensor([[1.0, 1e5, 0.3, torch.nan, 0.7], [0.1, 0.2, 0.3, 0.4, 0.5]])
    found = round_weight(weight, torch.float16)
    assert found[0, 1].isinf()
    assert found[0, 3].isnan()
    assert found[:, [0, 2, 4]].isfinite().all()
    assert round_weight(torch.zeros(0, 3), torch.float16).shape == (0, 3)
    largest = torch.tensor([[4098.0, 65519.0, 1.0]])  # 4,096 owes 2, of which the next one must not become infinite
    assert round_weight(largest, torch.float16).tolist()[0][:2] == [4096, 65504]


def test_what_cannot_be_rounded() -> None:
    with pytest.raises(RuntimeError, match=r"_round_weight: weight must be float32 \[filters, ...\], got Double"):
        round_weight(torch.zeros(2, 2).double(), torch.bfloat16)
    with pytest.raises(RuntimeError, match=r"got Float \[\]"):
        round_weight(torch.tensor(1.0), torch.bfloat16)
    torch.library.opcheck(torch.ops.pydet._round_weight.default, (torch.rand(3, 4), True))


def test_layers_keep_their_layout_and_shared_weights() -> None:
    first, second, linear = torch.nn.Conv2d(4, 4, 3), torch.nn.Conv2d(4, 4, 3), torch.nn.Linear(5, 6)
    second.weight = first.weight
    last = torch.nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    expected = [round_weight(layer.weight.detach(), torch.float16) for layer in (first, second, linear, last)]
    precision.round_weights(torch.nn.ModuleList([first, second, linear, last]), torch.float16)
    for layer, weight in zip((first, second, linear, last), expected, strict=True):
        assert torch.equal(layer.weight, weight)
    assert first.weight is second.weight
    assert first.weight.is_contiguous()
    assert last.weight.is_contiguous(memory_format=torch.channels_last)
    assert linear.bias.dtype == torch.float32  # for `to`


@bfloat16_here
def test_loaded_weights_are_rounded_so() -> None:
    whole, half = (models.load("yolov3-tiny", precision=name) for name in ("f32", "bf16"))
    for a, b in zip(whole.modules(), half.modules(), strict=True):
        if isinstance(a, torch.nn.Conv2d):
            assert torch.equal(b.weight, round_weight(a.weight, torch.bfloat16))
            assert b.weight.is_contiguous(memory_format=torch.channels_last)
            assert not b.weight.requires_grad


@pytest.mark.usefixtures("without_half")
def test_what_the_processor_lacks_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"precision 'bf16': this processor cannot compute in it \(x86: AVX512-BF16"):
        models.load("yolov3-tiny", precision="bf16")
    with pytest.raises(ValueError, match=r"precision 'fp16': this processor cannot compute in it .*; use f32"):
        models.load("yolov3-tiny", precision="fp16")
    assert next(models.load("yolov3-tiny", precision="auto").parameters()).dtype == torch.float32
    assert cli.main(["detect", str(DOG), "--precision", "bf16", "--no-pictures"]) == 2
    assert "this processor cannot compute in it" in capsys.readouterr().err


def test_unknown_precisions_are_refused() -> None:
    with pytest.raises(ValueError, match="load: precision must be one of auto, f32, bf16, fp16, got 'int8'"):
        models.load("yolov3-tiny", precision="int8")


@pytest.mark.parametrize("make", [lambda: SSD(["background", "a"]), lambda: RetinaNet(["a"], width=16)])
@torch.inference_mode()
def test_boxes_stay_whole_in_half_a_network(make) -> None:  # type: ignore[no-untyped-def]
    """Default boxes and limits such as 1,333 pixels are no numbers of bfloat16."""
    torch.manual_seed(0)
    network = make().eval()
    network.max_detections = 50
    picture = torch.rand(3, 301, 517)
    whole = network([picture], score_threshold=0.0)[0]["boxes"]
    half = network.to(torch.bfloat16)([picture], score_threshold=0.0)[0]["boxes"]
    assert half.dtype == torch.float32
    assert whole.shape == half.shape
    assert not torch.equal(half, half.to(torch.bfloat16).float())
    if isinstance(network, SSD):
        assert network.boxes.dtype == torch.float32


@pytest.mark.skipif(not packed.available(), reason="only on x86 with oneDNN")
@pytest.mark.parametrize("dtype", [d for d in packed.DTYPES if packed.computes_in(d)], ids=str)
@torch.no_grad()
def test_sum_and_relu_in_one_pass(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(32, 48, 3, padding=1).to(dtype).requires_grad_(False)
    x, onto = (torch.randn(2, c, 9, 7).to(dtype).contiguous(memory_format=torch.channels_last) for c in (32, 48))
    exact = (conv.double()(x.double()) + onto.double()).relu()
    conv.to(dtype)
    address = onto.data_ptr()
    found = PackedConv2d(conv, relu=True).add_to(onto, x)
    assert found.data_ptr() == address
    tolerance = max(4 * torch.finfo(dtype).eps, 1e-5)
    torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(not packed.available(), reason="only on x86 with oneDNN")
@pytest.mark.parametrize("dtype", [d for d in packed.DTYPES if packed.computes_in(d)], ids=str)
@pytest.mark.parametrize("activation", packed.SLOPES)
@torch.no_grad()  # not inference mode, whose tensors do not count how often they are changed
def test_a_connected_layer_is_laid_out_once_for_every_batch(
    activation: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    made, by_us, by_onednn = [], ours.laid_out, torch.ops.mkldnn._reorder_linear_weight
    monkeypatch.setattr(ours, "laid_out", lambda *a: made.append(a) or by_us(*a))
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", lambda *a: made.append(a) or by_onednn(*a))
    layer = Connected(Section("connected", {"output": "37", "activation": activation}), Before((16, 5, 3))).to(dtype)
    layer.requires_grad_(False)
    exact = copy.deepcopy(layer).double()
    monkeypatch.setattr(torch.nn.Linear, "forward", None)
    for batch in (1, 4, 3):
        x = torch.randn(batch, 16, 5, 3).to(dtype)
        expected = F.linear(x.double().flatten(1), exact.linear.weight, exact.linear.bias)
        expected = exact.activate(expected)[:, :, None, None]
        tolerance = max(4 * torch.finfo(dtype).eps, 1e-5)
        torch.testing.assert_close(layer(x).double(), expected, rtol=tolerance, atol=tolerance)
    assert len(made) == 1
    layer.load_state_dict({name: 2 * t for name, t in layer.state_dict().items()})
    torch.testing.assert_close(
        layer(x).double()[expected > 0], 2 * expected[expected > 0], rtol=tolerance, atol=tolerance
    )
    assert len(made) == 2


@pytest.mark.skipif(not packed.available(), reason="only on x86 with oneDNN")
@torch.no_grad()
def test_layouts_are_kept_for_so_many_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    reorder = torch.ops.mkldnn._reorder_convolution_weight
    monkeypatch.setattr(
        torch.ops.mkldnn, "_reorder_convolution_weight", lambda *a: made.append(a[-1][2:]) or reorder(*a)
    )
    conv, weight = torch.nn.Conv2d(8, 8, 3, padding=1).requires_grad_(False), PackedWeight(most_sizes=2)
    for side in (4, 6, 4, 6, 8, 8):
        x = torch.randn(1, 8, side, side)
        found = weight.convolve(conv, "linear", x)
        torch.testing.assert_close(found, conv(x), rtol=1e-4, atol=1e-5)
    assert made == [[4, 4], [6, 6], [8, 8]]


@pytest.mark.skipif(not packed.available(), reason="only on x86 with oneDNN")
@pytest.mark.parametrize("moment", range(8))
def test_threads_with_maps_of_different_sizes_share_a_convolution(moment: int) -> None:
    """Another one throws away the layouts that this one is about to use, before a certain one of its lines."""
    conv = torch.nn.Conv2d(2, 2, 3, padding=1).requires_grad_(False)
    weight, small, large = PackedWeight(), torch.randn(1, 2, 4, 4), torch.randn(1, 2, 6, 6)
    lines, before = 0, sys.gettrace()

    def another(frame: Any, event: str, arg: object) -> Any:
        nonlocal lines
        if frame.f_code.co_name != "_laid_out":
            return None
        if event == "line":
            if lines == moment:
                pool.submit(weight.convolve, conv, "linear", large).result()
            lines += 1
        return another

    with ThreadPoolExecutor(1) as pool:
        sys.settrace(another)
        try:
            found = weight.convolve(conv, "linear", small)
        finally:
            sys.settrace(before)
    assert lines > 5
    torch.testing.assert_close(found, conv(small), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not packed.available(), reason="only on x86 with oneDNN")
@torch.no_grad()
def test_a_weight_in_the_memory_of_an_earlier_one_is_laid_out_anew() -> None:
    conv, x = PackedConv2d(torch.nn.Conv2d(8, 8, 3, padding=1), relu=False), torch.randn(1, 8, 4, 4)
    g = torch.Generator().manual_seed(0)
    for _ in range(30):
        for _ in range(2):  # the first one's memory is freed, and may become that of one of the next round
            new = {"weight": torch.randn(8, 8, 3, 3, generator=g), "bias": torch.zeros(8)}
            conv.load_state_dict(new, assign=True)
        expected = torch.nn.functional.conv2d(x, conv.weight, conv.bias, padding=1)
        torch.testing.assert_close(conv(x), expected, rtol=1e-3, atol=1e-4)
