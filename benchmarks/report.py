"""The README's table of speeds and its plot, from the committed results: `python benchmarks/report.py` renews both."""

from __future__ import annotations

from pathlib import Path

import plot
import results
from bandwidth import COPY
from race import Result
from results import Run

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "cpu-x86_64.json"
README = HERE.parent / "README.md"
BEGIN, END = "<!-- speeds: made by benchmarks/report.py -->\n", "<!-- end of speeds -->"

ROWS = {
    "test_nms[clustered-100]": "`nms`, 100 boxes",
    "test_nms[clustered-1000]": "`nms`, 1,000 boxes",
    "test_nms[clustered-20000]": "`nms`, 20,000 boxes in clusters",
    "test_nms[scattered-20000]": "`nms`, 20,000 boxes, most of them kept",
    "test_nms_of_many_boxes": "`nms`, 50,000 boxes, most of them kept",
    "test_nms_of_a_million_boxes": "`nms`, 1,000,000 boxes",
    "test_batched_nms[20000-80]": "`batched_nms`, 20,000 boxes, 80 classes",
    "test_multiclass_nms[8-25200-80-all]": "`multiclass_nms`, 8 images, 25,200 boxes, 80 classes",
    "test_box_iou[box_iou-4000]": "`box_iou`, 4,000 × 4,000",
    "test_box_iou[complete_box_iou-4000]": "`complete_box_iou`, 4,000 × 4,000",
    "test_match_anchors[anywhere-120000-50-retinanet]": "`match_anchors`, 120,000 anchors, 50 objects",
    "test_focal_forward_and_backward[sum-100000]": "`sigmoid_focal_loss`, 100,000 × 80, with its gradient",
    "test_yolo_decode[8-76]": "`yolo_decode`, 8 maps of 255 × 76 × 76",
}
"""What the README shows of the races, in its words."""
PEERS = ("torchvision", "powerboxes", "powerboxes rtree", "lsnms", "cv2.dnn", "Darknet", "mmcv")
"""The libraries; what else takes part in a race is the definition, a yardstick or another way to call pydet."""

DETECTOR = "test_detector["
COLUMNS = {
    "pydet": "pydet, picture to boxes",
    "post-processing": "of it post-processing",
    "bf16": "pydet bf16",
    "onnxruntime": "onnxruntime, network",
    "OpenVINO": "OpenVINO, network",
    "OpenVINO bf16": "OpenVINO bf16, network",
    "cv2.dnn": "cv2.dnn, network",
    "torchvision": "torchvision, picture to boxes",
    "Darknet": "Darknet, network to boxes",
}
"""What the README shows of a race of detectors: contender or yardstick, and the head of its column."""


def readable(seconds: float) -> str:
    for unit, factor in (("µs", 1e6), ("ms", 1e3)):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def race_line(name: str, found: Result) -> str:
    """A race in one line of a terminal: times, extra memory, share of the speed of a copy."""
    ours = found.seconds["pydet"]
    notes = []
    if found.extra_bytes and (extra := found.extra_bytes["pydet"]) is not None:
        notes.append(f"{extra / 1e6:.3g} MB")
    if found.moved and (share := share_of_copy(found)) is not None:
        notes.append(f"moves {found.moved / 1e6:.3g} MB at {found.moved / ours / 1e9:.3g} GB/s, {share:.0%} of a copy")
    others = [f"{peer} {readable(s)} ({s / ours:.3g}x)" for peer, s in found.seconds.items() if peer != "pydet"]
    return f"{name}: pydet {readable(ours)} [{'; '.join(notes)}]   " + "   ".join(others)


def share_of_copy(found: Result) -> float | None:
    """pydet's bandwidth over that of a copy of as many bytes in the same race."""
    copy = found.seconds.get(COPY)
    return copy / found.seconds["pydet"] if copy else None


def best_peer(found: Result, among: tuple[str, ...] = PEERS) -> str | None:
    return min((name for name in among if name in found.seconds), key=found.seconds.__getitem__, default=None)


def bars(run: Run) -> list[tuple[str, str, float]]:
    """Label, opponent and ratio of each row: the best library, where there is none the definition."""
    found = []
    for name, words in ROWS.items():
        race = results.result(run["races"][name])
        if opponent := best_peer(race) or best_peer(race, ("reference",)):
            found.append((words.replace("`", ""), opponent, race.seconds[opponent] / race.seconds["pydet"]))
    return sorted(found, key=lambda bar: -bar[2])


def speed_table(run: Run) -> str:
    lines = ["| | pydet | torchvision | best of the others | reference |", "|---|---|---|---|---|"]
    for name, words in ROWS.items():
        found = results.result(run["races"][name])
        ours = readable(found.seconds["pydet"])
        if (share := share_of_copy(found)) is not None:
            ours += f", {share:.0%} of the speed of a copy"
        other = best_peer(found, PEERS[1:])
        cells = [
            _cell(found, "torchvision"),
            f"{other} {_cell(found, other)}" if other else "",
            _cell(found, "reference"),
        ]
        lines.append(f"| {words} | {ours} | {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    where = f"{run['cpu']} ({run['cpu_level']}), {run['threads']} threads, {versions}, {run['date']}"
    return "\n".join(lines) + f"\n\nMedians on {where}; in brackets how many times pydet's time.\n"


def detector_table(run: Run) -> str:
    """Milliseconds a picture of every detector that the run has; empty where it has none."""
    rows = []
    for name, record in run["races"].items():
        if name.startswith(DETECTOR):
            seconds = results.result(record).seconds
            cells = [f"{float(f'{seconds[column] * 1e3:.3g}'):,g}" if column in seconds else "" for column in COLUMNS]
            rows.append(f"| {name[len(DETECTOR) : -1]} | {' | '.join(cells)} |")
    if not rows:
        return ""
    head = ["| ms a picture | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    note = (
        "One picture at the published size, on the same machine, after `pydet.keep_freed_memory()`; random weights "
        "where no official ones come along."
    )
    return "\n" + "\n".join([*head, *rows]) + f"\n\n{note}\n"


def _cell(found: Result, peer: str) -> str:
    seconds = found.seconds.get(peer)
    return f"{readable(seconds)} ({seconds / found.seconds['pydet']:.3g}×)" if seconds else ""


def with_table(readme: str, run: Run) -> str:
    before, rest = readme.split(BEGIN)
    return before + BEGIN + speed_table(run) + detector_table(run) + END + rest.split(END)[1]


def main() -> None:
    run = results.shown(results.read(RESULTS))
    README.write_text(with_table(README.read_text(encoding="utf-8"), run), encoding="utf-8")
    plot.draw(bars(run), RESULTS.with_suffix(".svg"))


if __name__ == "__main__":
    main()
