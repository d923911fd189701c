"""One operator, one word, one stem: who has seen one knows where all of every other one is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from cuda_harness import REGISTERED
from op_cases import OP_CASES, OpCase
from readme_table import with_table

from pydet import ops, reference

ROOT = Path(__file__).parent.parent


def test_registry_lists_every_operator() -> None:
    assert sorted(case.name for case in OP_CASES) == sorted(ops.OPERATORS)
    public = {name.split("::")[1].split(".")[0] for name in torch._C._dispatch_get_all_op_names() if "pydet::" in name}
    assert {name for name in public if not name.startswith("_")} == set(ops.OPERATORS)


@pytest.mark.parametrize("case", OP_CASES, ids=[case.name for case in OP_CASES])
@pytest.mark.parametrize(
    "path",
    ["csrc/{}.cpp", "pydet/ops/{}.py", "pydet/reference/{}.py", "tests/test_{}.py", "benchmarks/test_{}.py"],
)
def test_files_have_the_same_stem(case: OpCase, path: str) -> None:
    """That of the operator, or of its family: one kernel with several formulas is written once, in one set of files.

    csrc/cpu/ is left out: an operator may have no vector kernel of its own (batched_nms runs that of nms).
    """
    assert case.name in (ROOT / path.format(case.stem)).read_text(encoding="utf-8")


def test_string_arguments_are_texts() -> None:
    """torch's conversion to std::string forgets memory in some versions: see csrc/torch_utils.h."""
    sources = [*(ROOT / "csrc").glob("*.cpp"), *(ROOT / "csrc" / "cuda").glob("*.cu")]
    found = [(path.name, re.findall(r"(?<!const )std::string \w+[,)]", path.read_text("utf-8"))) for path in sources]
    assert [(name, arguments) for name, arguments in found if arguments] == []
    assert any("Text " in path.read_text("utf-8") for path in sources)


@pytest.mark.parametrize("name", ops.OPERATORS)
def test_has_reference_fake_and_documentation(name: str) -> None:
    assert callable(getattr(reference, name))
    operator = getattr(torch.ops.pydet, name).default
    assert torch._library.simple_registry.singleton.find(f"pydet::{name}").fake_impl.kernel is not None
    assert str(operator._schema).startswith(f"pydet::{name}(")
    for section in ("Args:", "Returns:", "Raises:"):
        assert section in (getattr(ops, name).__doc__ or "")


def test_every_kernel_of_the_cpu_has_one_for_cuda() -> None:
    """The compiled gradients, whose names begin with an underscore, too."""
    names = {name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("pydet::")}
    on_the_cpu = {n for n in names if torch._C._dispatch_has_kernel_for_dispatch_key(f"pydet::{n}", "CPU")}
    assert on_the_cpu >= set(ops.OPERATORS)
    # On a GPU torch's own batch normalisation, convolutions and ranking serve; weights are rounded before that.
    torchs = {"_batch_norm_leaky_relu", "_batch_norm_leaky_relu_backward", "_conv", "_conv_weight", "_round_weight"}
    torchs |= {"_multiclass_nms_by_class"}
    assert on_the_cpu - torchs == set(REGISTERED)


def test_readme_table_is_that_of_the_registry() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_table(readme) == readme, "run: python tests/readme_table.py"
