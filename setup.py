"""Builds pydet/_C.so (CPU) and, where nvcc is found, pydet/_C_cuda.so, against LibTorch's stable ABI.

Both are plain shared libraries for torch.ops.load_library: they contain no Python, so that one wheel serves every
Python 3 and every torch >= 2.10. Only torch's headers are needed, so torch is located and never imported.

Environment: FORCE_CUDA=0/1, TORCH_CUDA_ARCH_LIST, CUDA_HOME, CXX, MAX_JOBS, DEBUG=1.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.bdist_wheel import bdist_wheel

ROOT = Path(__file__).parent.resolve()
OLDEST_TORCH = (2, 10)
# Turing, Ampere, Ada, Hopper, Blackwell; the last one also as PTX for what comes after it.
DEFAULT_CUDA_ARCHS = "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
CXX_FLAGS = (
    "-std=c++17 -fPIC -fvisibility=hidden -Wall -Wextra -Wno-unknown-pragmas -Wno-unused-parameter "
    # One IoU for every instruction set: no fused multiply-add, whose rounding would move boxes over the threshold.
    "-ffp-contract=off -fno-math-errno -fno-trapping-math"
).split()
TORCH_TARGET = f"-DTORCH_TARGET_VERSION=0x{OLDEST_TORCH[0]:02x}{OLDEST_TORCH[1]:02x}000000000000"


def torch_root() -> Path | None:
    """Folder of the torch to build against: of this environment, also when pip isolates the build from it."""
    for path in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        if path not in sys.path:
            sys.path.append(path)  # last: nothing of the build environment is shadowed
    spec = importlib.util.find_spec("torch")
    return Path(spec.origin).parent if spec and spec.origin else None


def fail(sentence: str) -> None:
    sys.exit(f"pydet: {sentence}")


def checked_torch() -> Path:
    root = torch_root()
    if root is None:
        fail("torch is not installed; install torch >= 2.10 first, for example: pip install torch")
    version = re.search(r"__version__ = '([^']+)'", (root / "version.py").read_text()).group(1)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TORCH:
        fail(f"torch {version} is too old to build against; pydet needs torch >= 2.10")
    print(f"pydet: torch {version} headers in {root}")
    return root


def checked_compiler() -> str:
    cxx = os.environ.get("CXX", "c++")
    if shutil.which(cxx.split()[0]) is None:
        fail(f"no C++ compiler: '{cxx}' was not found; install g++ or clang++, or set CXX to one")
    return cxx


def find_nvcc() -> str | None:
    """nvcc for _C_cuda.so, or None with the reason printed. Whether a GPU is here now is not asked."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = shutil.which("nvcc", path=f"{home}/bin" if home else None) or shutil.which("nvcc", path="/usr/local/cuda/bin")
    force = os.environ.get("FORCE_CUDA")
    if force not in (None, "", "0", "1"):
        fail(f"FORCE_CUDA must be 0 or 1, got '{force}'")
    if force == "0":
        print("pydet: CPU library only, because FORCE_CUDA=0")
        return None
    if nvcc is None:
        if force == "1":
            fail("FORCE_CUDA=1 but nvcc was not found on PATH or in CUDA_HOME; install the CUDA toolkit or unset FORCE_CUDA")
        print("pydet: CPU library only, because nvcc was not found on PATH, in CUDA_HOME or in /usr/local/cuda")
    return nvcc


