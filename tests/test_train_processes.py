"""Several processes learn what one process learns of the same pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from training_cases import arguments, small_settings, start

from pydet.data import Batch
from pydet.losses import Targets, ssd_loss
from pydet.models import RetinaNet
from pydet.models.checkpoint import load_checkpoint
from pydet.models.darknet.convolutional import BatchNorm
from pydet.processes import Processes, process_group
from pydet.training import Settings
from pydet.training.batch_norm import SharedBatchNorm, share_batch_norms
from pydet.training.log import read_table
from pydet.training.loop import Loop


def test_two_processes_are_one(tmp_path: Path) -> None:
    runs = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        # Dropout draws for each process by itself; parts are other batches to normalise over. And slowly: at the higher
        # rate the 1e-7 that the order of a sum is worth becomes 1e-4 in ten updates.
        settings = small_settings(folder, parts=1, batch_size=4, epochs=8, learning_rate=0.0001, multi_scale=False)
        cfg = Path(settings.cfg)
        cfg.write_text(cfg.read_text().replace("probability=.1", "probability=0"))
        process = start(arguments(settings), processes)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        assert output.count("best.safetensors on the test split") == 1, output  # only the first process speaks
        runs.append(folder / "run")
    one, two = (read_table(run / "losses.csv") for run in runs)
    assert len(one) == len(two) == 6
    for mine, theirs in zip(one, two, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert float(mine[name]) == pytest.approx(float(theirs[name]), abs=1e-5 * float(mine["loss"])), (
                mine,
                theirs,
            )
    one, two = (read_table(run / "validation.csv") for run in runs)
    assert [row["update"] for row in one] == [row["update"] for row in two]
    for mine, theirs in zip(one, two, strict=True):
        assert float(mine["AP50"]) == pytest.approx(float(theirs["AP50"]), abs=2e-3)
    weights = [load_checkpoint(run / "last.safetensors").state_dict() for run in runs]
    for name, mine in weights[0].items():
        torch.testing.assert_close(weights[1][name], mine, rtol=1e-5, atol=1e-5)


def test_all_stop_where_one_loss_is_nan(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, parts=1, batch_size=2, learning_rate=1e20, clip=0.0)
    process = start(arguments(settings), 2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "the loss is no longer a number in update" in output
    assert "BloodImage_" in output


def in_two_processes(function: Any, tmp_path: Path, *more: Any) -> list[Any]:
    """What it returns in each of two processes that know each other."""
    torch.multiprocessing.spawn(_meet, (function, str(tmp_path), more), nprocs=2)
    return [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _meet(rank: int, function: Any, folder: str, more: tuple[Any, ...]) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1"}
    with process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2):
        torch.save(function(rank, *more), f"{folder}/{rank}.pt")
    tasks = Path("/proc/self/task")  # of Linux
    names = [name.read_text() for name in tasks.glob("*/comm")]
    assert not [name for name in names if "gloo" in name], names


def _cycle(rank: int) -> dict[str, Tensor]:
    held: list[Any] = [DistributedDataParallel(nn.Linear(2, 2))]
    held.append(held)
    return {}


def test_threads_end_with_the_group(tmp_path: Path) -> None:
    """Of what holds the group, some waits for the garbage collector."""
    assert in_two_processes(_cycle, tmp_path) == [{}, {}]


def normed(norm: nn.Module, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Output, gradients of a weighted sum, running statistics."""
    x = x.clone().requires_grad_(True)
    y = norm(x)
    (y * weights).sum().backward()
    found = {"y": y.detach(), "x": x.grad, "mean": norm.running_mean, "var": norm.running_var}
    gradients = {name: parameter.grad for name, parameter in norm.named_parameters()}
    return {name: tensor.clone() for name, tensor in (found | gradients).items()}  # type: ignore[union-attr]


def _half(rank: int, kind: str) -> dict[str, Tensor]:
    x, weights = inputs()
    rows = slice(rank, None, 2)
    return normed(SharedBatchNorm(make_norm(kind)), x[rows], weights[rows])


def inputs() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    x = 5 + 2 * torch.randn(6, 4, 3, 5, generator=random)
    return x, torch.randn(6, 4, 3, 5, generator=random)


def make_norm(kind: str) -> Any:
    norm = BatchNorm(4, "cuda") if kind == "darknet" else nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2, 0.5, -1]))
        norm.bias.copy_(torch.tensor([0.0, 1, -1, 3]))
    return norm.train()


