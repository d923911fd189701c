"""The checks that CI makes of what was built can fail, and the Makefile says what a machine lacks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pydet import _library

ROOT = Path(__file__).parent.parent
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def check(name: str, *files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / ".ci" / name), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True)


def library(folder: Path, source: str, name: str = "_C.so", *flags: str) -> Path:
    """A shared library built from one line of C++, as setup.py builds: everything hidden but what says otherwise."""
    (folder / "planted.cpp").write_text(source)
    command = ["c++", "-shared", "-fPIC", "-fvisibility=hidden", "-O1", "planted.cpp", "-o", name, *flags]
    subprocess.run(command, cwd=folder, check=True)
    return folder / name


USE = "__attribute__((constructor)) static void at_load() {{ {0}; }}"
PYTHON = 'extern "C" void* PyLong_FromLong(long);' + USE.format("PyLong_FromLong(1)")
C10 = "namespace c10 { void* GetCPUAllocator(); }" + USE.format("c10::GetCPUAllocator()")
OF_TORCH_2_11 = 'extern "C" int torch_dtype_float4_e2m1fn_x2();' + USE.format("torch_dtype_float4_e2m1fn_x2()")
STREAM = 'extern "C" int aoti_torch_get_current_cuda_stream(int, void**);'
STREAM += USE.format("aoti_torch_get_current_cuda_stream(0, nullptr)")
STABLE = 'extern "C" int aoti_torch_dtype_float32();' + USE.format("aoti_torch_dtype_float32()")
SYSTEM = "#include <cmath>\n#include <iostream>\n" + USE.format("std::cout << std::tgamma(std::cin.get())")
EXPORT = '__attribute__((visibility("default"))) int nms(int n) { return n; }'
UNKNOWN = "neither torch's stable ABI nor the system's"


@pytest.mark.parametrize(
    ("source", "name", "sentence"),
    [
        (PYTHON, "_C.so", "_C.so uses PyLong_FromLong, which is the Python API"),
        (C10, "_C.so", f"_C.so uses c10::GetCPUAllocator(), which is {UNKNOWN}"),
        (OF_TORCH_2_11, "_C.so", f"_C.so uses torch_dtype_float4_e2m1fn_x2, which is {UNKNOWN}"),
        (STREAM, "_C.so", f"_C.so uses aoti_torch_get_current_cuda_stream, which is {UNKNOWN}"),
        (EXPORT, "_C.so", "_C.so exports nms(int); nothing has to be visible"),
    ],
    ids=["python", "c10", "torch 2.11", "CUDA in the CPU library", "export"],
)
def test_abi_check_finds(source: str, name: str, sentence: str, tmp_path: Path) -> None:
    result = check("check_abi.py", library(tmp_path, source, name))
    assert result.returncode == 1, result.stderr
    assert sentence in result.stdout.splitlines()


def test_what_is_built_here_has_the_stable_abi_only() -> None:
    libraries = [path for path in (_library.CPU_LIBRARY, _library.CUDA_LIBRARY) if path.exists()]
    result = check("check_abi.py", *libraries)
    assert result.stdout.splitlines() == [f"{path.name}: stable ABI only" for path in libraries]
    assert result.returncode == 0


def test_abi_check_finds_a_library_that_is_needed(tmp_path: Path) -> None:
    (tmp_path / "libother.so").symlink_to(library(tmp_path, "", "other.so", "-Wl,-soname,libother.so"))
    result = check("check_abi.py", library(tmp_path, "", "_C.so", "-L.", "-Wl,--no-as-needed", "-lother"))
    assert result.returncode == 1
    assert "_C.so needs the library libother.so" in result.stdout.splitlines()


@pytest.mark.parametrize(("source", "name"), [(STABLE, "_C.so"), (SYSTEM, "_C.so"), (STREAM, "_C_cuda.so")])
def test_abi_check_allows(source: str, name: str, tmp_path: Path) -> None:
    result = check("check_abi.py", library(tmp_path, source, name))
    assert (result.returncode, result.stdout) == (0, f"{name}: stable ABI only\n"), result.stderr


SPILLS = """
__global__ void spills(const float* in, float* out, int n) {
  float all[64];
  for (int i = 0; i < n; ++i) all[i] = in[i];
  out[0] = all[int(in[0])];
}
"""
FITS = "__global__ void fits(const float* in, float* out) { out[threadIdx.x] = in[threadIdx.x]; }"


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
@pytest.mark.parametrize(("source", "code"), [(FITS, 0), (SPILLS, 1), ("int nothing;", 1)])
def test_cuda_check(source: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "planted.cu").write_text(source)
    command = [str(NVCC), "-Xptxas=-v", "-arch=sm_90", "-c", "planted.cu", "-o", "planted.o"]
    compiled = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    report = tmp_path / "planted.cu.o.ptxas"
    report.write_text(compiled.stdout + compiled.stderr)
    result = check("check_cuda.py", report)
    assert result.returncode == code, result.stdout + result.stderr
    if source == SPILLS:
        assert "spills(float const*, float*, int) for sm_90: 256 bytes stack frame" in result.stdout


@pytest.fixture
def make(tmp_path: Path):
    """Runs make on this Makefile in a folder of its own; returns its exit code and what it printed."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("setup.py", "pyproject.toml"):
        (tmp_path / name).touch()

    def run(*arguments: str) -> tuple[int, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        command = ["make", *arguments]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        return result.returncode, result.stdout + result.stderr

    return run


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_says_what_is_missing(make, tmp_path: Path) -> None:
    code, output = make("test", "PYTHON=no-such-python")
    assert code == 2
    assert "make: Python 3.10 or newer is needed, and no-such-python is not; name one: make PYTHON=python3.12" in output

    stub = tmp_path / "python-without-venv"
    stub.write_text('#!/bin/sh\n[ "$1" = -c ]\n')
    stub.chmod(0o755)
    code, output = make("demo", f"PYTHON={stub}")
    assert code == 2
    assert f"make: {stub} cannot create .venv; on Debian and Ubuntu: apt-get install python3-venv" in output
    assert not (tmp_path / ".venv").exists()

    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "torch").touch()
    code, output = make("demo", "CXX=no-such-c++")
    assert code == 2
    assert "make: there is no C++ compiler; on Debian and Ubuntu: apt-get install g++" in output
