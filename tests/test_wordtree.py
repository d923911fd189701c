"""WordTrees: the published one, what a path is, trees built from WordNet, and files that are no trees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pydet import ops
from pydet.wordtree import ASSETS, TreeError, WordTree, read_map

WORDNET = Path("/usr/share/wordnet/data.noun")


@pytest.fixture(scope="module")
def tree() -> WordTree:
    return WordTree.read("9k.tree")


def test_the_published_tree(tree: WordTree) -> None:
    """Counted in the file by other means: section 4's 9,418 nodes in 1,846 groups of siblings."""
    groups = tree.groups()
    assert len(tree) == 9418
    assert len(groups) == 1846
    assert sum(parent == -1 for parent in tree.parents) == 4
    assert max(count for _, count in groups) == 149
    assert sum(count == 1 for _, count in groups) == 46
    assert len(tree) - len(set(tree.parents) - {-1}) == 7573
    assert len((ASSETS / "9k.names").read_text().splitlines()) == 9418
    assert WordTree.parse(tree.text()) == tree


def test_the_path_to_the_persian_cat(tree: WordTree) -> None:
    names = (ASSETS / "9k.names").read_text().splitlines()
    path = [names[node] for node in tree.path(names.index("Persian cat"))]
    assert path[-3:] == ["cat", "domestic cat", "Persian cat"]
    assert tree.parents[tree.path(names.index("Persian cat"))[0]] == -1
    for child, parent in zip(tree.path(5000)[1:], tree.path(5000), strict=False):
        assert tree.parents[child] == parent


def test_groups_of_a_small_tree() -> None:
    tree = WordTree.parse("a -1\nb -1\nc 0\n\nd 0\n  e 1 \nf 2\n")
    assert tree.groups() == [(0, 2), (2, 2), (4, 1), (5, 1)]
    assert tree.path(5) == [0, 2, 5]
    assert tree.path(1) == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a -1\nb 2\nc 0\n", "t.tree, line 2: a parent must come before its children, got 2 as that of node 1"),
        ("a -1\n\nb 1\n", "t.tree, line 3: a node cannot be its own parent"),
        ("a -1\nb 7\n", "t.tree, line 2: parent must be -1 or 0 to 1, got 7"),
        ("a -2\n", "t.tree, line 1: parent must be -1 or 0 to 0, got -2"),
        ("a -1\nb 0\nc 1\nd 0\n", "t.tree, line 4: siblings must be next to each other, those of parent 0 are not"),
        ("a -1\nb\n", "t.tree, line 2: must be an id and the index of its parent, got 'b'"),
        ("a one\n", "t.tree, line 1: must be an id and the index of its parent"),
        ("\n\n", "t.tree: a tree must have nodes"),
    ],
)
def test_trees_that_are_none(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.tree").write_text(text)
    with pytest.raises(TreeError, match=message):
        WordTree.read(tmp_path / "t.tree")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(TreeError, match=r"other\.tree: no such file"):
        WordTree.read(tmp_path / "other.tree")
    assert len(WordTree.read("/nowhere/data/9k.tree")) == 9418  # as the author's cfg names it
    with pytest.raises(TreeError, match="no such file"):
        WordTree.read("/dev/zero")


def test_maps(tmp_path: Path) -> None:
    assert len(read_map("inet9k.map", 9418)) == 200
    assert read_map("coco9k.map", 9418)[:3] == [5177, 3768, 3802]
    (tmp_path / "m.map").write_text("3\n\n9418\n")
    with pytest.raises(TreeError, match=r"m\.map, line 3: must be the index of a node, 0 to 9417, got '9418'"):
        read_map(tmp_path / "m.map", 9418)
    (tmp_path / "m.map").write_text("cat\n")
    with pytest.raises(TreeError, match=r"m\.map, line 1: .* got 'cat'"):
        read_map(tmp_path / "m.map", 9418)


def wordnet(folder: Path, above: dict[str, list[str]]) -> Path:
    """A database with these synsets: id and what stands above it."""
    lines = ["  1 This is the licence\n"]
    for name, parents in above.items():
        pointers = " ".join([*(f"@ {parent} n 0000" for parent in parents), "~ 99999999 n 0000"])
        lines.append(f"{name} 05 n 02 word 0 other_word 0 {len(parents) + 1:03d} {pointers} | gloss\n")
    (folder / "data.noun").write_text("".join(lines))
    return folder


def test_a_tree_from_wordnet(tmp_path: Path) -> None:
    """Section 4: of several ways up, the one that adds the fewest nodes; one-way synsets come first."""
    folder = wordnet(
        tmp_path,
        {
            "00000001": [],
            "00000002": ["00000001"],
            "00000003": ["00000001"],
            "00000004": ["00000002"],
            "00000005": ["00000003", "00000004"],  # two ways: 5-3-1 and 5-4-2-1
            "00000006": ["00000003"],
        },
    )
    tree = WordTree.from_wordnet(["n00000005", "n00000004"], folder)
    paths = {tree.ids[i]: [tree.ids[n][-1] for n in tree.path(i)] for i in range(len(tree))}
    assert "n00000006" not in tree.ids
    # With 4 there, the way over 4 adds nothing but 5 itself, and the way over 3 adds 3 too.
    assert paths["n00000005"] == ["1", "2", "4", "5"]
    folder = wordnet(tmp_path, {"00000001": ["00000002"], "00000002": ["00000001"]})
    with pytest.raises(TreeError, match="n00000001 is above itself"):
        WordTree.from_wordnet(["n00000001"], folder)
    with pytest.raises(TreeError, match="'n00000009' is no noun synset of"):
        WordTree.from_wordnet(["n00000009"], folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("00000001 05", "line 1: not a noun synset of WordNet, got '00000001 05'"),
        ("00000001 05 n zz word 0 000 | gloss", "line 1: not a noun synset"),
        ("00000001 05 n 01 word 0 002 @ 00000001", "line 1: not a noun synset"),
        ("00000001 05 n 01 word 0 001 @ 00000002 n 0000 | gloss", "n00000002, which is above n00000001, is not there"),
    ],
)
def test_a_damaged_wordnet(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(line)
    with pytest.raises(TreeError, match=rf"data\.noun.*{message}"):
        WordTree.from_wordnet(["n00000001"], tmp_path)


def test_ids_that_could_not_be_read_again() -> None:
    with pytest.raises(TreeError, match="ids must be 2, one for each parent, got 1"):
        WordTree(("a",), (-1, 0))
    with pytest.raises(TreeError, match="an id must be a word without spaces, got 'a b'"):
        WordTree(("a b",), (-1,))


@pytest.mark.skipif(not WORDNET.exists(), reason="needs Debian's package wordnet-base")
def test_the_persian_cat_in_the_real_wordnet() -> None:
    tree = WordTree.from_wordnet(["n02123394", "n02084071", "n03001627"], WORDNET.parent)
    names = [tree.ids[node] for node in tree.path(tree.ids.index("n02123394"))]
    assert names[0] == "n00001740"  # entity
    assert "n02121808" in names  # domestic cat


def test_parents_are_made_a_tensor_once_and_may_meet_a_gradient() -> None:
    """Also where the first to ask is inference: a tensor of inference could not be kept for a backward."""
    tree = WordTree.parse("a -1\nb 0\nc 0\n", "a test")
    with torch.inference_mode():
        first = tree.tensor()
    assert tree.tensor() is first
    assert first.tolist() == [-1, 0, 0]
    logits = torch.zeros(1, 3, requires_grad=True)
    ops.tree_softmax(logits, first)[0, 1].backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0.25, -0.25]]))
