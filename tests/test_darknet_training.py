"""Darknet's updates and learning rates beside what the real one recorded."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from test_losses_darknet import darknet_targets, objects, read
from torch import Tensor, nn

from pydet.models import CfgError, Darknet, load_weights
from pydet.models.darknet.cfg import Section, parse_cfg
from pydet.training import DarknetLR, Policy, darknet_sgd

UPDATES_KEPT = (1, 3, 6)


@pytest.fixture
def steps() -> dict[str, np.ndarray]:
    return read("step_yolo_nobn")


def network_of(recording: dict[str, np.ndarray], folder: Path) -> Darknet:
    network = Darknet(parse_cfg(str(recording["cfg"])))
    (folder / "start.weights").write_bytes(recording["weights"].tobytes())
    load_weights(network, folder / "start.weights")
    return network.train()


def parameters(network: Darknet) -> dict[str, Tensor]:
    """By the recording's names: index of the layer, w or b."""
    found = {}
    for index, layer in enumerate(network.layers):
        for name, tensor in layer.named_parameters():
            found[f"{index}_{'w' if name.endswith('weight') else 'b'}"] = tensor
    return found


def assert_recorded(network: Darknet, recording: dict[str, np.ndarray], prefix: str, gradients: bool = False) -> None:
    wanted = {key[len(prefix) :]: value for key, value in recording.items() if key.startswith(prefix)}
    tensors = parameters(network)
    assert wanted.keys() == tensors.keys()
    for key, tensor in tensors.items():
        ours = tensor.grad if gradients else tensor.detach()
        atol = 1e-5 * np.abs(wanted[key]).max() if gradients else 5e-6
        np.testing.assert_allclose(ours.flatten(), wanted[key], rtol=0, atol=atol, err_msg=f"{prefix}{key}")


