"""match_cells beyond what every operator shares: assignments by hand, oddities, and those of the real Darknet."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shared_path
from op_cases import match_cells_inputs, random_boxes
from torch import Tensor

from pydet import reference
from pydet.ops import box_convert, match_anchors, match_cells, yolo_decode

NAN, INF = math.nan, math.inf


def boxes_of(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def centred(*rows: tuple[float, ...]) -> Tensor:
    """Boxes from (centre x, centre y, width, height)."""
    return box_convert(boxes_of(*rows), "cxcywh", "xyxy")


NOWHERE = centred((-100, -100, 2, 2)).expand(1, 12, 4)  # 2 x 3 cells of 20 pixels, two predictions each
GRID, SIZE = (2, 3), (40, 60)
PRIORS = torch.tensor([[10.0, 10], [20, 10], [10, 20]])


def match(truths: Tensor, *args: Any, predictions: Tensor = NOWHERE, **kwargs: Any) -> tuple[list[int], list[int]]:
    """Of one image on the grid above: matches, predictors."""
    matches, predictors = match_cells(predictions, truths, torch.tensor([len(truths)]), GRID, SIZE, *args, **kwargs)
    assert [t.tolist() for t in (matches, predictors)] == [
        t.tolist()
        for t in reference.match_cells(predictions, truths, torch.tensor([len(truths)]), GRID, SIZE, *args, **kwargs)
    ]
    return matches[0].tolist(), predictors.tolist()


def test_best_prior_of_all_heads_by_hand() -> None:
    """YOLOv3: cell int(x / 20), int(y / 20). The second is widest and so prior 1's, which this head has first; the
    third is prior 0's, of another head."""
    truths = centred((5, 5, 9, 21), (59, 39, 30, 12), (30, 10, 8, 9))
    matches, predictors = match(truths, priors=PRIORS, mask=[1, 2])
    assert predictors == [1, 10, -1]
    assert matches == [-1, 0] + [-1] * 8 + [1, -1]


def test_priors_without_a_mask_are_in_order() -> None:
    """YOLOv2: IoU with 10 x 10 is 70 / 100 = 0.7, with 20 x 10 it is 70 / 200."""
    assert match(centred((25, 5, 7, 10)), priors=PRIORS[:2])[1] == [2]
    assert match(centred((25, 5, 7, 10)), priors=PRIORS[:2].flip(0))[1] == [3]


def test_first_of_equal_priors_wins() -> None:
    """A square of 20: 200 / 400 with both oblongs; the first in the mask is not the first of the priors."""
    assert match(centred((5, 5, 20, 20)), priors=PRIORS, mask=[2, 1])[1] == [1]
    assert match(centred((5, 5, 20, 20)), priors=PRIORS[1:].flip(0), mask=[1, 0])[1] == [1]


def test_a_prior_may_be_in_two_heads_or_twice_in_one() -> None:
    """The official YOLOv3-tiny has prior 3 in both heads; in a mask that repeats one the first place counts."""
    assert match(centred((5, 5, 20, 10)), priors=PRIORS, mask=[0, 1])[1] == [1]
    assert match(centred((5, 5, 20, 10)), priors=PRIORS, mask=[1, 2])[1] == [0]
    assert match(centred((5, 5, 20, 10)), priors=PRIORS, mask=[1, 1])[1] == [0]


def test_shapes_of_the_predictions_in_place_of_priors() -> None:
    """Darknet's bias_match=0: of the two predictions of cell 4 the second has nearly the shape, wherever it lies."""
    predictions = NOWHERE.clone()
    predictions[0, 8:10] = centred((25, 25, 9, 5), (-300, 0, 11, 20))
    assert match(centred((25, 25, 10, 20)), predictions=predictions)[1] == [9]


def test_two_of_one_prediction() -> None:
    """Darknet: the last one has the box; the loss of its classes knows both."""
    truths = centred((5, 5, 9, 10), (7, 4, 10, 10))
    assert match(truths, priors=PRIORS[:2]) == ([1] + [-1] * 11, [0, 0])


