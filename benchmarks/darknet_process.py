"""Times the real Darknet: python darknet_process.py CFG WEIGHTS SIDE -> median seconds, picture tensor to boxes.

A process of its own, because loading libdarknet sets flush-to-zero for the whole thread.
"""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from pathlib import Path

LIBRARY = Path("/usr/lib/darknet/libdarknet.so")  # Debian's package darknet


def main() -> None:
    cfg, weights, side = sys.argv[1], sys.argv[2], int(sys.argv[3])
    library = ctypes.CDLL(str(LIBRARY))
    library.load_network.restype = ctypes.c_void_p
    library.load_network.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int]
    library.network_predict.restype = ctypes.POINTER(ctypes.c_float)
    library.network_predict.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_float)]
    library.get_network_boxes.restype = ctypes.c_void_p
    library.get_network_boxes.argtypes = [
        ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_float, ctypes.c_float,
        ctypes.POINTER(ctypes.c_int), ctypes.c_int, ctypes.POINTER(ctypes.c_int),
    ]  # fmt: skip
    library.do_nms_sort.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_float]
    library.free_detections.argtypes = [ctypes.c_void_p, ctypes.c_int]
    network = library.load_network(cfg.encode(), weights.encode(), 0)
    picture = (ctypes.c_float * (3 * side * side))(*([0.5] * (3 * side * side)))
    count = ctypes.c_int()
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        library.network_predict(network, picture)
        found = library.get_network_boxes(network, side, side, 0.25, 0.5, None, 1, ctypes.byref(count))
        library.do_nms_sort(found, count.value, 80, 0.45)
        seconds.append(time.perf_counter() - start)
        library.free_detections(found, count.value)
    print(statistics.median(seconds[1:]))


if __name__ == "__main__":
    main()
