"""The gradients of Darknet's detection layers, image by image, cell by cell and object by object, in double precision.

What `pydet.losses` says in tensors is said here in loops, from the rules: each function returns minus the gradient with
respect to the raw outputs. Truths are lists of (x, y, w, h, class) in parts of the picture.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Truth = tuple[float, float, float, float, int]
Box = tuple[float, float, float, float]


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def iou(a: Box, b: Box) -> float:
    """Of centres and sizes."""
    w, h = (
        min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2) for i in (0, 1)
    )
    overlap = 0.0 if w < 0 or h < 0 else w * h
    return overlap / (a[2] * a[3] + b[2] * b[3] - overlap)


def best_of(overlaps: list[float]) -> tuple[float, int]:
    """The highest and its index, the first of equals; 0 and 0 where none is above 0."""
    best, index = 0.0, 0
    for i, overlap in enumerate(overlaps):
        if overlap > best:
            best, index = overlap, i
    return best, index


def predicted(values: np.ndarray, anchor: Box, i: int, j: int, width: int, height: int) -> Box:
    """anchor: (width, height) in parts of the picture."""
    return (
        (i + sigmoid(values[0])) / width,
        (j + sigmoid(values[1])) / height,
        math.exp(values[2]) * anchor[0],
        math.exp(values[3]) * anchor[1],
    )


def yolo(
    raw: np.ndarray,  # [A, 5 + C, H, W]
    truths: list[Truth],
    anchors: np.ndarray,  # [K, 2] in parts of the picture
    mask: list[int],
    ignore_thresh: float,
    truth_thresh: float,
) -> np.ndarray:
    _, columns, height, width = raw.shape
    delta = np.zeros_like(raw)

    def box_delta(truth: Truth, a: int, j: int, i: int) -> None:
        x, y, w, h, _ = truth
        pw, ph = anchors[mask[a]]
        scale = 2 - w * h
        values = raw[a, :, j, i]
        wanted = [x * width - i, y * height - j, math.log(w / pw), math.log(h / ph)]
        ours = [sigmoid(values[0]), sigmoid(values[1]), values[2], values[3]]
        delta[a, :4, j, i] = [scale * (t - o) for t, o in zip(wanted, ours, strict=True)]

    def class_delta(label: int, a: int, j: int, i: int) -> None:
        probability = sigmoid(raw[a, 5:, j, i])
        if delta[a, 5, j, i] != 0:  # another object was here: its classes stay
            delta[a, 5 + label, j, i] = 1 - probability[label]
        else:
            delta[a, 5:, j, i] = np.eye(columns - 5)[label] - probability

    for a, j, i in np.ndindex(len(mask), height, width):
        box = predicted(raw[a, :, j, i], anchors[mask[a]], i, j, width, height)
        best, index = best_of([iou(box, truth[:4]) for truth in truths])
        objectness = sigmoid(raw[a, 4, j, i])
        delta[a, 4, j, i] = 0 if best > ignore_thresh else -objectness
        if best > truth_thresh:
            delta[a, 4, j, i] = 1 - objectness
            class_delta(truths[index][4], a, j, i)
            box_delta(truths[index], a, j, i)
    for truth in truths:
        i, j = int(truth[0] * width), int(truth[1] * height)
        shape = (0.0, 0.0, truth[2], truth[3])
        _, index = best_of([iou((0.0, 0.0, w, h), shape) for w, h in anchors])
        if index in mask:
            a = mask.index(index)
            box_delta(truth, a, j, i)
            delta[a, 4, j, i] = 1 - sigmoid(raw[a, 4, j, i])
            class_delta(truth[4], a, j, i)
    return delta


def region(
    raw: np.ndarray,  # [A, 5 + C, H, W]
    truths: list[Truth],
    anchors: np.ndarray,  # [A, 2] in parts of the picture
    options: dict[str, Any],
    early: bool,
    parents: list[int] | None = None,
    image_label: int = -1,
) -> np.ndarray:
    count, _, height, width = raw.shape
    delta = np.zeros_like(raw)

    def objectness_delta(scale: float, wanted: float, a: int, j: int, i: int) -> None:
        s = sigmoid(raw[a, 4, j, i])
        delta[a, 4, j, i] = scale * (wanted - s) * s * (1 - s)

    def box_delta(scale: float, wanted: list[float], a: int, j: int, i: int) -> None:
        values = raw[a, :, j, i]
        for k in range(4):
            s = sigmoid(values[k])
            delta[a, k, j, i] = scale * ((wanted[k] - s) * s * (1 - s) if k < 2 else wanted[k] - values[k])

    def class_delta(label: int, a: int, j: int, i: int) -> None:
        logits, out, scale = raw[a, 5:, j, i], delta[a, 5:, j, i], options["class_scale"]
        if parents is not None:
            node = label
            while node >= 0:
                group = [n for n, parent in enumerate(parents) if parent == parents[node]]
                out[group] = -scale * softmax(logits[group])
                out[node] += scale
                node = parents[node]
        elif options["softmax"]:
            out[:] = scale * (np.eye(len(logits))[label] - softmax(logits))
        elif out[0] != 0:  # another object was here
            out[label] = scale * (1 - sigmoid(logits[label]))
        else:
            out[:] = scale * (np.eye(len(logits))[label] - sigmoid(logits))

    if image_label >= 0:
        assert parents is not None
        liked = {}
        for a, j, i in np.ndindex(count, height, width):
            objectness_delta(options["noobject_scale"], 0, a, j, i)
            probability, node = sigmoid(raw[a, 4, j, i]), image_label
            while node >= 0:
                group = [n for n, parent in enumerate(parents) if parent == parents[node]]
                probability *= softmax(raw[a, 5:, j, i][group])[group.index(node)]
                node = parents[node]
            liked[a, j, i] = probability
        best = max(liked, key=lambda place: liked[place])
        class_delta(image_label, *best)
        delta[best[0], 4, best[1], best[2]] = 0
        return delta

    for a, j, i in np.ndindex(count, height, width):
        box = predicted(raw[a, :, j, i], anchors[a], i, j, width, height)
        best_iou, _ = best_of([iou(box, truth[:4]) for truth in truths])
        if best_iou <= options["thresh"]:
            objectness_delta(options["noobject_scale"], 0, a, j, i)
        if early:
            box_delta(0.01, [0.5, 0.5, 0, 0], a, j, i)
    for x, y, w, h, label in truths:
        i, j = int(x * width), int(y * height)
        boxes = [predicted(raw[a, :, j, i], anchors[a], i, j, width, height) for a in range(count)]
        shapes = anchors if options["bias_match"] else [box[2:] for box in boxes]
        _, a = best_of([iou((0, 0, *shape), (0, 0, w, h)) for shape in shapes])
        wanted = [x * width - i, y * height - j, math.log(w / anchors[a][0]), math.log(h / anchors[a][1])]
        box_delta(options["coord_scale"] * (2 - w * h), wanted, a, j, i)
        objectness_delta(options["object_scale"], iou(boxes[a], (x, y, w, h)) if options["rescore"] else 1, a, j, i)
        class_delta(label, a, j, i)
    return delta


def detection(
    raw: np.ndarray,  # [S * S * (C + 5 * N)]
    truths: list[Truth],
    side: int,
    count: int,
    options: dict[str, Any],
) -> np.ndarray:
    cells = side * side
    delta = np.zeros_like(raw)
    num_classes = len(raw) // cells - 5 * count
    classes = raw[: cells * num_classes].reshape(cells, num_classes)
    confidence = raw[cells * num_classes : cells * (num_classes + count)].reshape(cells, count)
    places = raw[cells * (num_classes + count) :].reshape(cells, count, 4)
    d_classes = delta[: cells * num_classes].reshape(cells, num_classes)
    d_confidence = delta[cells * num_classes : cells * (num_classes + count)].reshape(cells, count)
    d_places = delta[cells * (num_classes + count) :].reshape(cells, count, 4)
    d_confidence[:] = -options["noobject_scale"] * confidence
    taken = set()
    for x, y, w, h, label in truths:
        i, j = int(x * side), int(y * side)
        cell = j * side + i
        if cell in taken:
            continue
        taken.add(cell)
        outputs = softmax(classes[cell]) if options["softmax"] else classes[cell]
        d_classes[cell] = options["class_scale"] * (np.eye(num_classes)[label] - outputs)
        truth = ((x * side - i) / side, (y * side - j) / side, w, h)
        best_iou, best_distance, best = 0.0, 20.0, -1
        overlaps = []
        for n in range(count):
            px, py, pw, ph = places[cell, n]
            box = (px / side, py / side, *((pw * pw, ph * ph) if options["sqrt"] else (pw, ph)))
            overlaps.append(iou(box, truth))
            distance = math.dist(box, truth)
            if best_iou > 0 or overlaps[n] > 0:
                if overlaps[n] > best_iou:
                    best_iou, best = overlaps[n], n
            elif distance < best_distance:
                best_distance, best = distance, n
        wanted = overlaps[best] if options["rescore"] else 1
        d_confidence[cell, best] = options["object_scale"] * (wanted - confidence[cell, best])
        size = (math.sqrt(w), math.sqrt(h)) if options["sqrt"] else (w, h)
        wanted_place = np.array([x * side - i, y * side - j, *size])
        d_places[cell, best] = options["coord_scale"] * (wanted_place - places[cell, best])
    return delta