@pytest.mark.parametrize("kind", ["darknet", "torch"])
def test_batch_norm_of_all_pictures(kind: str, tmp_path: Path) -> None:
    whole = normed(make_norm(kind), *inputs())
    halves = in_two_processes(_half, tmp_path, kind)
    for rank, half in enumerate(halves):
        for name in ("y", "x"):
            torch.testing.assert_close(half[name], whole[name][rank::2], rtol=1e-5, atol=1e-5)
        for name in ("mean", "var"):
            torch.testing.assert_close(half[name], whole[name], rtol=1e-5, atol=1e-6)
    for name in ("weight", "bias"):  # each process has the part of its own pictures
        torch.testing.assert_close(halves[0][name] + halves[1][name], whole[name], rtol=1e-5, atol=1e-4)


def test_shared_norms_have_the_same_tensors() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNorm(4, "cuda"), nn.Sequential(nn.BatchNorm2d(4)))
    before = network.state_dict(keep_vars=True)
    share_batch_norms(network)
    after = network.state_dict(keep_vars=True)
    assert sorted(after) == sorted(before)
    assert all(after[name] is before[name] for name in before)
    assert isinstance(network[1], SharedBatchNorm)


def retinanet_update(rows: list[int], parts: int, group: Processes) -> dict[str, Tensor]:
    """Terms of the loss, and the gradients, of an update with some of four pictures of different shapes."""
    random = torch.Generator()
    sizes = [(64, 64), (64, 200), (150, 64), (80, 64)]
    images = [torch.rand(3, *sizes[row], generator=random.manual_seed(row)) for row in rows]
    boxes = torch.tensor([[8.0, 8, 50, 60]]).expand(len(rows), 4)
    targets = Targets(boxes, torch.zeros(len(rows), dtype=torch.int64), torch.ones(len(rows), dtype=torch.int64))
    torch.manual_seed(0)
    network = RetinaNet(["cell"], shortest=64, longest=200, width=4)
    settings = Settings(model="retinanet-resnet50", batch_size=4, parts=parts, amp="off", warmup=0)
    loop = Loop(network, settings, 10, group)
    terms = loop.update(Batch(images, targets, torch.tensor(rows))).terms
    gradients = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    return {name: torch.tensor(value) for name, value in terms.items()} | gradients


def _retinanet_half(rank: int) -> dict[str, Tensor]:
    return retinanet_update([[0, 2], [1, 3]][rank], 1, Processes(rank, 2))


def test_pictures_of_retinanet_are_padded_alike(tmp_path: Path) -> None:
    whole = retinanet_update([0, 1, 2, 3], 1, Processes())
    others = [retinanet_update([0, 1, 2, 3], parts, Processes()) for parts in (2, 4)]
    for other in (*others, *in_two_processes(_retinanet_half, tmp_path)):
        assert len(other) == len(whole) > 50
        for name, term in whole.items():
            torch.testing.assert_close(other[name], term, rtol=1e-4, atol=1e-5)


def ssd_targets(rows: list[int]) -> tuple[Tensor, Tensor, Tensor, Targets]:
    random = torch.Generator().manual_seed(5)
    logits, codes = torch.randn(4, 30, 3, generator=random), torch.randn(4, 30, 4, generator=random)
    corner = 60 * torch.rand(30, 2, generator=random)
    boxes = torch.cat([corner, corner + 30], dim=1)
    counts = [3, 0, 1, 2]
    truth = [boxes[5 * number : 5 * number + count] + 1 for number, count in enumerate(counts)]
    chosen = [truth[row] for row in rows]
    labels = torch.cat([torch.ones(len(each), dtype=torch.int64) for each in chosen])
    targets = Targets(torch.cat(chosen), labels, torch.tensor([len(each) for each in chosen]))
    return logits[rows], codes[rows], boxes, targets


def _ssd_terms(rows: list[int]) -> dict[str, Tensor]:
    return ssd_loss(*ssd_targets(rows), [10.0, 10.0, 5.0, 5.0])


def _ssd_half(rank: int) -> dict[str, Tensor]:
    return _ssd_terms([[0, 1], [2, 3]][rank])


def test_ssd_divides_by_the_matches_of_all(tmp_path: Path) -> None:
    whole = _ssd_terms([0, 1, 2, 3])
    halves = in_two_processes(_ssd_half, tmp_path)
    for name, term in whole.items():
        torch.testing.assert_close((halves[0][name] + halves[1][name]) / 2, term, rtol=1e-5, atol=1e-6)