def test_updates_are_darknets(steps: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Six updates of four pictures in two parts, with burn-in, momentum, decay and a step of the rate."""
    network = network_of(steps, tmp_path)
    net = network.sections[0]
    batch, subdivisions = net.integer("batch"), net.integer("subdivisions")
    height, width = network.image_size
    x = torch.from_numpy(steps["images"]).view(batch, 3, height, width) / 255
    images = objects({"kind": steps["kind"], "truth": steps["truth"].reshape(batch, -1, 5)})
    parts = list(zip(x.split(batch // subdivisions), (images[:2], images[2:]), strict=True))
    optimizer = darknet_sgd(network, 1.0, net.number("momentum"), net.number("decay"))
    scheduler = DarknetLR(optimizer, Policy.of(net))
    assert_recorded(network, steps, "p0_")
    for update in range(1, 7):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(steps["rates"][update - 1], rel=1e-6)
        for part, truths in parts:
            terms = network(part, darknet_targets(truths, network.image_size, torch.float32))
            (sum(terms.values()) / subdivisions).backward()
        if update == 1:  # Darknet's are sums over the batch, and point downhill
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.grad *= -batch
            assert_recorded(network, steps, "g1_", gradients=True)
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.grad /= -batch
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if update in UPDATES_KEPT:
            assert_recorded(network, steps, f"p{update}_")


def test_only_weights_decay() -> None:
    cfg = """[net]
    height=8
    width=8
    [convolutional]
    batch_normalize=1
    filters=4
    size=3
    [local]
    filters=2
    size=1
    [connected]
    output=3
    """
    network = Darknet(parse_cfg(cfg))
    decayed, others = darknet_sgd(network, 0.1, decay=0.25).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.25, 0)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        "layers.0.conv.weight",
        "layers.1.weight",
        "layers.2.linear.weight",
    }
    assert len(others["params"]) == 4
    network.requires_grad_(False)
    network.layers[2].linear.bias.requires_grad_(True)
    (only,) = darknet_sgd(network, 0.1).param_groups
    assert only["params"] == [network.layers[2].linear.bias]


def rates(options: dict[str, object], updates: list[int]) -> list[float]:
    policy = Policy.of(Section("net", {key: str(value) for key, value in options.items()}))
    return [policy.rate(update) for update in updates]


def test_recorded_rates() -> None:
    """Of yolov3.cfg: burn-in and steps."""
    recording = read("rate")
    net = {"learning_rate": 0.001, "burn_in": 1000, "policy": "steps", "steps": "400000,450000", "scales": ".1,.1"}
    assert rates(net, recording["batch_num"].tolist()) == pytest.approx(recording["rate"].tolist(), rel=1e-6)


def test_recorded_policies() -> None:
    """Thousands of updates of Darknet's get_current_rate; gamma is a float there, and its 45,000th power shows it."""
    recording = read("rate_policies")
    for net, wanted in zip(recording["nets"].tolist(), recording["rates"].tolist(), strict=True):
        (section,) = parse_cfg(f"[net]\n{net}")
        policy = Policy.of(section)
        found = [policy.rate(update) for update in recording["updates"].tolist()]
        assert found == pytest.approx(wanted, rel=5e-6, abs=1e-12), net


def test_other_policies() -> None:
    """Darknet's get_current_rate, worked out by hand."""
    lr = {"learning_rate": 2}
    assert rates(lr, [1, 1000]) == [2, 2]
    assert rates(lr | {"policy": "step", "step": 10, "scale": 0.5}, [9, 10, 25]) == [2, 1, 0.5]
    assert rates(lr | {"policy": "steps", "steps": "-1,5", "scales": "3,.5"}, [1, 4, 5]) == [6, 6, 3]
    assert rates(lr | {"policy": "exp", "gamma": 0.5}, [1, 3]) == [1, 0.25]
    assert rates(lr | {"policy": "poly", "max_batches": 4}, [1, 2, 4]) == [2 * 0.75**4, 2 / 16, 0]
    assert rates(lr | {"policy": "poly", "max_batches": 4, "power": 1, "burn_in": 2}, [1, 2]) == [1, 1]
    sig = rates(lr | {"policy": "sigmoid", "gamma": 0.1, "step": 30}, [20, 30, 10**6])
    assert sig == pytest.approx([2 / (1 + math.exp(-1)), 1, 0])


def test_random_rates_depend_on_seed_and_update_only() -> None:
    def rate(seed: int, update: int) -> float:
        return Policy(2.0, "random", power=1, seed=seed).rate(update)

    some = [rate(0, update) for update in range(1, 2001)]
    assert some == [rate(0, update) for update in range(1, 2001)]
    assert some != [rate(1, update) for update in range(1, 2001)]
    assert 0 <= min(some) < 0.02
    assert 1.98 < max(some) <= 2
    assert sum(some) / len(some) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "cosine"}, "policy must be one of constant, step, steps, exp, poly, random, sig, got 'cosine'"),
        ({"policy": "steps", "steps": "1,2", "scales": ".1"}, "every one of steps must have its scale, got 1 scales"),
        ({"policy": "steps", "steps": "1"}, "the key 'scales' is missing"),
        ({"policy": "poly"}, "max_batches must be at least 1 for policy 'poly', got 0"),
        ({"policy": "step", "step": 0}, "step must be at least 1, got 0"),
        ({"policy": "steps", "steps": "4e5,5", "scales": ".1,.1"}, "steps must start with an integer .*, got '4e5'"),
        ({"policy": "steps", "steps": "0.8,0.9", "scales": ".1,.1"}, "steps must start with an integer .*, got '0.8'"),
        ({"policy": "steps", "steps": "2,5", "scales": "-.1,.1"}, "scales must not be negative, got -0.1, 0.1"),
        ({"policy": "steps", "steps": "2,5", "scales": ".1,1e999"}, "scales must be a number below .*, got 1e999"),
        ({"policy": "step", "scale": "-2"}, "scale must not be negative, got -2"),
        ({"learning_rate": "-1"}, "learning_rate must not be negative, got -1"),
    ],
)
def test_policies_that_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(CfgError, match=message):
        rates(options, [1])


@pytest.mark.parametrize(
    "options",
    [
        {"policy": "exp", "gamma": 1.5},
        {"policy": "step", "step": 1, "scale": 2},
        {"policy": "poly", "max_batches": 2000, "power": -1},
    ],
)
def test_a_rate_beyond_all_numbers_is_refused(options: dict[str, object]) -> None:
    assert math.isfinite(rates(options, [1])[0])
    with pytest.raises(
        ValueError, match=f"Policy: '{options['policy']}' gives no finite learning rate for update 2000"
    ):
        rates(options, [2000])


def test_steps_that_do_not_ascend_are_as_in_darknet() -> None:
    """Its loop ends at the first step that is not reached."""
    assert rates({"learning_rate": 2, "policy": "steps", "steps": "5,2", "scales": ".5,.25"}, [3, 5]) == [2, 0.25]


def test_the_scheduler_resumes() -> None:
    policy = Policy(0.5, "steps", burn_in=3, steps=(5,), scales=(0.1,))

    def scheduler() -> DarknetLR:
        return DarknetLR(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0), policy)

    first, second = scheduler(), scheduler()
    seen = []
    for _ in range(6):
        seen.append(first.optimizer.param_groups[0]["lr"])
        first.optimizer.step()
        first.step()
        second.load_state_dict(first.state_dict())
        assert second.optimizer.param_groups[0]["lr"] == first.optimizer.param_groups[0]["lr"] == first.get_last_lr()[0]
    assert seen == pytest.approx([policy.rate(update) for update in range(1, 7)])
