"""YOLO9000's walk as plain tensor code, the tree as tables of indices."""

from __future__ import annotations

import torch
from torch import Tensor

from pydet.models.darknet.tree import TreeWalk
from pydet.wordtree import WordTree


class Walk(TreeWalk):
    """`TreeWalk` for every box, without our operators."""

    def scores(self, objectness: Tensor, logits: Tensor, tree: WordTree) -> Tensor:
        conditional = _softmax(logits, tree)
        if self.nodes is not None:
            return _probabilities(conditional, tree)[..., self.nodes] * objectness[..., None]
        return self.one_score(objectness, conditional, *_predict(conditional, tree, self.threshold, self.rule))


def _softmax(logits: Tensor, tree: WordTree) -> Tensor:
    """Groups of about one size at a time, the smaller ones filled up with -inf, whose probability is 0."""
    padded = torch.nn.functional.pad(logits, (0, 1), value=-torch.inf)
    parts: list[Tensor] = []
    place = [0] * len(tree)  # of each node in `parts`
    width, start, groups = 1, 0, tree.groups()
    while groups:
        rows = [(first, count) for first, count in groups if count <= width]
        groups = [(first, count) for first, count in groups if count > width]
        if rows:
            indices = [[first + i if i < count else len(tree) for i in range(width)] for first, count in rows]
            chosen = padded.index_select(-1, torch.tensor(indices).flatten()).unflatten(-1, (len(rows), width))
            parts.append(chosen.softmax(-1).flatten(-2))
            for number, (first, count) in enumerate(rows):
                place[first : first + count] = range(start + number * width, start + number * width + count)
            start += len(rows) * width
        width *= 2
    return torch.cat(parts, dim=-1).index_select(-1, torch.tensor(place))


def _probabilities(conditional: Tensor, tree: WordTree) -> Tensor:
    """Each node is multiplied with its parent, then with what that has been multiplied with, and so on."""
    above = [parent if parent >= 0 else len(tree) for parent in (*tree.parents, -1)]
    product = torch.nn.functional.pad(conditional, (0, 1), value=1.0)
    while any(parent != len(tree) for parent in above):
        product = product * product.index_select(-1, torch.tensor(above))
        above = [above[parent] for parent in above]
    return product[..., :-1]


def _predict(conditional: Tensor, tree: WordTree, threshold: float, rule: str) -> tuple[Tensor, Tensor]:
    """All positions go down the tree at once, as many steps as it has levels; the node before the first is above the
    roots."""
    groups = {tree.parents[first]: (first, count) for first, count in tree.groups()}
    table = [groups.get(node, (0, 0)) for node in (*range(len(tree)), -1)]
    firsts, counts = torch.tensor([first for first, _ in table]), torch.tensor([count for _, count in table])
    children = torch.arange(max(count for _, count in table))
    node = torch.full_like(conditional[..., 0], len(tree), dtype=torch.int64)
    probability = confidence = torch.ones_like(conditional[..., 0])
    walking = torch.ones_like(node, dtype=torch.bool)
    for level in range(max(len(tree.path(leaf)) for leaf in range(len(tree)))):
        exists = children < counts[node][..., None]
        indices = (firsts[node][..., None] + children).clamp(max=len(tree) - 1)
        absolute = probability[..., None] * conditional.gather(-1, indices)
        best = torch.where(exists, absolute, -torch.inf).argmax(-1)
        reached = absolute.gather(-1, best[..., None])[..., 0]
        # Darknet multiplies probabilities that are products already.
        following = confidence * reached if rule == "darknet" else reached
        walking = walking & (counts[node] > 0)
        confident = following > threshold
        step = walking & (confident | (level == 0))
        node = torch.where(step, firsts[node] + best, node)
        probability, confidence = torch.where(step, reached, probability), torch.where(step, following, confidence)
        walking = walking & confident
    return node, probability
