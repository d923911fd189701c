from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from op_cases import clustered_boxes
from torch import Tensor

from pydet import ops, reference
from pydet.ops.multiclass_nms import multiclass_nms_by_class

NAN, INF = float("nan"), float("inf")


def detections(n: int, classes: int, seed: int = 0, batch: int = 2, decimals: int | None = 2) -> tuple[Tensor, Tensor]:
    """Clustered boxes [B, N, 4] and scores [B, N, C] of so few decimals that many are equal."""
    g = torch.Generator().manual_seed(seed)
    boxes = torch.stack([clustered_boxes(n, g) for _ in range(batch)])
    scores = torch.rand(batch, n, classes, generator=g) ** 4
    return boxes, scores if decimals is None else scores.round(decimals=decimals)


def assert_equals_reference(*args: Any, **options: Any) -> None:
    ours, expected = ops.multiclass_nms(*args, **options), reference.multiclass_nms(*args, **options)
    for name, a, b in zip(("boxes", "scores", "labels", "rows", "count"), ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=lambda m, name=name: f"{name}: {m}")


def test_worked_by_hand() -> None:
    # Rows 0 and 1 overlap by 0.8; row 2 is elsewhere. Two classes.
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30]]])
    scores = torch.tensor([[[0.9, 0.3], [0.8, 0.6], [0.1, 0.7]]])
    out_boxes, out_scores, labels, rows, count = ops.multiclass_nms(boxes, scores, 0.25, 0.5, 5)
    assert count.tolist() == [3]  # (0, class 0), (2, class 1), (1, class 1); (1, class 0) and (0, class 1) fall
    assert rows.tolist() == [[0, 2, 1, 0, 0]]
    assert labels.tolist() == [[0, 1, 1, -1, -1]]
    assert torch.equal(out_scores[0], torch.tensor([0.9, 0.7, 0.6, 0, 0]))
    assert torch.equal(out_boxes[0], torch.cat([boxes[0, [0, 2, 1]], torch.zeros(2, 4)]))

    def found(**options: Any) -> list[tuple[int, int]]:
        _, _, labels, rows, count = ops.multiclass_nms(boxes, scores, 0.25, 0.5, 5, **options)
        return list(zip(rows[0].tolist(), labels[0].tolist(), strict=True))[: int(count)]

    assert found(class_agnostic=True) == [(0, 0), (2, 1)]
    assert found(multi_label=False) == [(0, 0), (2, 1)]  # row 1 only competes in class 0
    assert found(pre_nms_top_k=2) == [(0, 0)]


def test_equal_scores_are_ordered_by_row_and_then_by_class() -> None:
    boxes = torch.tensor([[20.0 * i, 0, 20.0 * i + 10, 10] for i in range(700)])[None]
    _, _, labels, rows, count = ops.multiclass_nms(boxes, torch.full((1, 700, 3), 0.5), 0.1, 0.5, 2000)
    assert count.tolist() == [2000]
    assert torch.equal(rows[0] * 3 + labels[0], torch.arange(2000))


def test_equals_a_loop_of_batched_nms() -> None:
    boxes, scores = detections(2000, 20, decimals=None)
    out_boxes, out_scores, labels, _, count = ops.multiclass_nms(boxes, scores, 0.05, 0.5, 300, 4000)
    for i in range(2):
        row, label = (scores[i] > 0.05).nonzero(as_tuple=True)
        top = scores[i, row, label].topk(4000).indices
        row, label = row[top], label[top]
        keep = ops.batched_nms(boxes[i, row], scores[i, row, label], label, 0.5)[:300]
        assert count[i] == len(keep)
        assert torch.equal(out_boxes[i, : len(keep)], boxes[i, row[keep]])
        assert torch.equal(out_scores[i, : len(keep)], scores[i, row[keep], label[keep]])
        assert torch.equal(labels[i, : len(keep)], label[keep])


@pytest.mark.parametrize("class_agnostic", [False, True], ids=["per class", "agnostic"])
@pytest.mark.parametrize("multi_label", [False, True], ids=["one label", "many labels"])
@pytest.mark.parametrize(("n", "classes"), [(1, 1), (13, 1), (40, 7), (300, 33), (700, 80)])
@pytest.mark.parametrize(("most", "top_k"), [(1, None), (20, 50), (100, 1), (1000, 300), (60, 2000)])
def test_every_option(
    class_agnostic: bool, multi_label: bool, n: int, classes: int, most: int, top_k: int | None
) -> None:
    boxes, scores = detections(n, classes, seed=n)
    assert_equals_reference(boxes, scores, 0.3, 0.5, most, top_k, class_agnostic, multi_label)


