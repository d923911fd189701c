"""What `pydet.evaluate.evaluate` gives: numbers, and how they are told."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from pydet.metrics import Curve

_SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")


@dataclass(frozen=True)
class ClassResult:
    """How well one class is found; the metrics are explained at `Evaluation`."""

    name: str
    objects: int
    ap: float
    ap50: float
    voc07: float
    voc10: float


@dataclass(frozen=True)
class Speed:
    """Milliseconds that a picture took, after the first batch where there are others: reading it, and all the rest;
    and in how many processes at once."""

    read: float
    detect: float
    processes: int = 1


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The outcome of `evaluate`.

    Attributes:
        metrics: COCO's twelve, 0..1, or -1 where there is no such object: AP (mean over the IoUs .50:.95), AP50, AP75,
            of small, medium and large objects (APs, APm, APl), average recall with up to 1, 10, 100 detections a
            picture (AR1, ...). And VOC's mean average precision at IoU .5, of 11 points (VOC07) and of all (VOC10).
        images: Number of pictures that were measured.
        objects: Number of annotated objects in them, crowds included.
        problems: A sentence for everything that was left out: bad annotations, unreadable pictures, categories unknown
            to the model.
        classes: Each class with objects to be found.
        class_names: Of the model.
        confusion: int64 [C + 1, C + 1], see `pydet.metrics.confusion_matrix`; of detections with a score above .25.
        curves: Precision and recall of each class of `classes`, at IoU .5.
        speed: How long it took.
    """

    metrics: dict[str, float]
    images: int
    objects: int
    problems: list[str]
    classes: list[ClassResult]
    class_names: tuple[str, ...]
    confusion: Tensor
    curves: list[Curve]
    speed: Speed

    def table(self) -> str:
        """The metrics, the classes and the speed as aligned plain text."""
        lines = [f"{self.images} images, {self.objects} annotated objects"]
        lines += [f"{name:<6} {_shown(self.metrics[name])}" for name in _SHOWN]
        lines.append(f"VOC07  {_shown(self.metrics['VOC07'])}  AP50 of 11 points")
        lines.append(f"VOC10  {_shown(self.metrics['VOC10'])}  AP50 of all points")
        width = max(len("class"), *(len(item.name) for item in self.classes))
        lines += ["", f"{'class':<{width}}  objects     AP   AP50  VOC07  VOC10"]
        for item in self.classes:
            numbers = "  ".join(_shown(value) for value in (item.ap, item.ap50, item.voc07, item.voc10))
            lines.append(f"{item.name:<{width}}  {item.objects:7}  {numbers}")
        lines += ["", f"of the objects, with a score above .25: {self._confusions()}"]
        read, detect = self.speed.read, self.speed.detect
        rate = 1000 * self.speed.processes / (read + detect)
        lines.append(f"{rate:.1f} pictures a second: {read:.1f} ms to read one, {detect:.1f} to detect")
        return "\n".join(lines)

    def _confusions(self) -> str:
        """One line about the confusion matrix: how many are found, taken for something else, missed."""
        objects = self.confusion[:-1]
        right, missed = int(objects[:, :-1].diagonal().sum()), int(objects[:, -1].sum())
        wrong = objects[:, :-1].clone().fill_diagonal_(0)
        text = f"{right} found, {missed} missed, {int(wrong.sum())} taken for another class"
        worst = [
            divmod(place, wrong.shape[1])
            for place in wrong.flatten().argsort(descending=True, stable=True)[:3].tolist()
        ]
        pairs = [f"{self.class_names[a]} for {self.class_names[b]} {wrong[a, b]}" for a, b in worst if wrong[a, b]]
        alarms = int(self.confusion[-1].sum())
        return text + (f" ({', '.join(pairs)})" if pairs else "") + f"; {alarms} false alarms"

    def as_json(self) -> dict[str, Any]:
        """All numbers but the curves, for a file."""
        return {
            "metrics": self.metrics,
            "images": self.images,
            "objects": self.objects,
            "problems": self.problems,
            "classes": [asdict(item) for item in self.classes],
            "class_names": list(self.class_names),
            "confusion": self.confusion.tolist(),
            "speed": asdict(self.speed),
        }


def _shown(value: float) -> str:
    return f"{value:.3f}" if value >= 0 else "    -"
