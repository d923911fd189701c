"""YOLO9000's loss (Redmon and Farhadi 2017, section 4): classes in a WordTree, and images without boxes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pydet import ops
from pydet.losses.cells import Assigned, by_cell, widened
from pydet.losses.targets import NO_LABEL, Targets
from pydet.losses.yolov2 import RegionSettings, region_terms
from pydet.wordtree import WordTree


class TreeTables(NamedTuple):
    """A WordTree as tensors.

    Attributes:
        parents: int64 [N], as `tree_softmax` takes them.
        paths: int64 [N, D], each node and those above it up to its root; -1 behind that.
        groups: int64 [N], which group of siblings each node is of.
        num_groups: how many there are.
    """

    parents: Tensor
    paths: Tensor
    groups: Tensor
    num_groups: int

    @classmethod
    def of(cls, tree: WordTree, device: torch.device | str = "cpu") -> TreeTables:
        paths = [tree.path(node)[::-1] for node in range(len(tree))]
        depth = max(map(len, paths))
        groups = [group for group, (_, size) in enumerate(tree.groups()) for _ in range(size)]
        padded = torch.tensor([path + [-1] * (depth - len(path)) for path in paths])
        return cls(tree.tensor(device), padded.to(device), torch.tensor(groups, device=device), len(tree.groups()))


def yolo9000_loss(
    raw: Tensor,
    targets: Targets,
    image_size: tuple[int, int],
    anchors: Tensor,
    tree: TreeTables,
    settings: RegionSettings = RegionSettings(),  # noqa: B008  (immutable)
    seen: int | None = None,
) -> dict[str, Tensor]:
    """Loss of YOLO9000's head: YOLOv2's, with the cross-entropy of the softmax in the group of siblings of the class of
    an object and of each node above it. Nodes below the class are not trained.

    An image with an image label has two terms only: the classes of the one prediction that likes its
    class best, by objectness times the absolute probability of the class; and objectness towards 0 for all others. (The
    paper assumes an IoU of .3 for that one; Darknet did so for half a year, and leaves its objectness alone since.)

    Args:
        raw: [B, A * (5 + N), H, W], floating, N nodes.
        targets: labels are nodes; `image_labels` for the joint training.
        image_size, anchors, settings, seen: as of `yolov2_loss`.
        tree: of the classes.

    Returns:
        As `yolov2_loss`. With image labels the probabilities of all nodes are computed, for as much memory as raw has.
    """
    cells = by_cell(raw, len(anchors))
    if targets.image_labels is None:
        return region_terms(
            cells,
            targets,
            image_size,
            anchors,
            settings,
            seen,
            lambda found: _tree_loss(found.values[:, 5:], targets.labels, found.used, found.owner, tree),
        )
    labels = targets.image_labels
    shows = labels != NO_LABEL
    node = labels.clamp(min=0)
    best = _likes_best(cells.detach(), node, tree)
    predictions = torch.arange(cells.shape[1:4].numel(), device=labels.device)

    def class_loss(found: Assigned) -> Tensor:
        images = torch.arange(len(labels), device=labels.device)
        logits = widened(cells.flatten(1, 3)[images, best, 5:])
        # One row for each object, then one for each image.
        return _tree_loss(
            torch.cat([found.values[:, 5:], logits]),
            torch.cat([targets.labels, node]),
            torch.cat([found.used, shows]),
            torch.cat([found.owner, len(found.owner) + images]),
            tree,
        )

    left_out = shows[:, None] & (predictions == best[:, None])
    return region_terms(cells, targets, image_size, anchors, settings, seen, class_loss, left_out, shows)


@torch.no_grad()
def _likes_best(cells: Tensor, node: Tensor, tree: TreeTables) -> Tensor:
    """[B]: the prediction of the highest objectness times probability of each image's node."""
    flat = cells.flatten(1, 3)
    conditional = ops.tree_softmax(flat[..., 5:], tree.parents)
    path = tree.paths[node][:, None]  # [B, 1, D]
    along = conditional.take_along_dim(path.clamp(min=0), dim=2)
    likes = torch.where(path >= 0, along, 1).prod(dim=2) * flat[..., 4].sigmoid()
    # Of equals the first in Darknet's order, all cells of one anchor before the next anchor.
    num_cells, num_anchors = cells.shape[1] * cells.shape[2], cells.shape[3]
    first = likes.unflatten(1, (num_cells, num_anchors)).mT.flatten(1).argmax(dim=1)
    return first % num_cells * num_anchors + first // num_cells


def _tree_loss(logits: Tensor, labels: Tensor, used: Tensor, owner: Tensor, tree: TreeTables) -> Tensor:
    """Sum of the cross-entropies of the groups on the path of each label.

    Where two objects share a predictor, a group that is on both paths has the label of the last one, as in Darknet.

    Args:
        logits: [K, N].
        labels: [K].
        used: bool [K], whether the row counts.
        owner: int64 [K], rows with the same owner are of the same predictor.
    """
    paths = tree.paths[labels]  # [K, D]
    node = paths.clamp(min=0)
    counts = used[:, None] & (paths >= 0)
    order = torch.arange(len(labels), device=labels.device)[:, None].expand_as(paths)
    # Of each predictor and group the last row that has a node in it; one place more for what does not count.
    places = len(labels) * tree.num_groups
    place = torch.where(counts, torch.where(used, owner, 0)[:, None] * tree.num_groups + tree.groups[node], places)
    last = order.new_full((places + 1,), -1).scatter_reduce(0, place.flatten(), order.flatten(), "amax")
    conditional = ops.tree_softmax(logits, tree.parents).gather(1, node)
    # A probability that is 0 in floating point has no gradient: nodes are then 87 apart, which training never reaches.
    entropy = -conditional.clamp(min=torch.finfo(conditional.dtype).tiny).log()
    return torch.where(counts & (last[place] == order), entropy, 0).sum()
