"""setup.py: what is packed, and one clear sentence for everything that can be missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HAS_NVCC = bool(shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin"))
needs_nvcc = pytest.mark.skipif(not HAS_NVCC, reason="needs nvcc")
VARIABLES = ("FORCE_CUDA", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CXX", "CXXFLAGS", "LDFLAGS", "MAX_JOBS", "DEBUG")
VARIABLES += ("PYTHONPATH",)


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command in this environment, less what steers a build, plus `variables`."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables
    return subprocess.run([str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True)


def succeed(*command: str | Path, cwd: Path, **variables: str) -> str:
    result = run(*command, cwd=cwd, **variables)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source archive, in a folder whose name has a space: nothing else of the checkout can be used."""
    folder = tmp_path_factory.mktemp("source archive")
    succeed(sys.executable, "setup.py", "-q", "egg_info", "-e", folder, "sdist", "-d", folder, cwd=ROOT)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if (path / "setup.py").exists())


def test_source_archive_holds_what_is_tracked(source: Path) -> None:
    """Whoever has only the archive can build, test, lint and document it."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a checkout of git")
    tracked = set(succeed("git", "ls-files", cwd=ROOT).splitlines()) - {".gitattributes", ".gitignore"}
    assert tracked - {str(path.relative_to(source)) for path in source.rglob("*")} == set()


@pytest.fixture(scope="module")
def one_kernel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked archive with the smallest of its CUDA files alone: nvcc would take most of the time of these tests.

    `.ci/check_cuda.py` compiles them all.
    """
    folder = tmp_path_factory.mktemp("one kernel") / source.name
    shutil.copytree(source, folder)
    for path in sorted((folder / "csrc" / "cuda").glob("*.cu"), key=lambda path: path.stat().st_size)[1:]:
        path.unlink()
    return folder