def test_ignored_predictions() -> None:
    """IoUs 1, 0.5 and 0.51 with the first truth; more than the threshold is left out, equal to it is not."""
    predictions = NOWHERE.clone()
    predictions[0, 4:7] = boxes_of((0, 0, 10, 100), (0, 0, 10, 50), (0, 0, 10, 51))
    truths = boxes_of((0, 0, 10, 100), (40, 0, 60, 10))  # centre (5, 50): outside, trains nothing
    expected = [-1] * 4 + [-2, -1, -2] + [-1] * 5
    assert match(truths[:1], priors=PRIORS[:2], ignore_threshold=0.5, predictions=predictions) == (expected, [-1])
    # row 5 is the second prediction of cell 2, whose prior of 20 x 10 the second truth takes: trained, not left out
    predictions[0, 5] = truths[1]
    expected[5] = 1
    assert match(truths, priors=PRIORS[:2], ignore_threshold=0.5, predictions=predictions) == (expected, [-1, 5])
    assert match(truths, priors=PRIORS[:2], predictions=predictions)[0] == [-1] * 5 + [1] + [-1] * 6


def test_most_overlapping_prediction_by_hand() -> None:
    """YOLO section 2.2: IoU with the truth 10 x 10 is 50 / 100 and 60 / 100; then equal, where the first wins."""
    predictions = NOWHERE.clone()
    predictions[0, 8:10] = boxes_of((20, 20, 25, 30), (20, 20, 26, 30))
    truth = boxes_of((20, 20, 30, 30))
    assert match(truth, "overlap", predictions=predictions) == ([-1] * 9 + [0, -1, -1], [9])
    predictions[0, 9] = boxes_of((25, 20, 30, 30))
    assert match(truth, "overlap", predictions=predictions)[1] == [8]


def test_nearest_prediction_where_none_overlaps() -> None:
    """In fractions of 60 x 40: the first is 30 / 60 off in x, the second 22 / 40 in y, which is more."""
    predictions = NOWHERE.clone()
    truth = centred((25, 25, 10, 10))
    predictions[0, 8:10] = centred((55, 25, 10, 10), (25, 3, 10, 10))
    assert match(truth, "overlap", predictions=predictions)[1] == [8]
    predictions[0, 8] = centred((25, 5, 10, 10))  # 20 / 40, but with another height: + (12 / 40)^2
    predictions[0, 8, 3] += 6
    predictions[0, 8, 1] -= 6
    assert match(truth, "overlap", predictions=predictions)[1] == [9]
    # (20 / 40)^2 + (12 / 60)^2 is less than (30 / 60)^2 + (10 / 40)^2
    predictions[0, 8:10] = centred((25, 5, 22, 10), (55, 25, 10, 20))
    assert match(truth, "overlap", predictions=predictions)[1] == [8]


def test_a_little_overlap_beats_any_distance() -> None:
    predictions = NOWHERE.clone()
    predictions[0, 8:10] = boxes_of((30, 20, 40, 30), (29.5, 29.5, 900, 900))
    assert match(boxes_of((20, 20, 30, 30)), "overlap", predictions=predictions)[1] == [9]


def test_predictions_too_far_away_or_nan_are_not_responsible() -> None:
    """Darknet starts from a distance of 20, and writes outside of its arrays where none is less."""
    predictions = NOWHERE.clone()
    truth = centred((25, 25, 10, 10))
    predictions[0, 8:10] = centred((25 + 20 * 60, 25, 10, 10), (NAN, 25, 10, 10))
    assert match(truth, "overlap", predictions=predictions) == ([-1] * 12, [-1])
    predictions[0, 9] = centred((25 + 20 * 60 - 1, 25, 10, 10))
    assert match(truth, "overlap", predictions=predictions)[1] == [9]


