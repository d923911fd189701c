"""The README's table of speeds, from the committed results: `python benchmarks/report.py` puts it in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "cpu-x86_64.json"
README = HERE.parent / "README.md"
BEGIN, END = "<!-- speeds: made by benchmarks/report.py -->\n", "<!-- end of speeds -->"

ROWS = {
    "test_nms[clustered-100]": "`nms`, 100 boxes",
    "test_nms[clustered-1000]": "`nms`, 1,000 boxes",
    "test_nms[clustered-20000]": "`nms`, 20,000 boxes in clusters",
    "test_nms[scattered-20000]": "`nms`, 20,000 boxes, most of them kept",
    "test_batched_nms[20000-80]": "`batched_nms`, 20,000 boxes, 80 classes",
    "test_multiclass_nms[8-25200-80-all]": "`multiclass_nms`, 8 images, 25,200 boxes, 80 classes",
    "test_box_iou[box_iou-4000]": "`box_iou`, 4,000 × 4,000",
    "test_box_iou[complete_box_iou-4000]": "`complete_box_iou`, 4,000 × 4,000",
    "test_match_anchors[anywhere-120000-50-retinanet]": "`match_anchors`, 120,000 anchors, 50 objects",
    "test_focal_forward_and_backward[sum-100000]": "`sigmoid_focal_loss`, 100,000 × 80, with its gradient",
    "test_yolo_decode[8-76]": "`yolo_decode`, 8 maps of 255 × 76 × 76",
    "test_yolov3_tiny": "YOLOv3-tiny at 416, picture to boxes",
}
"""What the README shows of the races, in its words."""
PEERS = ("torchvision", "reference", "cv2.dnn", "Darknet")


def readable(seconds: float) -> str:
    for unit, factor in (("µs", 1e6), ("ms", 1e3)):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def speed_table(results: dict[str, Any]) -> str:
    lines = ["| | pydet | " + " | ".join(PEERS) + " |", "|---|---|" + "---|" * len(PEERS)]
    for name, words in ROWS.items():
        medians = results["median_seconds"][name]
        ours = medians["pydet"]
        cells = [f"{readable(medians[p])} ({medians[p] / ours:.3g}×)" if p in medians else "" for p in PEERS]
        lines.append(f"| {words} | {readable(ours)} | {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items() if version)
    where = f"{results['cpu']} ({results['cpu_level']}), {results['threads']} threads, {versions}, {results['date']}"
    return "\n".join(lines) + f"\n\nMedians on {where}; in brackets how many times pydet's time.\n"


def with_table(readme: str) -> str:
    before, rest = readme.split(BEGIN)
    return before + BEGIN + speed_table(json.loads(RESULTS.read_text())) + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
