"""Makes the .npz files beside it, from pictures and annotations that are not part of the project:

python make.py yolov3-tiny FOLDER        the pictures of Debian's package darknet (/usr/share/darknet/data)
python make.py coco160 FILE...           COCO annotations, instances_*.json
python make.py bccd FOLDER               the folder Annotations of BCCD
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import torch

from pydet import models
from pydet.image import read_image

HERE = Path(__file__).parent
PICTURES = ("dog", "eagle", "giraffe", "horses", "kite", "person", "scream")
SIDES = (416, 608, 1280)
LEAST_SCORE = 0.001


def yolov3_tiny(folder: Path) -> None:
    """Boxes and class scores that the official YOLOv3-tiny gives before NMS, those above LEAST_SCORE."""
    for side in SIDES:
        network = models.load("yolov3-tiny", image_size=(side, side))
        with torch.inference_mode():
            batch, placement = network.preprocess([read_image(folder / f"{name}.jpg") for name in PICTURES])
            boxes, scores = network.predict(batch, placement.size)
        picture, rows, labels = torch.nonzero(scores > LEAST_SCORE, as_tuple=True)
        save(
            f"yolov3-tiny-{side}",
            boxes=boxes[picture, rows].numpy(),
            scores=scores[picture, rows, labels].numpy(),
            labels=labels.numpy().astype(np.uint8),
            rows=rows.numpy().astype(np.uint16),
            picture=picture.numpy().astype(np.uint8),
            n=np.array(boxes.shape[1]),
        )


def coco160(files: list[Path]) -> None:
    """Boxes of objects that are no crowds, picture by picture; upright pictures are laid down, to share the anchors."""
    boxes = []
    for file in files:
        content = json.loads(file.read_text())
        for image in content["images"]:
            own = [a["bbox"] for a in content["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
            xywh = np.array(own, np.float64).reshape(-1, 4)
            xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
            xyxy = xyxy[:, [1, 0, 3, 2]] if image["height"] > image["width"] else xyxy
            boxes.append(xyxy * resize_factor(image["height"], image["width"]))
    save_objects("coco160", boxes)


def bccd(folder: Path) -> None:
    """Boxes as they are annotated, two without area among them."""
    boxes = []
    for file in sorted(folder.glob("*.xml")):
        root = ElementTree.parse(file).getroot()
        height, width = (int(root.findtext(f"size/{name}", "0")) for name in ("height", "width"))
        corners = ("xmin", "ymin", "xmax", "ymax")
        own = [[float(box.findtext(name, "nan")) for name in corners] for box in root.iter("bndbox")]
        boxes.append(np.array(own, np.float64).reshape(-1, 4) * resize_factor(height, width))
    save_objects("bccd", boxes)


def resize_factor(height: int, width: int) -> float:
    """The shorter side to 800 pixels, the longer one to 1333 at most: as RetinaNet is trained."""
    return min(800 / min(height, width), 1333 / max(height, width))


def save_objects(name: str, boxes: list[np.ndarray]) -> None:
    save(name, boxes=np.concatenate(boxes).astype(np.float32), counts=np.array([len(b) for b in boxes], np.uint8))


def save(name: str, **arrays: np.ndarray) -> None:
    path = HERE / f"{name}.npz"
    np.savez_compressed(path, **arrays)
    print(f"{path}: {path.stat().st_size:,} bytes, " + ", ".join(f"{n} {a.shape}" for n, a in arrays.items()))


if __name__ == "__main__":
    what, paths = sys.argv[1], [Path(argument) for argument in sys.argv[2:]]
    if what == "coco160":
        coco160(paths)
    else:
        {"yolov3-tiny": yolov3_tiny, "bccd": bccd}[what](paths[0])