def test_one_object_a_cell_in_mode_overlap() -> None:
    """YOLO section 2.4; Darknet keeps the first. A truth that no prediction serves still has its cell."""
    predictions = NOWHERE.clone()
    predictions[0, 8:10] = boxes_of((20, 20, 30, 30), (30, 30, 40, 40))
    assert match(predictions[0, 8:10].flip(0), "overlap", predictions=predictions) == ([-1] * 9 + [0, -1, -1], [9, -1])
    predictions[0, 8:10] = NAN
    assert match(centred((25, 25, 4, 4), (26, 26, 4, 4)), "overlap", predictions=predictions)[1] == [-1, -1]


@pytest.mark.parametrize("mode", ["shape", "overlap"])
@pytest.mark.parametrize(
    "odd",
    [
        centred((60, 5, 4, 4)),  # centre on the right edge: in no cell
        centred((5, 40, 4, 4)),
        centred((-0.001, 5, 4, 4)),
        centred((5, -3, 4, 4)),
        centred((5, 5, 0, 4)),
        centred((5, 5, 4, 0)),
        boxes_of((8, 3, 4, 5)),  # inverted
        boxes_of((NAN, 3, 8, 5)),
        boxes_of((3, 3, 8, NAN)),
        boxes_of((3, 3, INF, 5)),
        boxes_of((-INF, 3, INF, 5)),
    ],
    ids=str,
)
def test_ground_truths_that_train_nothing(odd: Tensor, mode: str) -> None:
    """Nor do they hide the others: the second one has its prediction and its cell."""
    priors = PRIORS[:2] if mode == "shape" else None
    other = centred((5, 5, 20, 10))
    for place in (0, 1):
        truths = torch.cat([other, odd][:: 1 - 2 * place])
        matches, predictors = match(truths, mode, priors, None, 0.5, predictions=other.expand(1, 12, 4))
        assert predictors[1 - place] == -1
        assert predictors[place] == (1 if mode == "shape" else 0)
        assert matches[predictors[place]] == place
        assert matches.count(-2) == 11  # all have an IoU of 1 with the other, NaN or not with the odd one


def test_a_centre_on_an_edge_is_in_the_next_cell() -> None:
    """As Darknet's int(x * W)."""
    assert match(centred((20, 5, 10, 10)), priors=PRIORS[:2])[1] == [2]
    assert match(centred((0, 0, 10, 10)), priors=PRIORS[:2])[1] == [0]
    assert match(centred((40, 20, 10, 10)), priors=PRIORS[:2])[1] == [10]


@pytest.mark.parametrize("function", [match_cells, reference.match_cells])
def test_the_place_of_a_centre_is_rounded_to_float32(function: Any) -> None:
    """0.7 in float32 is less than 7 / 10, but 10 times that in float32 is 7; and nothing is rounded out of the grid."""
    share, almost = float(torch.tensor(0.7)), 1 - 1e-15
    assert share < 0.7
    for x, column in ((share, 7), (almost, 9)):
        truth = torch.tensor([[320 * x - 5, 1, 320 * x + 5, 31]], dtype=torch.float64)
        _, predictors = function(torch.zeros(1, 10, 4), truth, torch.tensor([1]), (1, 10), (32, 320), priors=PRIORS[:1])
        assert predictors.tolist() == [column]


def test_boxes_as_fractions() -> None:
    scale = torch.tensor([60.0, 40, 60, 40])
    truths = centred((5, 5, 9, 21), (59, 39, 30, 12), (30, 10, 8, 9))
    args = (torch.tensor([3]), GRID)
    for mode, priors in (("shape", PRIORS[:2]), ("overlap", None)):
        pixels = match_cells(NOWHERE, truths, *args, SIZE, mode, priors)
        fractions = None if priors is None else priors / scale[:2]
        scaled = match_cells(NOWHERE / scale, truths / scale, *args, (1, 1), mode, fractions)
        assert all(torch.equal(a, b) for a, b in zip(pixels, scaled, strict=True))


