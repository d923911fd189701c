"""What pydet promises, held against the races of one run: as fast, as quick and as small as this at least."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bandwidth import WRITE
from race import Result

MATCHING = "test_match_anchors[anywhere-120000-50-retinanet]"
MATCHING_MANY = "test_match_anchors[pyramid-1136-500-retinanet]"
MILLION = "test_nms_of_a_million_boxes"
FOCAL = "test_focal_forward[sum-2.0]"
FOCAL_GRADIENT = "test_focal_forward_and_backward[sum-100000]"

TIMES_AS_FAST = [
    ("test_nms[clustered-100]", "pydet", "torchvision", 4),
    ("test_nms[clustered-1000]", "pydet", "torchvision", 10),
    ("test_nms[clustered-20000]", "pydet", "torchvision", 100),
    ("test_nms[scattered-20000]", "pydet", "torchvision", 100),
    ("test_nms_of_many_boxes", "pydet", "powerboxes rtree", 5),
    ("test_nms_of_many_boxes", "pydet", "lsnms", 5),
    ("test_batched_nms[20000-80]", "pydet", "torchvision", 15),
    ("test_box_iou[box_iou-4000]", "pydet", "torchvision", 30),
    ("test_box_iou[box_iou-4000]", "pydet", WRITE, 0.5),
    ("test_box_iou[generalized_box_iou-4000]", "pydet", "torchvision", 60),
    ("test_box_iou[complete_box_iou-4000]", "pydet", "torchvision", 60),
    (MATCHING, "pydet", "torchvision", 30),
    (FOCAL, "pydet", "torchvision", 20),
    (FOCAL, "pydet, integer classes", "pydet", 1),
    (FOCAL_GRADIENT, "pydet", "torchvision", 25),
    (FOCAL_GRADIENT, "pydet, integer classes", "pydet", 1),
    ("test_multiclass_nms[8-25200-80-all]", "pydet", "torchvision", 15),
    *((f"test_detector[{name}]", "pydet", "onnxruntime", 1 / 1.2) for name in ("yolov3-tiny", "yolov3", "yolo9000")),
    *((f"test_detector[{name}]", "bf16", "onnxruntime", 2) for name in ("yolov3-tiny", "yolov3", "yolo9000")),
    *((f"test_detector[{name}]", "post-processing", "pydet", 50) for name in ("yolov3-tiny", "yolov3")),
    ("test_detector[yolo9000]", "post-processing", "network", 10),
    ("test_retinanet_loss[l1]", "pydet", "torchvision", 10),
    ("test_retinanet_loss[giou]", "pydet", "torchvision", 10),
]
SECONDS = [("test_nms[clustered-10]", 5e-6), (MILLION, 2.0)]
EXTRA_BYTES = [(MILLION, 200e6), (MATCHING, 4e6), (MATCHING_MANY, 4e6)]


@dataclass(frozen=True)
class Claim:
    """`found` and `promised` in the unit of `words`; `kept` whether the one is as good as the other."""

    race: str
    words: str
    promised: float
    found: float
    kept: bool

    def __str__(self) -> str:
        mark = "reached    " if self.kept else "NOT REACHED"
        return f"{mark} {self.race:52s} {self.words}: {self.found:.3g} (promised {self.promised:g})"


def claims_of(races: Mapping[str, Result]) -> list[Claim]:
    """The claims that these races have the numbers for."""
    return list(_claims(races))


def _claims(races: Mapping[str, Result]) -> Iterator[Claim]:
    for name, ours, peer, factor in TIMES_AS_FAST:
        seconds = races[name].seconds if name in races else {}
        if ours in seconds and peer in seconds:
            found = seconds[peer] / seconds[ours]
            words = f"times as fast as {peer}" if ours == "pydet" else f"{ours}, times as fast as {peer}"
            yield Claim(name, words, factor, found, found >= factor)
    for name, most in SECONDS:
        if name in races:
            found = races[name].seconds["pydet"]
            yield Claim(name, "µs at most", most * 1e6, found * 1e6, found <= most)
    for name, bytes_ in EXTRA_BYTES:
        extra = (races[name].extra_bytes or {}).get("pydet") if name in races else None
        if extra is not None:
            yield Claim(name, "MB of extra memory at most", bytes_ / 1e6, extra / 1e6, extra <= bytes_)