def build_wheel(folder: Path, **variables: str) -> zipfile.ZipFile:
    """The wheel, unoptimised and for one architecture: its contents and its choices are what counts here."""
    shutil.rmtree(folder / "dist", ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    succeed(*command, cwd=folder, DEBUG="1", CXXFLAGS="-g0", TORCH_CUDA_ARCH_LIST="9.0", **variables)
    return zipfile.ZipFile(next((folder / "dist").glob("*.whl")))


@pytest.fixture(scope="module")
def wheel(one_kernel: Path) -> zipfile.ZipFile:
    return build_wheel(one_kernel)


def test_wheel_is_for_every_python_3(wheel: zipfile.ZipFile) -> None:
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert Path(wheel.filename or "").name.endswith(f"-py3-none-{platform}.whl")


def test_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    modules = {f"pydet/{path.relative_to(ROOT / 'pydet')}" for path in (ROOT / "pydet").rglob("*.py")}
    kernels = {f"pydet/triton_kernels/{path.name}" for path in (ROOT / "triton_kernels").glob("*.py")}
    assets = {f"pydet/assets/{path.name}" for path in (ROOT / "pydet" / "assets").iterdir() if path.is_file()}
    built = {"pydet/_C.so", "pydet/_build.txt"} | ({"pydet/_C_cuda.so"} if HAS_NVCC else set())
    assert names == modules | kernels | assets | built | {"pydet/py.typed"}


def test_wheel_works_where_it_is_unpacked(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    use = (
        "import torch, pydet; box = torch.tensor([[0.0, 0, 2, 2]]); print(pydet.ops.box_iou(box, box), pydet.__file__)"
    )
    output = succeed(sys.executable, "-c", use, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert output == f"tensor([[1.]]) {tmp_path / 'pydet' / '__init__.py'}\n"
    check = ROOT / ".ci" / "check_abi.py"
    succeed(sys.executable, check, *(tmp_path / "pydet").glob("*.so"), cwd=tmp_path)


def test_wheel_without_cuda_has_no_cuda_library_of_an_earlier_build(wheel: zipfile.ZipFile, one_kernel: Path) -> None:
    cpu = build_wheel(one_kernel, FORCE_CUDA="0")
    assert "pydet/_C.so" in cpu.namelist()
    assert "pydet/_C_cuda.so" not in cpu.namelist()
    assert "CPU library only, because FORCE_CUDA=0" in cpu.read("pydet/_build.txt").decode()


def test_editable_build_compiles_nothing_again(wheel: zipfile.ZipFile, one_kernel: Path) -> None:
    build = "from setuptools.build_meta import build_editable; build_editable('editable')"
    variables = {"DEBUG": "1", "CXXFLAGS": "-g0", "TORCH_CUDA_ARCH_LIST": "9.0"}
    output = succeed(sys.executable, "-c", build, cwd=one_kernel, **variables)
    assert "] link " in output
    assert "] c++ " not in output
    assert "] nvcc " not in output
    assert (one_kernel / "pydet" / "_C.so").exists()
    assert (one_kernel / "pydet" / "_C_cuda.so").exists() == HAS_NVCC


@pytest.fixture
def bare_python(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A Python that has setuptools but neither torch nor ninja, and a PATH that has a compiler but no ninja."""
    succeed(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    (tmp_path / "site").mkdir()
    (tmp_path / "bin").mkdir()
    import setuptools

    site_packages = Path(setuptools.__file__).parent.parent
    for path in (*site_packages.glob("setuptools*"), site_packages / "_distutils_hack"):
        (tmp_path / "site" / path.name).symlink_to(path)
    (tmp_path / "bin" / "c++").symlink_to(shutil.which("c++") or "/usr/bin/c++")
    return tmp_path / "venv" / "bin" / "python", {"PYTHONPATH": str(tmp_path / "site"), "PATH": str(tmp_path / "bin")}


def fake_torch(folder: Path, version: str) -> str:
    """Makes a torch that is only what setup.py looks at; returns the folder to import it from."""
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text("raise AssertionError('setup.py must not import torch')")
    (folder / "torch" / "version.py").write_text(f"__version__ = '{version}'\n")
    return str(folder)


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def assert_fails_with(sentence: str, source: Path, tmp_path: Path, python: Path | None = None, **variables: str) -> str:
    """The build stops before anything is compiled, with one sentence as its last line and no traceback."""
    folders = ["-t", tmp_path / "temp", "-b", tmp_path / "lib"]
    command = [python or sys.executable, "setup.py", "-q", "build_ext", *folders]
    result = run(*command, cwd=source, **variables)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1] == f"pydet: {sentence}"
    return result.stdout


def test_no_compiler(source: Path, tmp_path: Path) -> None:
    wanted = "no C++ compiler: '{}' was not found; install g++ or clang++, or set CXX to one"
    assert_fails_with(wanted.format("no-such-c++"), source, tmp_path, CXX="no-such-c++ -O1", FORCE_CUDA="0")
    assert_fails_with(wanted.format("c++"), source, tmp_path, PATH=str(tmp_path), FORCE_CUDA="0")


def test_compiler_too_old(source: Path, tmp_path: Path) -> None:
    old = script(tmp_path / "g++-4", "[ $1 = --version ] && echo 'g++ 4.8' && exit; echo \"no '-std=c++17'\"; exit 1")
    sentence = "compiling _C.so failed; the first error above says why"
    output = assert_fails_with(sentence, source, tmp_path, CXX=str(old), FORCE_CUDA="0")
    assert "no '-std=c++17'" in output


def test_no_torch(source: Path, tmp_path: Path, bare_python: tuple[Path, dict[str, str]]) -> None:
    python, variables = bare_python
    sentence = "torch is not installed; install torch >= 2.10 first, for example: pip install torch"
    assert_fails_with(sentence, source, tmp_path, python, FORCE_CUDA="0", **variables)


def test_torch_too_old(source: Path, tmp_path: Path) -> None:
    sentence = "torch 2.9.1+cpu is too old to build against; pydet needs torch >= 2.10: pip install --upgrade torch"
    assert_fails_with(sentence, source, tmp_path, PYTHONPATH=fake_torch(tmp_path / "old", "2.9.1+cpu"))


def test_no_ninja(source: Path, tmp_path: Path, bare_python: tuple[Path, dict[str, str]]) -> None:
    python, variables = bare_python
    fake_torch(tmp_path / "site", "2.10.0")
    sentence = "ninja was not found; install it: pip install ninja"
    assert_fails_with(sentence, source, tmp_path, python, FORCE_CUDA="0", **variables)


def test_cuda_asked_for_without_nvcc(source: Path, tmp_path: Path) -> None:
    sentence = f"FORCE_CUDA=1 but there is no nvcc in CUDA_HOME ({tmp_path}); install the CUDA toolkit or unset "
    assert_fails_with(sentence + "FORCE_CUDA", source, tmp_path, FORCE_CUDA="1", CUDA_HOME=str(tmp_path))


def test_force_cuda_is_0_or_1(source: Path, tmp_path: Path) -> None:
    assert_fails_with("FORCE_CUDA must be 0 or 1, got 'yes'", source, tmp_path, FORCE_CUDA="yes")


def old_toolkit(tmp_path: Path) -> str:
    """A CUDA_HOME whose nvcc answers as that of CUDA 12.4 and cannot compile."""
    answer = 'case "$1" in --version) echo "release 12.4, V1";; --list-gpu-arch) echo "{}";; *) exit 1;; esac'
    archs = " ".join(f"compute_{number}" for number in (50, 60, 70, 75, 80, 86, 89, 90))
    script(tmp_path / "cuda" / "bin" / "nvcc", answer.format(archs))
    return str(tmp_path / "cuda")


@pytest.mark.parametrize("archs", ["Hopper", "9", "12.0", "8.0 9.0+SASS"])
def test_bad_architectures(source: Path, tmp_path: Path, archs: str) -> None:
    known = "['5.0', '6.0', '7.0', '7.5', '8.0', '8.6', '8.9', '9.0']"
    sentence = f"TORCH_CUDA_ARCH_LIST must be like '8.0;9.0+PTX', of what nvcc 12.4 knows: {known}; got "
    sentence += f"'{archs.split()[-1]}'"
    assert_fails_with(sentence, source, tmp_path, TORCH_CUDA_ARCH_LIST=archs, CUDA_HOME=old_toolkit(tmp_path))


def test_older_toolkit_builds_every_kernel_for_what_it_knows(source: Path, tmp_path: Path) -> None:
    stub = script(tmp_path / "c++", 'while [ $# -gt 0 ]; do [ "$1" = -o ] && : > "$2"; shift; done; echo c++')
    sentence = "compiling _C_cuda.so failed; the first error above says why; FORCE_CUDA=0 builds without CUDA"
    output = assert_fails_with(sentence, source, tmp_path, CUDA_HOME=old_toolkit(tmp_path), CXX=str(stub))
    assert "CUDA library: nvcc 12.4 for 7.5 8.0 9.0+PTX, not for 10.0 12.0, which it does not know\n" in output
    commands = (tmp_path / "temp" / "pydet._C_cuda" / "build.ninja").read_text()
    assert "code=sm_75 " in commands
    assert "code=sm_90 -gencode=arch=compute_90,code=compute_90 " in commands
    assert "_100" not in commands
    assert {path.name for path in (ROOT / "csrc" / "cuda").glob("*.cu")} == set(
        re.findall(r"nvcc .*/(\w+\.cu)$", commands, re.M)
    )


@needs_nvcc
def test_nvcc_is_enough_for_cuda(wheel: zipfile.ZipFile) -> None:
    assert "for 9.0\n" in wheel.read("pydet/_build.txt").decode()


def test_torch_is_borrowed_by_an_isolated_build(
    source: Path, tmp_path: Path, bare_python: tuple[Path, dict[str, str]]
) -> None:
    """pip runs the build where site-packages is hidden (-S here); the torch in there is found all the same."""
    ask = "from setuptools.build_meta import *; print('\\n', get_requires_for_build_wheel())"
    python, variables = bare_python
    borrowed = succeed(sys.executable, "-S", "-c", ask, cwd=source, PYTHONPATH=variables["PYTHONPATH"])
    assert borrowed.splitlines()[-1].strip() == "[]"
    missing = succeed(python, "-c", ask, cwd=source, **variables)
    assert missing.splitlines()[-1].strip() == "['torch>=2.10']"
