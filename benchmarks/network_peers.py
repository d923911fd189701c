"""The networks alone in other libraries: () -> the raw outputs as arrays, on the same input and number of threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import raw_outputs
from peers import peer
from torch import Tensor, nn

from pydet import models
from pydet.models import Darknet, DetectionModel
from pydet.models.darknet import format_cfg

Network = Callable[[], list[np.ndarray]]


class _Raw(nn.Module):
    """The network alone, as something that can be exported."""

    def __init__(self, network: DetectionModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(raw_outputs(self.network, x))


def network_peers(network: DetectionModel, x: Tensor, folder: Path) -> dict[str, Network]:
    """Those that are installed, for a network that is fused."""
    found: dict[str, Network] = {}
    if not (peer("onnx") and peer("onnxscript")):
        return found
    path = folder / "network.onnx"
    picture = x.contiguous()
    torch.onnx.export(_Raw(network), (picture,), path, dynamo=True, input_names=["x"], verbose=False)
    if onnxruntime := peer("onnxruntime"):
        found["onnxruntime"] = _onnxruntime(onnxruntime, path, picture.numpy())
    if openvino := peer("openvino"):
        core = openvino.Core()
        found["OpenVINO"] = _openvino(core, path, picture.numpy(), "f32")
        if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            found["OpenVINO bf16"] = _openvino(core, path, picture.numpy(), "bf16")
    return found


def _onnxruntime(onnxruntime: Any, path: Path, x: np.ndarray) -> Network:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})


def _openvino(core: Any, path: Path, x: np.ndarray, precision: str) -> Network:
    config = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(str(path), "CPU", config)
    request = compiled.create_infer_request()

    def run() -> list[np.ndarray]:
        request.infer({0: x}, share_inputs=True)
        return [np.array(request.get_output_tensor(i).data) for i in range(len(compiled.outputs))]

    return run


def darknet_files(network: Darknet, folder: Path) -> tuple[Path, Path]:
    """A network that is not fused, as Darknet's own two files."""
    cfg, weights = folder / "network.cfg", folder / "network.weights"
    cfg.write_text(format_cfg(network.sections))
    models.save_weights(network, weights)
    return cfg, weights


def opencv(cfg: Path, weights: Path, x: Tensor) -> Network | None:
    """cv2.dnn: of each head, rows of centre x, y, width, height in parts of the picture, objectness, class scores.

    None where it does not know a layer of Darknet, such as [local] or a [region] with a tree.
    """
    cv2 = peer("cv2")
    if cv2 is None or not hasattr(cv2.dnn, "readNetFromDarknet"):
        return None
    cv2.setNumThreads(torch.get_num_threads())
    try:
        network = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    except cv2.error:
        return None
    names, picture = network.getUnconnectedOutLayersNames(), x.contiguous().numpy()

    def run() -> list[np.ndarray]:
        network.setInput(picture)
        return list(network.forward(names))

    return run