def test_many_candidates_and_few_kept() -> None:
    """Few objects, each found thousands of times: the first guess at what fills the output is far too low."""
    g = torch.Generator().manual_seed(0)
    boxes = torch.stack([clustered_boxes(5000, g, per_object=500) for _ in range(3)])
    assert_equals_reference(boxes, torch.rand(3, 5000, 2, generator=g), 0.01, 0.3, 60)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("spread", [1e-13, 1e-9, 1e-6, 1.0])
def test_scores_that_hardly_differ(dtype: torch.dtype, spread: float) -> None:
    """Selection goes by the leading bits of the scores: those that share them must still be ordered, none lost."""
    g = torch.Generator().manual_seed(0)
    boxes = torch.stack([clustered_boxes(3000, g) for _ in range(2)])
    scores = 0.5 + spread * torch.rand(2, 3000, 2, generator=g, dtype=torch.float64)
    assert_equals_reference(boxes, scores.to(dtype), 0.1, 0.5, 30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("score_dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_boxes_of_every_class_and_mixed_dtypes(dtype: torch.dtype, score_dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    boxes = clustered_boxes(2 * 90 * 6, g).reshape(2, 90, 6, 4).to(dtype)
    scores = torch.rand(2, 90, 6, generator=g).to(score_dtype)
    ours = ops.multiclass_nms(boxes, scores, 0.4, 0.5, 150)
    assert ours[0].dtype == dtype
    assert ours[1].dtype == score_dtype
    assert_equals_reference(boxes, scores, 0.4, 0.5, 150)


def test_scores_are_read_in_place_from_predictions() -> None:
    g = torch.Generator().manual_seed(0)
    for classes in (3, 16, 33, 80):
        predictions = torch.cat([clustered_boxes(2 * 500, g), torch.rand(1000, 1 + classes, generator=g)], dim=1)
        predictions = predictions.reshape(2, 500, 5 + classes)
        boxes, scores = predictions[..., :4], predictions[..., 5:]
        for a, b in zip(
            ops.multiclass_nms(boxes, scores, 0.7, 0.5, 90),
            ops.multiclass_nms(boxes.contiguous(), scores.contiguous(), 0.7, 0.5, 90),
            strict=True,
        ):
            assert torch.equal(a, b)
        assert_equals_reference(boxes, scores, 0.7, 0.5, 90)


@pytest.mark.parametrize("threshold", [-INF, -1.0, 0.0, 0.1, 0.25, 1.0, INF])
@pytest.mark.parametrize("multi_label", [False, True], ids=["one label", "many labels"])
def test_nan_infinite_and_negative_scores(threshold: float, multi_label: bool) -> None:
    boxes, scores = detections(200, 5)
    scores[0, ::3, 1] = NAN
    scores[0, 1::7, 2] = INF
    scores[1, ::2] = -scores[1, ::2]
    scores[1, 3::5, 4] = -INF
    boxes[1, ::9] = NAN
    assert_equals_reference(boxes, scores, threshold, 0.5, 400, None, False, multi_label)


def test_a_score_equal_to_the_threshold_is_left_out() -> None:
    boxes = torch.tensor([[[0.0, 0, 1, 1]]])
    for dtype in (torch.float32, torch.float64):
        score = torch.tensor([[[0.1]]], dtype=dtype)
        assert ops.multiclass_nms(boxes, score, 0.1, 0.5, 1)[4].tolist() == [0]
        assert ops.multiclass_nms(boxes, score, math.nextafter(0.1, 0) - 1e-8, 0.5, 1)[4].tolist() == [1]


@pytest.mark.parametrize(("batch", "n", "classes"), [(0, 5, 3), (2, 0, 3), (2, 5, 0), (1, 0, 0)])
def test_empty(batch: int, n: int, classes: int) -> None:
    for box_shape in ((batch, n, 4), (batch, n, classes, 4)):
        boxes = torch.zeros(box_shape, requires_grad=True)
        assert_equals_reference(boxes.detach(), torch.zeros(batch, n, classes), 0.5, 0.5, 7)
        ops.multiclass_nms(boxes, torch.zeros(batch, n, classes), 0.5, 0.5, 7)[0].sum().backward()
        assert boxes.grad is not None
        assert not boxes.grad.any()


def test_gradient_goes_to_what_was_chosen() -> None:
    boxes, scores = detections(30, 4, decimals=None)
    per_class = boxes[:, :, None].repeat(1, 1, 4, 1).requires_grad_()
    scores.requires_grad_()
    out_boxes, out_scores, labels, rows, count = ops.multiclass_nms(per_class, scores, 0.2, 0.5, 40)
    (3 * out_boxes.sum() + out_scores.sum()).backward()
    expected = torch.zeros_like(scores)
    for i in range(2):
        expected[i, rows[i, : count[i]], labels[i, : count[i]]] = 1
    assert 0 < count.min() <= count.max() < 40
    assert torch.equal(scores.grad, expected)
    assert torch.equal(per_class.grad, 3 * expected[..., None].expand(-1, -1, -1, 4))


@pytest.mark.parametrize("class_top_k", [1, 3, 20, 300, 1000])
@pytest.mark.parametrize("score_threshold", [-1.0, 0.05, 0.9, 2.0])
def test_of_the_best_of_each_class(class_top_k: int, score_threshold: float) -> None:
    """Beside the other way, which ranks all classes: that of GPUs, of compiled programs, and where a gradient goes."""
    boxes, scores = detections(300, 5, decimals=None)
    scores[1, :, 3] -= 1
    for most in (7, 2000):
        options = score_threshold, 0.5, most, class_top_k
        found = multiclass_nms_by_class(boxes, scores, *options)
        with ops.set_backend("reference"):
            expected = multiclass_nms_by_class(boxes, scores, *options)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        of_class = torch.stack([(found[2] == label).sum(1) for label in range(5)])
        assert of_class.max() <= class_top_k
        assert (found[3] > 0).any() == (score_threshold < 1)
    wanted = scores.clone().requires_grad_()
    multiclass_nms_by_class(boxes, wanted, score_threshold, 0.5, 7, class_top_k)[1].sum().backward()
    assert wanted.grad.sum() == multiclass_nms_by_class(boxes, scores, score_threshold, 0.5, 7, class_top_k)[3].sum()


def test_best_of_each_class_for_compilers_and_bad_input() -> None:
    operator = torch.ops.pydet._multiclass_nms_by_class.default
    torch.library.opcheck(operator, (*detections(50, 3), 0.1, 0.5, 9, 4))
    with pytest.raises(RuntimeError, match="class_top_k must be at least 1, got 0"):
        operator(*detections(50, 3), 0.1, 0.5, 9, 0)


def test_shapes_depend_on_no_value() -> None:
    """Compiled once, without the graph breaks or unbacked sizes that nms itself brings."""
    torch._dynamo.reset()
    graphs = 0

    def backend(module: Any, example: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return module

    def detect(boxes: Tensor, scores: Tensor) -> Tensor:
        found, values, _, _, count = ops.multiclass_nms(boxes, scores.sigmoid(), 0.5, 0.5, 10)
        return found * values[..., None] + count[:, None, None]

    compiled = torch.compile(detect, fullgraph=True, backend=backend)
    for shift in (-3.0, 0.0, 3.0):
        boxes, scores = detections(60, 4)
        assert torch.equal(compiled(boxes, scores + shift), detect(boxes, scores + shift))
    assert graphs == 1


B, S = torch.zeros(2, 7, 4), torch.zeros(2, 7, 3)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((B, torch.zeros(2, 7), 0.1, 0.5, 9), r"scores must be \[B, N, C\], got \[2, 7\]"),
        ((torch.zeros(2, 7, 5), S, 0.1, 0.5, 9), r"with \[B, N, C\] = \[2, 7, 3\] as in scores, got \[2, 7, 5\]"),
        ((torch.zeros(2, 7, 2, 4), S, 0.1, 0.5, 9), r"as in scores, got \[2, 7, 2, 4\]"),
        ((torch.zeros(7, 4), S, 0.1, 0.5, 9), r"as in scores, got \[7, 4\]"),
        ((B.long(), S, 0.1, 0.5, 9), "boxes must be a floating tensor, got Long"),
        ((B, S.bool(), 0.1, 0.5, 9), "scores must be a floating tensor, got Bool"),
        ((B, S, NAN, 0.5, 9), "score_threshold must be a number, got nan"),
        ((B, S, 0.1, NAN, 9), "iou_threshold must be a number, got nan"),
        ((B, S, 0.1, 0.5, 0), "max_per_image must be at least 1, got 0"),
        ((B, S, 0.1, 0.5, 9, 0), "pre_nms_top_k must be None or at least 1, got 0"),
        ((B, torch.zeros(1).expand(2, 7, 2**29), 0.1, 0.5, 9), "scores of an image must be at most 2147483647"),
    ],
)
def test_bad_input(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match="multiclass_nms: .*" + message):
        ops.multiclass_nms(*args)
