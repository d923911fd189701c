from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


def shared_path(name: str) -> Path:
    """Real data that lies beside the checkout and is not part of the project; skips the test where it is absent."""
    path = REPOSITORY.parent / "shared" / name
    if not path.exists():
        pytest.skip(f"needs {name} of the shared data beside the checkout, which is not here")
    return path


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_configure(config: pytest.Config) -> None:
    """Random inputs: the same few in every run, and thousands of new ones with --slow."""
    if importlib.util.find_spec("hypothesis") is None:  # `make gpu` takes what the machine has
        return
    import hypothesis

    hypothesis.settings.register_profile("few", max_examples=25, derandomize=True, deadline=None, database=None)
    hypothesis.settings.register_profile("thousands", max_examples=3000, deadline=None)
    hypothesis.settings.load_profile("thousands" if config.getoption("--slow") else "few")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import torch

    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow; run with --slow"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