def test_ragged_batch_is_a_loop() -> None:
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        predictions, truths, counts, *rest = match_cells_inputs(7 + seed, generator)
        matches, predictors = match_cells(predictions, truths, counts, *rest)
        assert (counts == 0).any()
        first = 0
        for image, count in enumerate(counts.tolist()):
            mine = (predictions[image : image + 1], truths[first : first + count], counts[image : image + 1])
            own_matches, own_predictors = match_cells(*mine, *rest)
            assert torch.equal(own_matches[0], matches[image])
            expected = torch.where(own_predictors < 0, -1, own_predictors + image * matches.shape[1])
            assert torch.equal(predictors[first : first + count], expected)
            first += count


def test_what_is_left_out_is_what_match_anchors_finds() -> None:
    """A second way to the ignored ones: IoU at least the next number after the threshold."""
    generator = torch.Generator().manual_seed(0)
    predictions = random_boxes(3 * 13 * 13 * 3, generator).reshape(3, -1, 4)
    truths, counts = random_boxes(60, generator), torch.tensor([30, 0, 30])
    truths[:30] = predictions[0, ::17][:30] + 2
    above = float(np.nextafter(np.float32(0.7), np.float32(1)))
    found = match_anchors(predictions, truths, counts, above, mode="threshold") >= 0
    matches, predictors = match_cells(
        predictions, truths, counts, (13, 13), (760, 760), priors=PRIORS, ignore_threshold=0.7
    )
    assert found.sum() > 10
    assert torch.equal(matches == -2, found & (matches < 0))
    assert (matches.flatten()[predictors[predictors >= 0]] >= 0).all()


def test_predictors_are_rows_of_the_batch_and_agree_with_matches() -> None:
    generator = torch.Generator().manual_seed(3)
    predictions, truths, counts, *rest = match_cells_inputs(33, generator)  # mode overlap: nothing twice
    matches, predictors = match_cells(predictions, truths, counts, *rest)
    index = torch.cat([torch.arange(int(count)) for count in counts])
    trained = predictors >= 0
    assert trained.any()
    assert not trained.all()
    assert torch.equal(matches.flatten()[predictors[trained]], index[trained])
    assert (matches >= 0).sum() == trained.sum()


def recorded_maps(recording: Any, key: str, options: dict[str, Any]) -> Tensor:
    """[B, H * W * N, 5 + C] of a layer's values [B, N * (5 + C) * H * W]."""
    values = torch.from_numpy(recording[key])
    shape = (len(values), options["n"], 5 + options["classes"], options["h"], options["w"])
    return values.reshape(shape).permute(0, 3, 4, 1, 2).reshape(len(values), -1, 5 + options["classes"])


def recorded_truths(recording: Any, key: str, width: float, height: float) -> tuple[Tensor, Tensor]:
    """xyxy in pixels, and counts: each list ends at the first x of 0."""
    lists = [rows[: int(np.argmax(np.append(rows[:, 0], 0) == 0))] for rows in recording[key]]
    boxes = torch.from_numpy(np.concatenate(lists)[:, :4]).double() * torch.tensor([width, height] * 2).double()
    return box_convert(boxes, "cxcywh", "xyxy"), torch.tensor([len(rows) for rows in lists])


