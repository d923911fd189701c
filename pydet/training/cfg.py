"""What a Darknet cfg of one's own says of its training, as settings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from pydet.models.darknet.cfg import Section, format_cfg, read_cfg
from pydet.training.schedule import Policy
from pydet.training.settings import defaults

# What Darknet reads to train a detector, or looks at for other networks only; and options that heads have here.
_NET = """batch subdivisions width height channels inputs learning_rate momentum decay max_batches policy burn_in power
  steps scales step scale gamma adam B1 B2 eps hue saturation exposure angle aspect center clip max_crop min_crop
  max_ratio min_ratio notruth time_steps"""
_HEAD = """classes num anchors mask coords side softmax sqrt log tree map background max jitter random rescore reorg
  forced thresh ignore_thresh truth_thresh absolute bias_match object_scale noobject_scale class_scale coord_scale
  mask_scale focal_loss scale_x_y new_coords"""
_KNOWN = {"net": _NET.split(), "yolo": _HEAD.split(), "region": _HEAD.split(), "detection": _HEAD.split()}


def settings_of_cfg(path: str) -> dict[str, Any]:
    """The settings that a cfg names; none for a cfg without max_batches, which says nothing of training.

    One with max_batches is the whole word: what it leaves out is as in Darknet. Only batch=1 says nothing, because cfgs
    are published with it for detection.

    Raises:
        CfgError: it cannot be read; or it asks for Adam.
    """
    sections = read_cfg(path)
    net, last = sections[0], sections[-1]  # Darknet, too, looks for `random` in the last layer
    updates = net.integer("max_batches", 0, at_least=0)
    if not updates:
        return {}
    if net.integer("adam", 0):
        raise net.error(f"adam={net.text('adam')} is not supported in training, which is by SGD")
    policy = Policy.of(net)
    # Darknet goes through the steps in the order of the file: one that is not reached yet hides those behind it.
    pairs = [
        (max(step, 1) / updates, scale)
        for step, scale in zip(accumulate(policy.steps, max), policy.scales, strict=True)
        if step <= updates
    ]
    batch = net.integer("batch", 1, at_least=1)
    sizes = {"batch_size": batch, "parts": net.integer("subdivisions", 1, at_least=1)}
    if batch == 1:
        sizes = {name: defaults("", fine_tuning=False)[name] for name in sizes}
    return sizes | {
        "updates": updates,
        "learning_rate": policy.learning_rate,
        "momentum": net.number("momentum", 0.9),
        "weight_decay": net.number("decay", 0.0001),
        "schedule": policy.policy,
        "steps": tuple(step for step, _ in pairs),
        "scales": tuple(scale for _, scale in pairs),
        "warmup": policy.burn_in,
        "warmup_power": policy.power,
        "multi_scale": bool(last.integer("random", 0)),
    }


def cfg_mark(path: str) -> str:
    """Tells whether a cfg is the same, remarks and line ends aside."""
    return hashlib.sha256(format_cfg(read_cfg(path)).encode(errors="surrogateescape")).hexdigest()


def check_layers(sections: Iterable[Section]) -> None:
    """Raises CfgError where a layer is to be trained otherwise than the rest, as Darknet can."""
    for section in sections:
        section.refuse_in_training("stopbackward")
        if section.name != "net" and section.number("learning_rate", 1) != 1:
            raise section.error(
                f"learning_rate={section.text('learning_rate')} of a layer is not supported in training"
            )


def unread(sections: Iterable[Section]) -> list[str]:
    """What a cfg says of training that changes nothing here: options of Darknet's forks, or typing mistakes."""
    named = [section for section in sections if section.name in _KNOWN]
    found = [f"{key}={s.text(key)} of [{s.name}]" for s in named for key in s.options if key not in _KNOWN[s.name]]
    return list(dict.fromkeys(found))