def gencode_flags() -> list[str]:
    flags = []
    for arch in re.split(r"[;\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_CUDA_ARCHS):
        match = re.fullmatch(r"(\d+)\.(\d+)([af]?)(\+PTX)?", arch)
        if match is None:
            fail(f"TORCH_CUDA_ARCH_LIST must look like '8.0;9.0+PTX', got '{arch}'")
        number = "".join(match.group(1, 2, 3))
        codes = [f"sm_{number}"] + ([f"compute_{number}"] if match.group(4) else [])
        flags += [f"-gencode=arch=compute_{number},code={code}" for code in codes]
    return flags


class NinjaBuild(build_ext):
    """Compiles with ninja: in parallel, and on a rebuild only what has changed (headers included)."""

    def get_ext_filename(self, name: str) -> str:
        return name.replace(".", os.sep) + ".so"  # no Python ABI tag: it is not a Python module

    def build_extension(self, ext: Extension) -> None:
        torch = checked_torch()
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve() / ext.name
        build.mkdir(parents=True, exist_ok=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        includes = [f"-I{ROOT / 'csrc'}", f"-isystem{torch / 'include'}"]
        optimise = ["-O0", "-g"] if os.environ.get("DEBUG") == "1" else ["-O3", "-DNDEBUG"]
        cxx_flags = [*CXX_FLAGS, *optimise, TORCH_TARGET, *includes]
        # libtorch.so brings in libtorch_cuda.so where torch has one; nothing of it is needed to link.
        link = ["-shared", f"-L{torch / 'lib'}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu"]
        if sys.platform == "darwin":
            link = ["-shared", "-undefined", "dynamic_lookup"]
        linker = "$cxx"
        rules = [f"cxx = {checked_compiler()}", f"cxx_flags = {' '.join(cxx_flags)}"]
        rules += ["rule cxx", "  command = $cxx -MMD -MF $out.d $cxx_flags -c $in -o $out", "  depfile = $out.d", "  deps = gcc"]
        if ext.name.endswith("_cuda"):
            nvcc = find_nvcc()
            nvcc_flags = [*optimise, "-DUSE_CUDA", "--fmad=false", "--expt-relaxed-constexpr", "-std=c++17", TORCH_TARGET]
            nvcc_flags += [flag.replace("-isystem", "-isystem=") for flag in includes] + gencode_flags()
            nvcc_flags += ["-Xcompiler=-fPIC,-fvisibility=hidden", "-Xptxas=-v", "--threads=0"]
            rules += [f"nvcc = {nvcc}", f"nvcc_flags = {' '.join(nvcc_flags)}"]
            rules += ["rule nvcc", "  command = $nvcc -MD -MF $out.d $nvcc_flags -c $in -o $out > $out.ptxas 2>&1 || (cat $out.ptxas; exit 1)"]
            rules += ["  depfile = $out.d", "  deps = gcc"]
            linker = "$nvcc -cudart=static"
            link = [flag.replace("-Wl,", "-Xlinker=") for flag in link]  # nvcc links: it knows where its cudart lies
        rules += [f"link_flags = {' '.join(link)}", "rule link", f"  command = {linker} $in -o $out $link_flags"]
        objects = []
        for source in ext.sources:
            objects.append(source.replace("/", "_") + ".o")
            rules.append(f"build {objects[-1]}: {'nvcc' if source.endswith('.cu') else 'cxx'} {ROOT / source}")
        rules.append(f"build {output}: link {' '.join(objects)}")
        (build / "build.ninja").write_text("\n".join(rules) + "\n")
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        print(f"pydet: building {output.name} from {len(objects)} files", flush=True)
        try:
            subprocess.run([shutil.which("ninja") or "ninja", *jobs], cwd=build, check=True)
        except FileNotFoundError:
            fail("ninja was not found; install it: pip install ninja")
        except subprocess.CalledProcessError:
            fail(f"compiling {output.name} failed; the compiler's message is above")


class AnyPythonWheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def sources(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))


extensions = [Extension("pydet._C", sources("csrc/*.cpp"))]
if {"build_ext", "bdist_wheel", "develop", "editable_wheel", "install"} & set(sys.argv) and find_nvcc():
    extensions.append(Extension("pydet._C_cuda", sources("csrc/cuda/*.cu")))

setup(
    ext_modules=extensions,
    cmdclass={"build_ext": NinjaBuild, "bdist_wheel": AnyPythonWheel},
    # A build environment that pip isolates borrows the torch of the environment it installs into; only where there
    # is none is torch itself a requirement of the build.
    setup_requires=[] if torch_root() else ["torch>=2.10"],
)
