"""Detection operators: each is `torch.ops.pydet.<name>`, with the names, arguments and results of torchvision.ops.

Replacing `from torchvision.ops import nms` by `from pydet.ops import nms` is the whole migration.
"""

from pydet.ops._backend import OPERATORS, backend_of, set_backend
from pydet.ops.box_iou import box_iou

__all__ = ["OPERATORS", "backend_of", "box_iou", "set_backend"]
