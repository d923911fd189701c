"""YOLO9000's detections: a walk from the root of a WordTree for every box that holds an object."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pydet import ops
from pydet.wordtree import WordTree

ROWS_IN_CACHE = 32
"""Boxes that are looked at together on the CPU: their nodes, 9,418 in YOLO9000, stay in a cache of 2 MB."""


@dataclass
class TreeWalk:
    """How detections are read off the nodes' logits.

    Attributes:
        rule: "darknet", its own for the published weights: the probability that is compared is a product of products,
            and the score is the objectness. "absolute": the probability of a node is the product along its path, as in
            the paper, and the score is objectness times that.
        threshold: A walk goes on to the most probable child while its probability is above this.
        nodes: None, or the nodes that count as classes (`wordtree.read_map`): then there is no walk, and the score of
            each is objectness times the node's probability, and its label the place in this list.
    """

    rule: str = "darknet"
    threshold: float = 0.5
    nodes: list[int] | None = None

    def select(
        self,
        boxes: Tensor,  # [B, N, 4]
        objectness: Tensor,  # [B, N]
        logits: Tensor,  # [B, N, nodes]
        tree: WordTree,
        score_threshold: float,
        iou_threshold: float,
        most: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `DetectionModel.select`. Only boxes with enough objectness are looked at: the nodes are many."""
        if torch.compiler.is_compiling():  # all of them, so that no shape depends on a value
            scores = self.scores(objectness.float(), logits.float(), tree)
            boxes, scores, labels, _, count = ops.multiclass_nms(
                boxes.float(), scores, score_threshold, iou_threshold, most
            )
            return boxes, scores, labels, count
        images, rows = torch.nonzero(objectness > score_threshold, as_tuple=True)
        at_a_time = ROWS_IN_CACHE if logits.device.type == "cpu" else len(rows)
        parts = []
        for start in range(0, max(len(rows), 1), max(at_a_time, 1)):
            some = images[start : start + at_a_time], rows[start : start + at_a_time]
            conditional = ops.tree_softmax(logits[some].float(), tree.tensor(logits.device))
            found_here = self.classify(objectness[some].float(), conditional, tree, score_threshold)
            parts.append((found_here[0] + start, *found_here[1:]))
        picks, labels, scores = (torch.cat(part) for part in zip(*parts, strict=True))
        images, rows = images[picks], rows[picks]
        found = boxes[images, rows].float()
        keep = ops.batched_nms(found, scores, images * len(tree) + labels, iou_threshold)
        return _padded(found[keep], scores[keep], labels[keep], images[keep], len(boxes), most)

    def scores(self, objectness: Tensor, logits: Tensor, tree: WordTree) -> Tensor:
        """The scores [B, N, C] of all boxes: of all nodes, one of which is not 0 in a row, or of the chosen nodes."""
        parents = tree.tensor(logits.device)
        conditional = ops.tree_softmax(logits, parents)
        if self.nodes is not None:
            return ops.tree_probabilities(conditional, parents)[..., self.nodes] * objectness[..., None]
        return self.one_score(
            objectness, conditional, *ops.tree_predict(conditional, parents, self.threshold, self.rule)
        )

    def one_score(self, objectness: Tensor, conditional: Tensor, labels: Tensor, probability: Tensor) -> Tensor:
        """A row of scores for each box: 0 for all nodes but the one where its walk ended."""
        score = objectness * probability if self.rule == "absolute" else objectness
        return torch.zeros_like(conditional).scatter(2, labels[..., None], score[..., None])

    def classify(
        self, objectness: Tensor, conditional: Tensor, tree: WordTree, score_threshold: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Detections of boxes before suppression.

        Args:
            objectness: [K].
            conditional: [K, nodes], what `tree_softmax` gives.

        Returns:
            Of each detection its box (an index below K), its label and its score.
        """
        parents = tree.tensor(conditional.device)
        if self.nodes is not None:
            chosen = ops.tree_probabilities(conditional, parents)[:, self.nodes] * objectness[:, None]
            boxes, labels = torch.nonzero(chosen > score_threshold, as_tuple=True)
            return boxes, labels, chosen[boxes, labels]
        labels, probability = ops.tree_predict(conditional, parents, self.threshold, self.rule)
        scores = objectness * probability if self.rule == "absolute" else objectness
        boxes = torch.nonzero(scores > score_threshold)[:, 0]
        return boxes, labels[boxes], scores[boxes]


def _padded(
    boxes: Tensor, scores: Tensor, labels: Tensor, images: Tensor, batch: int, most: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Detections of all images, best first, as results of fixed shapes."""
    out_boxes, out_scores = boxes.new_zeros(batch, most, 4), scores.new_zeros(batch, most)
    out_labels, count = labels.new_full((batch, most), -1), labels.new_zeros(batch)
    for image in range(batch):
        own = torch.nonzero(images == image)[:most, 0]
        out_boxes[image, : len(own)], out_scores[image, : len(own)] = boxes[own], scores[own]
        out_labels[image, : len(own)], count[image] = labels[own], len(own)
    return out_boxes, out_scores, out_labels, count
