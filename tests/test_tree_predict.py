"""tree_predict and tree_probabilities beyond what all operators share: walks by hand, Darknet's recordings, errors."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shared_path
from op_cases import random_tree, tree_inputs
from PIL import Image
from torch import Tensor

from pydet import ops, reference
from pydet.letterbox import letterbox
from pydet.models.darknet import Darknet, load_weights, read_cfg
from pydet.ops import tree_predict, tree_probabilities, tree_softmax

DATA = Path(__file__).parent / "data"
DARKNET = Path("/usr/share/darknet")
RULES = ("absolute", "darknet")
NAN, INF = math.nan, math.inf
# Roots 0 and 1; 2, 3 and 4 are children of 1, and 5 and 6 of 3.
PARENTS = torch.tensor([-1, -1, 1, 1, 1, 3, 3])
CONDITIONAL = torch.tensor([0.25, 0.75, 0.125, 0.75, 0.125, 0.0625, 0.9375])
ABSOLUTE = [0.25, 0.75, 0.09375, 0.5625, 0.09375, 0.03515625, 0.52734375]


def predict(threshold: float, rule: str = "absolute", conditional: Tensor = CONDITIONAL) -> tuple[int, float]:
    node, probability = tree_predict(conditional, PARENTS, threshold, rule)
    return int(node), float(probability)


def test_probabilities_by_hand() -> None:
    assert tree_probabilities(CONDITIONAL, PARENTS).tolist() == ABSOLUTE
    assert tree_probabilities(CONDITIONAL, PARENTS).tolist() == ABSOLUTE  # Darknet's second call would compound


def test_absolute_rule_by_hand() -> None:
    """A node is entered while its own probability, a product of conditional ones, is above the threshold."""
    assert predict(0.5) == (6, ABSOLUTE[6])
    assert predict(0.53) == (3, ABSOLUTE[3])
    assert predict(0.57) == (1, ABSOLUTE[1])
    assert predict(0.8) == (1, ABSOLUTE[1])  # nothing is confident: the best root


def test_darknets_rule_by_hand() -> None:
    """Confidence 0.75, then 0.75 * 0.5625 = 0.421875, then that * 0.52734375 = 0.2224...; the probabilities stay."""
    assert predict(0.2, "darknet") == (6, ABSOLUTE[6])
    assert predict(0.23, "darknet") == (3, ABSOLUTE[3])
    assert predict(0.42, "darknet") == (3, ABSOLUTE[3])
    assert predict(0.43, "darknet") == (1, ABSOLUTE[1])
    assert predict(0.8, "darknet") == (1, ABSOLUTE[1])


@pytest.mark.parametrize("rule", RULES)
def test_threshold_itself_is_not_confident(rule: str) -> None:
    conditional = torch.tensor([0.25, 0.75, 0.0, 0.5, 0.5, 1.0, 0.0])
    step = {"absolute": 0.375, "darknet": 0.28125}[rule]
    assert predict(step, rule, conditional)[0] == 1
    assert predict(math.nextafter(step, 0) - 1e-7, rule, conditional)[0] in (3, 5)


@pytest.mark.parametrize("rule", RULES)
def test_ties_nan_and_zeros(rule: str) -> None:
    assert predict(0.2, rule, torch.tensor([0.5, 0.5, 0, 1, 0, 0, 1]))[0] == 0  # a leaf, though 1 has children
    assert predict(0.01, rule, torch.tensor([0.25, 0.75, 0.4, 0.2, 0.4, 0, 1]))[0] == 2
    assert predict(0.01, rule, torch.tensor([NAN, 0.75, NAN, 0.2, 0.1, NAN, NAN])) == (3, pytest.approx(0.15))
    node, probability = predict(-1.0, rule, torch.full((7,), NAN))
    assert (node, math.isnan(probability)) == (0, True)
    assert predict(0.0, rule, torch.zeros(7)) == (0, 0)
    assert predict(-1.0, rule, torch.tensor([0, 0.75, 0, 0, 0, 0, 0])) == (2, 0)  # to the first leaf
    assert predict(INF, rule) == (1, 0.75)
    assert predict(-INF, rule) == (6, ABSOLUTE[6])


@pytest.mark.parametrize("seed", range(5))
def test_what_a_walk_means(seed: int) -> None:
    """Every node on the way is the best of its group and confident, and the best child of the last one is not."""
    generator = torch.Generator().manual_seed(seed)
    conditional, parents = tree_inputs(60, generator)
    absolute = tree_probabilities(conditional, parents)
    threshold = 0.15
    nodes, probabilities = tree_predict(conditional, parents, threshold)
    assert torch.equal(absolute.gather(-1, nodes[..., None])[..., 0], probabilities)
    best_of_group = torch.empty_like(absolute)
    for parent in parents.unique().tolist():
        group = (parents == parent).nonzero()[:, 0]
        best_of_group[..., group] = absolute[..., group].amax(-1, keepdim=True)
    for row, best, node in zip(
        absolute.flatten(0, 1), best_of_group.flatten(0, 1), nodes.flatten().tolist(), strict=True
    ):
        children = (parents == node).nonzero()[:, 0]
        assert not (row[children] > threshold).any()
        confident = node
        while confident >= 0:
            assert row[confident] == best[confident]
            assert row[confident] > threshold or (confident == node and parents[node] == -1)
            confident = int(parents[confident])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_probabilities_are_the_products_of_the_definition(dtype: torch.dtype) -> None:
    """To the last bit on the CPU, so that they are those of a walk."""
    conditional, parents = tree_inputs(50, torch.Generator().manual_seed(0))
    args = conditional.to(dtype), parents
    assert torch.equal(tree_probabilities(*args), reference.tree_probabilities(*args))


def test_children_add_up_to_their_parent() -> None:
    generator = torch.Generator().manual_seed(1)
    parents = random_tree(300, generator)
    absolute = tree_probabilities(tree_softmax(torch.randn(20, 300, generator=generator), parents), parents)
    sums = torch.zeros(20, 301).index_add(1, parents + 1, absolute)
    inner = parents.unique() + 1
    expected = torch.cat([torch.ones(20, 1), absolute], dim=1)
    torch.testing.assert_close(sums[:, inner], expected[:, inner], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_every_layout(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    parents = random_tree(70, generator)
    rows = tree_softmax(torch.randn(2, 3, 5, 30, 70, generator=generator), parents).to(dtype)
    planes = rows.movedim(-1, 2).contiguous().movedim(2, -1)
    absolute, (nodes, probabilities) = tree_probabilities(rows, parents), tree_predict(rows, parents, 0.1)
    upstream = torch.randn(absolute.shape, generator=generator, dtype=absolute.dtype)
    slope = torch.ops.pydet._tree_probabilities_backward(upstream, rows, absolute, parents)
    shuffled = rows.permute(3, 2, 0, 1, 4).contiguous().permute(2, 3, 1, 0, 4)
    for view in (planes, shuffled, torch.stack([rows, rows], dim=-1)[..., 0]):
        assert torch.equal(view, rows)
        result = tree_probabilities(view, parents)
        assert torch.equal(result, absolute)
        assert result.stride() == torch.empty_like(view).stride()
        ours = torch.ops.pydet._tree_probabilities_backward(upstream, view, result, parents)
        assert torch.equal(ours, slope)
        found = tree_predict(view, parents, 0.1)
        assert torch.equal(found[0], nodes)
        assert torch.equal(found[1], probabilities)
    transposed = rows[0, 0].transpose(0, 1)
    assert torch.equal(tree_predict(transposed, parents, 0.1)[0], nodes[0, 0].T)
    assert torch.equal(tree_probabilities(transposed, parents), absolute[0, 0].transpose(0, 1))


def test_deep_nodes_of_half_precision_do_not_vanish() -> None:
    chain = torch.arange(-1, 29)
    conditional = torch.full((30,), 0.5, dtype=torch.float16)
    assert tree_probabilities(conditional, chain)[-1] == 2.0**-30
    assert tree_predict(conditional, chain, 2.0**-20)[0] == 18


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(3)
    parents = random_tree(31, generator)
    conditional = torch.rand(2, 3, 31, dtype=torch.float64, generator=generator)
    conditional[0, 0, ::3] = 0  # the gradient needs no division by a probability
    leaf = conditional.requires_grad_()
    assert torch.autograd.gradcheck(tree_probabilities, (leaf, parents))
    upstream = torch.randn(2, 3, 31, dtype=torch.float64, generator=generator)
    slopes = [
        torch.autograd.grad(function(leaf, parents), leaf, upstream)[0]
        for function in (
            tree_probabilities,
            reference.tree_probabilities,
            torch.compile(tree_probabilities, fullgraph=True, backend="aot_eager"),
        )
    ]
    with ops.set_backend("reference"):
        slopes += torch.autograd.grad(tree_probabilities(leaf, parents), leaf, upstream)
    for slope in slopes[1:]:
        torch.testing.assert_close(slope, slopes[0], rtol=1e-12, atol=1e-14)
    half = conditional.detach().half().requires_grad_()
    (slope,) = torch.autograd.grad(tree_probabilities(half, parents), half, upstream.float())
    assert slope.dtype == torch.float16
    second = []
    for function in (tree_probabilities, reference.tree_probabilities):
        (slope,) = torch.autograd.grad((function(leaf, parents) * upstream).sum(), leaf, create_graph=True)
        second += torch.autograd.grad((slope**2).sum(), leaf)
    torch.testing.assert_close(*second, rtol=1e-12, atol=1e-14)
    assert not tree_predict(leaf, parents)[1].requires_grad


def detections(head: Tensor, parents: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """(box, class) pairs above the threshold and their scores, from a [region] layer's input [A, 5 + N, H, W].

    Darknet compares floats with floats.
    """
    threshold, hier = (float(np.float32(options[name])) for name in ("thresh", "hier"))
    objectness = torch.sigmoid(head[:, 4]).flatten()
    conditional = tree_softmax(head[:, 5:].movedim(1, -1), parents)
    if options.get("map"):
        scores = objectness[:, None] * tree_probabilities(conditional, parents).flatten(0, 2)[:, options["map"]]
        pairs = ((scores > threshold) & (objectness > threshold)[:, None]).nonzero()
        return pairs, scores[pairs[:, 0], pairs[:, 1]]
    boxes = (objectness > threshold).nonzero()[:, 0]
    nodes, _ = tree_predict(conditional.flatten(0, 2)[boxes], parents, hier, "darknet")
    return torch.stack([boxes, nodes], dim=1), objectness[boxes]


def test_darknets_unit_network() -> None:
    with np.load(DATA / "unit_tree.npz", allow_pickle=False) as file:
        recording = dict(file)
    parents = torch.tensor([int(line.split()[1]) for line in str(recording["tree"]).splitlines()])
    head = torch.from_numpy(recording["o4"]).view(2, 5 + 13, 3, 4)
    sets = json.loads(str(recording["meta"]))["sets"]
    assert sorted(sets) == ["A", "B", "C"]
    for name, options in sets.items():
        pairs, scores = detections(head, parents, options)
        np.testing.assert_array_equal(pairs, recording[f"{name}_pidx"])
        np.testing.assert_allclose(scores, recording[f"{name}_pval"], atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def yolo9000(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, Tensor, dict[str, np.ndarray]]:
    """Input of the [region] layer for Darknet's picture of a dog, the tree, and the recording of the real Darknet."""
    folder = shared_path("conformance")
    if not DARKNET.is_dir():
        pytest.skip("needs Debian's darknet package for its cfg and tree, which is not installed")
    spec = importlib.util.spec_from_file_location("darknet_weights", folder / "darknet_weights.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    weights = tmp_path_factory.mktemp("weights") / "yolo9000.weights"
    cfg = DARKNET / "cfg" / "yolo9000.cfg"
    script.write_weights(cfg, weights, gains=script.load_gains("yolo9000"))
    network = Darknet([section for section in read_cfg(cfg) if section.name != "region"], batch_norm="cpu").eval()
    load_weights(network, weights)
    pixels = torch.from_numpy(np.array(Image.open(DARKNET / "data" / "dog.jpg").convert("RGB"))).permute(2, 0, 1)
    with torch.no_grad():
        (features,) = network.forward_features(letterbox(pixels, network.image_size)[None])
    tree = (DARKNET / "data" / "9k.tree").read_text().splitlines()
    with np.load(folder / "golden" / "yolo9000__dog.npz", allow_pickle=False) as file:
        recording = dict(file)
    return features.view(3, 5 + 9418, 17, 17), torch.tensor([int(line.split()[1]) for line in tree]), recording


@pytest.mark.parametrize("name", ["A", "B", "C", "D", "E"])
def test_yolo9000_on_dog(yolo9000: tuple, name: str) -> None:
    """Four thresholds of the walk, and set C by a map of 200 classes to nodes."""
    head, parents, recording = yolo9000
    logits = head.flatten()[torch.from_numpy(recording["det24_idx"])]
    np.testing.assert_allclose(logits, recording["det24_logits"], atol=1e-3, rtol=0)
    options = json.loads(str(recording["meta"]))["sets"][name]
    pairs, scores = detections(head, parents, options)
    np.testing.assert_array_equal(pairs, recording[f"{name}_pidx"])
    np.testing.assert_allclose(scores, recording[f"{name}_pval"], atol=2e-4, rtol=0)


def test_yolo9000_by_the_absolute_rule_differs(yolo9000: tuple) -> None:
    head, parents, _ = yolo9000
    conditional = tree_softmax(head[:, 5:].movedim(1, -1), parents)
    walks = [tree_predict(conditional, parents, 0.5, rule)[0] for rule in RULES]
    deeper = walks[0] != walks[1]
    assert 0.1 < deeper.double().mean() < 0.9
    # Where they differ Darknet's stopped earlier: its node is on the path of the other.
    for node, ancestor in zip(walks[0][deeper].tolist(), walks[1][deeper].tolist(), strict=True):
        while node > ancestor:
            node = int(parents[node])
        assert node == ancestor


ONE = torch.zeros(2, 7)


@pytest.mark.parametrize(
    ("function", "args", "message"),
    [
        (tree_predict, (ONE.int(), PARENTS), "tree_predict: conditional must be a floating tensor, got Int"),
        (tree_predict, (ONE, PARENTS[:3]), "conditional must be [..., N] with N = 3 as in parents, got [2, 7]"),
        (tree_predict, (ONE[:, :0], PARENTS[:0]), "tree_predict: parents must be [N] with N >= 1, got [0]"),
        (tree_predict, (ONE, PARENTS, NAN), "tree_predict: threshold must be a number, got nan"),
        (tree_predict, (ONE, PARENTS, 0.5, "best"), "rule must be 'absolute' or 'darknet', got 'best'"),
        (tree_predict, (ONE, PARENTS.flip(0)), "a node before its child, got 3 at node 0"),
        (tree_predict, (ONE, PARENTS[[0, 2, 1, 3, 4, 5, 6]]), "a node before its child, got 1 at node 1"),
        (tree_probabilities, (ONE.bool(), PARENTS), "tree_probabilities: conditional must be a floating tensor"),
        (tree_probabilities, (ONE, PARENTS.double()), "tree_probabilities: parents must be an integer tensor"),
        (tree_probabilities, (ONE, PARENTS[[0, 1, 2, 3, 5, 4, 6]]), "tree_probabilities: parents must have siblings"),
    ],
)
def test_messages(function: Any, args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        function(*args)
    assert message in str(error.value)