@pytest.mark.parametrize(
    "name",
    [
        *(f"yolo_{kind}" for kind in ("i5_two", "i7_empty", "map")),
        *(f"region_{kind}" for kind in ("early", "logistic", "softmax", "tree_det")),
    ],
)
def test_assignments_of_darknet(name: str) -> None:
    """Seen in its gradients: an ignored prediction has none of its objectness, a negative has some of it only, and an
    assigned one has those of the box and classes too."""
    recording = np.load(shared_path(f"conformance/train/loss_{name}.npz"))
    width, height = (int(extent) for extent in recording["netwh"])
    truths, counts = recorded_truths(recording, "truth", width, height)
    for layer in recording["layers"]:
        options = json.loads(str(recording[f"opts{layer}"]))
        grid = (options["h"], options["w"])
        gradient = recorded_maps(recording, f"delta_logit{layer}", options)
        assigned = (gradient[..., 5:] != 0).any(dim=-1)
        left_out = ~assigned & (gradient[..., 4] == 0)

        priors = torch.tensor(options["anchors"]).reshape(-1, 2)
        if "mask" not in options:  # [region] has them in cells
            priors = priors * torch.tensor([width / grid[1], height / grid[0]])
        mask = options.get("mask")
        logits = torch.from_numpy(recording[f"logits{layer}"]).reshape(len(counts), -1, *grid)
        boxes, _, _ = yolo_decode(logits, priors if mask is None else priors[mask], (height, width))
        threshold = options.get("ignore_thresh", options.get("thresh"))
        args = (boxes, truths, counts, grid, (height, width), "shape", priors, mask, threshold)
        matches, predictors = match_cells(*args)
        assert left_out.any()
        assert torch.equal(matches >= 0, assigned)
        assert torch.equal(matches == -2, left_out)
        assert set(predictors[predictors >= 0].tolist()) == set(assigned.flatten().nonzero()[:, 0].tolist())

        # The centre that the gradient of x pulls to, scale * (t - sigmoid), is that of the truth in matches.
        sigmoids = torch.sigmoid(recorded_maps(recording, f"logits{layer}", options)[..., 0].double())
        for image, row in assigned.nonzero().tolist():
            left, top, right, bottom = truths[int(counts[:image].sum()) + int(matches[image, row])].tolist()
            sigmoid = sigmoids[image, row]
            t = 0.5 * (left + right) / width * grid[1] - row // options["n"] % grid[1]
            scale = 2 - (right - left) * (bottom - top) / (width * height)
            if mask is None:
                scale = scale * options["coord_scale"] * sigmoid * (1 - sigmoid)
            assert abs(scale * (t - sigmoid) - gradient[image, row, 0]) < 5e-6


@pytest.mark.parametrize("name", ["detect_n3", "detect_softmax"])
def test_responsible_predictions_of_darknet(name: str) -> None:
    """The gradient of a box is 0 where it is not responsible; lists with several truths in a cell."""
    recording = np.load(shared_path(f"conformance/train/loss_{name}.npz"))
    (layer,) = recording["layers"]
    options = json.loads(str(recording[f"opts{layer}"]))
    side, count = options["side"], options["n"]
    boxes, gradient = (
        torch.from_numpy(recording[key + str(layer)])[:, side * side * (options["classes"] + count) :]
        .reshape(-1, side * side, count, 4)
        .double()
        for key in ("logits", "delta_logit")
    )
    cells = torch.arange(side * side)
    corner = torch.stack([cells % side, cells // side], dim=1)[:, None]
    extent = boxes[..., 2:] ** 2 if options["sqrt"] else boxes[..., 2:]
    predictions = box_convert(torch.cat([(boxes[..., :2] + corner) / side, extent], -1), "cxcywh", "xyxy").flatten(1, 2)
    truths, counts = recorded_truths(recording, "gt", 1, 1)
    matches, _ = match_cells(predictions, truths, counts, (side, side), (1, 1), "overlap")
    assert torch.equal(matches >= 0, (gradient != 0).any(dim=-1).flatten(1))
    for image, row in (matches >= 0).nonzero().tolist():
        truth = truths[int(counts[:image].sum()) + int(matches[image, row])]
        pull = gradient[image].flatten(0, 1)[row, 0] / options["coord_scale"] + boxes[image].flatten(0, 1)[row, 0]
        assert abs(0.5 * (truth[0] + truth[2]) * side - (row // count) % side - pull) < 1e-5


TRUTHS, COUNTS = centred((5, 5, 20, 10)), torch.tensor([1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": NOWHERE[0]}, "predictions must be [B, H * W * N, 4] with B = 1 as in counts, got [12, 4]"),
        ({"predictions": NOWHERE.long()}, "match_cells: predictions must be a floating tensor, got Long"),
        ({"predictions": NOWHERE[:, :11]}, "H * W * N rows, N >= 1, for the 2 x 3 grid and fewer than 2^31, got 11"),
        ({"predictions": NOWHERE[:, :0]}, "H * W * N rows, N >= 1, for the 2 x 3 grid and fewer than 2^31, got 0"),
        ({"counts": torch.tensor([1, 0])}, "predictions must be [B, H * W * N, 4] with B = 2 as in counts"),
        ({"counts": torch.tensor([1.0])}, "match_cells: counts must be an integer tensor [B], got Float [1]"),
        ({"counts": torch.tensor([2])}, "match_cells: counts must sum to the 1 rows of gt_boxes, got more"),
        ({"counts": torch.tensor([0])}, "match_cells: counts must sum to the 1 rows of gt_boxes, got 0"),
        ({"gt_boxes": torch.zeros(1, 5)}, "match_cells: gt_boxes must be [G, 4], got [1, 5]"),
        ({"gt_boxes": TRUTHS.bool()}, "match_cells: gt_boxes must be a floating tensor, got Bool"),
        ({"grid": (0, 3)}, "match_cells: grid must be (height, width), positive 32-bit integers, got [0, 3]"),
        ({"grid": (2, 3, 1)}, "match_cells: grid must be (height, width), positive 32-bit integers, got [2, 3, 1]"),
        ({"image_size": (40, -1)}, "image_size must be (height, width), positive 32-bit integers, got [40, -1]"),
        ({"mode": "yolo"}, "match_cells: mode must be 'shape' or 'overlap', got 'yolo'"),
        ({"mode": "overlap"}, "match_cells: priors must be left out in mode 'overlap', got [2, 2]"),
        ({"priors": torch.ones(2, 3)}, "match_cells: priors must be a floating tensor [K, 2], got Float [2, 3]"),
        ({"priors": torch.ones(2, 2).int()}, "match_cells: priors must be a floating tensor [K, 2], got Int [2, 2]"),
        ({"priors": PRIORS}, "priors must be [N, 2] with N = 2 predictions of a cell, or come with a mask, got [3, 2]"),
        ({"priors": torch.tensor([[1, 1], [2, 0.0]])}, "priors must be positive and finite, got 0 at [1, 1]"),
        ({"priors": torch.tensor([[NAN, 1], [2, 1.0]])}, "priors must be positive and finite, got nan at [0, 0]"),
        ({"priors": None, "mask": [0, 1]}, "match_cells: mask must come with priors, got none"),
        ({"mask": [0]}, "match_cells: mask must have N = 2 entries, one for each prediction of a cell, got [0]"),
        (
            {"predictions": NOWHERE.repeat(1, 33, 1), "mask": [0] * 66},
            "match_cells: mask must have at most 32 entries, got 66",
        ),
        ({"mask": [0, 2]}, "match_cells: mask must be of the 2 priors, got [0, 2]"),
        ({"mask": [-1, 0]}, "match_cells: mask must be of the 2 priors, got [-1, 0]"),
        ({"ignore_threshold": -0.1}, "match_cells: ignore_threshold must be at least 0, got -0.1"),
        ({"ignore_threshold": NAN}, "match_cells: ignore_threshold must be at least 0, got nan"),
    ],
)
def test_messages(change: dict[str, Any], message: str) -> None:
    arguments = {"predictions": NOWHERE, "gt_boxes": TRUTHS, "counts": COUNTS, "grid": GRID, "image_size": SIZE}
    arguments["priors"] = PRIORS[:2]
    match_cells(**arguments)
    with pytest.raises(RuntimeError) as error:
        match_cells(**{**arguments, **change})
    assert message in str(error.value)
