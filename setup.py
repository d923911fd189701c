"""Builds pydet/_C.so (CPU) and, where nvcc is found, pydet/_C_cuda.so, against LibTorch's stable ABI.

Both are plain shared libraries for torch.ops.load_library: they contain no Python, so that one wheel serves every
Python 3 and every torch >= 2.10. Only torch's headers are needed, so torch is located and never imported.

Environment: FORCE_CUDA=0/1, TORCH_CUDA_ARCH_LIST, CUDA_HOME, CXX, CXXFLAGS, LDFLAGS, MAX_JOBS, DEBUG=1.
What was chosen and why is printed (`pip install -v` shows it) and kept in pydet/_build.txt.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NoReturn

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:
    sys.exit("pydet: this setuptools is too old to build a wheel; upgrade it: pip install 'setuptools>=77'")

ROOT = Path(__file__).parent.resolve()
OLDEST_TORCH = (2, 10)
# Turing, Ampere, Hopper, Blackwell. Code for 8.0 is also that of 8.6 and 8.9 (RTX 30 and 40), 10.0 that of 10.3, and so
# on; the newest is there as PTX too, for what comes after it.
CUDA_ARCHS = ("7.5", "8.0", "9.0", "10.0", "12.0")
STABLE_ABI = f"-DTORCH_TARGET_VERSION=0x{OLDEST_TORCH[0]:02x}{OLDEST_TORCH[1]:02x}000000000000"
CXX_FLAGS = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]
CXX_FLAGS += ["-Wno-unused-parameter", "-fno-math-errno", "-fno-trapping-math"]
# gcc 12 warns about its own AVX-512 header; clang does not know that warning.
CXX_FLAGS += ["-Wno-maybe-uninitialized", "-Wno-unknown-warning-option"]
# One IoU for every instruction set: no fused multiply-add, whose rounding would move boxes over the threshold.
CXX_FLAGS += ["-ffp-contract=off"]
NINJA_FILE = """\
rule cxx
  description = c++ $in
  command = {cxx} -MMD -MF $out.d {cxx_flags} -c $in -o $out
  depfile = $out.d
  deps = gcc
# ptxas reports registers and spills of every kernel: kept beside the object for .ci/check_cuda.py.
rule nvcc
  description = nvcc $in
  command = {nvcc} -MD -MF $out.d {nvcc_flags} -c $in -o $out > $out.ptxas 2>&1 || (cat $out.ptxas; exit 1)
  depfile = $out.d
  deps = gcc
rule link
  description = link $out
  command = {linker} $in -o $out {link_flags}
{builds}
"""
choices: list[str] = []


def say(sentence: str) -> None:
    print(f"pydet: {sentence}", flush=True)
    choices.append(sentence)


def fail(sentence: str) -> NoReturn:
    sys.exit(f"pydet: {sentence}")


def output_of(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        fail(f"{shlex.join(command)} does not run: {getattr(error, 'stderr', None) or error}")


@functools.cache
def torch_root() -> Path | None:
    """Folder of the torch to build against."""
    spec = importlib.util.find_spec("torch")
    if spec and spec.origin:
        return Path(spec.origin).parent
    # pip isolates the build from the environment it installs into, whose torch is the one we want: its Python, asked
    # without pip's variables, still sees it.
    ask = "import importlib.util as u; s = u.find_spec('torch'); print(s.origin if s and s.origin else '')"
    origin = output_of(sys.executable, "-E", "-c", ask).strip()
    return Path(origin).parent if origin else None


def checked_torch() -> Path:
    root = torch_root()
    if root is None:
        fail("torch is not installed; install torch >= 2.10 first, for example: pip install torch")
    match = re.search(r"__version__\b.*?['\"]((\d+)\.(\d+)[^'\"]*)", (root / "version.py").read_text())
    if match is None:
        fail(f"the torch in {root} does not say which version it is")
    if (int(match[2]), int(match[3])) < OLDEST_TORCH:
        fail(f"torch {match[1]} is too old to build against; pydet needs torch >= 2.10: pip install --upgrade torch")
    say(f"headers of torch {match[1]}; runs under every torch >= 2.10")
    return root


def checked_compiler() -> str:
    cxx = os.environ.get("CXX") or "c++"
    command = shlex.split(cxx)
    if shutil.which(command[0]) is None:
        fail(f"no C++ compiler: '{command[0]}' was not found; install g++ or clang++, or set CXX to one")
    say(f"CPU library: {output_of(*command, '--version').splitlines()[0]}")
    return cxx


def checked_ninja() -> str:
    ninja = shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))
    return ninja or fail("ninja was not found; install it: pip install ninja")


@functools.cache
def find_nvcc() -> str | None:
    """nvcc for _C_cuda.so, or None with the reason said. Whether a GPU is here now is not asked."""
    force = os.environ.get("FORCE_CUDA", "")
    if force not in ("", "0", "1"):
        fail(f"FORCE_CUDA must be 0 or 1, got '{force}'")
    if force == "0":
        say("CPU library only, because FORCE_CUDA=0")
        return None
    home = os.environ.get("CUDA_HOME")
    nvcc = shutil.which("nvcc", path=f"{home}/bin") if home else shutil.which("nvcc")
    if nvcc is None and not home:
        nvcc = shutil.which("nvcc", path="/usr/local/cuda/bin")
    if nvcc is None:
        where = f"CUDA_HOME ({home})" if home else "PATH or /usr/local/cuda"
        if force == "1":
            fail(f"FORCE_CUDA=1 but there is no nvcc in {where}; install the CUDA toolkit or unset FORCE_CUDA")
        say(f"CPU library only, because there is no nvcc in {where}")
    return nvcc


def gencode_flags(nvcc: str) -> list[str]:
    release = re.search(r"release ([\d.]+)", output_of(nvcc, "--version"))
    name = f"nvcc {release[1]}" if release else nvcc
    listed = re.findall(r"compute_(\d+)(\d)", output_of(nvcc, "--list-gpu-arch"))
    known = sorted({f"{major}.{minor}" for major, minor in listed}, key=float)
    archs = re.split(r"[;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip(" ;"))
    left_out: list[str] = []
    if archs == [""]:
        archs = [arch for arch in CUDA_ARCHS if arch in known]
        left_out = [arch for arch in CUDA_ARCHS if arch not in known]
        archs[-1:] = [f"{arch}+PTX" for arch in archs[-1:]]
    flags = []
    for arch in archs:
        match = re.fullmatch(r"(\d+\.\d)([af]?)(\+PTX)?", arch)
        if match is None or match[1] not in known:
            fail(f"TORCH_CUDA_ARCH_LIST must be like '8.0;9.0+PTX', of what {name} knows: {known}; got '{arch}'")
        number = match[1].replace(".", "") + match[2]
        for code in ("sm", "compute") if match[3] else ("sm",):
            flags.append(f"-gencode=arch=compute_{number},code={code}_{number}")
    because = f", not for {' '.join(left_out)}, which it does not know" if left_out else ""
    say(f"CUDA library: {name} for {' '.join(archs)}{because}")
    return flags


def ninja_path(path: Path | str) -> str:
    return re.sub(r"([$: ])", r"$\1", str(path))


def shell(words: list[str]) -> str:
    return shlex.join(words).replace("$", "$$")


class NinjaBuild(build_ext):
    """Compiles with ninja: in parallel, and on a rebuild only what has changed (headers included)."""

    build_temp: str

    def get_ext_filename(self, name: str) -> str:
        return name.replace(".", os.sep) + ".so"  # no Python ABI tag: it is not a Python module

    def finalize_options(self) -> None:
        extensions = self.distribution.ext_modules
        self.distribution.ext_modules = [ext for ext in extensions if ext.name != "pydet._C_cuda" or find_nvcc()]
        # One place for the objects of every kind of build: setuptools has editable ones compile all in a new folder.
        self.build_temp = self.build_temp or str(ROOT / "build" / f"temp.{sysconfig.get_platform()}")
        super().finalize_options()

    def run(self) -> None:
        self.torch, self.cxx, self.ninja = checked_torch(), checked_compiler(), checked_ninja()
        self.gencode = gencode_flags(nvcc) if (nvcc := find_nvcc()) else []
        folders = [Path(self.build_lib, "pydet")] + ([ROOT / "pydet"] if self.inplace else [])
        for folder in folders:
            (folder / "_C_cuda.so").unlink(missing_ok=True)  # an earlier build may have left one that this has not
        super().run()
        for folder in folders:
            (folder / "_build.txt").write_text("\n".join(choices) + "\n")

    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve() / ext.name
        build.mkdir(parents=True, exist_ok=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        (build / "build.ninja").write_text(self.ninja_file(ext, output))
        # Nothing is called from outside: the libraries register themselves with torch when they are loaded.
        (build / "exports.map").write_text("{ local: *; };\n")
        print(f"pydet: building {output.name} from {len(ext.sources)} files", flush=True)
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        if subprocess.run([self.ninja, *jobs], cwd=build).returncode:
            hint = "; FORCE_CUDA=0 builds without CUDA" if ext.name == "pydet._C_cuda" else ""
            fail(f"compiling {output.name} failed; the first error above says why{hint}")

    def ninja_file(self, ext: Extension, output: Path) -> str:
        optimise = ["-O0", "-g"] if os.environ.get("DEBUG") == "1" else ["-O3", "-DNDEBUG"]
        common = [*optimise, STABLE_ABI, f"-I{ROOT / 'csrc'}", "-isystem", str(self.torch / "include")]
        # libtorch.so brings in libtorch_cuda.so where torch has one; nothing of it is needed to link.
        link = ["-shared", f"-L{self.torch / 'lib'}", "-Wl,--version-script=exports.map", "-Wl,--no-as-needed"]
        link += ["-ltorch", "-ltorch_cpu"]
        if sys.platform == "darwin":
            link = ["-shared", "-undefined", "dynamic_lookup"]
        nvcc: list[str] = []
        nvcc_flags: list[str] = []
        linker = self.cxx
        if ext.name == "pydet._C_cuda" and (found := find_nvcc()):
            nvcc = [found, *(["-ccbin", shlex.split(self.cxx)[-1]] if os.environ.get("CXX") else [])]
            nvcc_flags = ["-std=c++17", "-DUSE_CUDA", "--fmad=false", "--expt-relaxed-constexpr", "--threads=0"]
            nvcc_flags += [*common, *self.gencode, "-Xptxas=-v", "-Xcompiler=-fPIC,-fvisibility=hidden"]
            linker = shell([*nvcc, "-cudart=static"])  # nvcc links: it knows where its cudart lies
            link = [flag.replace("-Wl,", "-Xlinker=") for flag in link]
        objects = [ninja_path(source.replace("/", "_") + ".o") for source in ext.sources]
        builds = [
            f"build {built}: {'nvcc' if source.endswith('.cu') else 'cxx'} {ninja_path(ROOT / source)}"
            for source, built in zip(ext.sources, objects, strict=True)
        ]
        builds.append(f"build {ninja_path(output)}: link {' '.join(objects)}")
        return NINJA_FILE.format(
            cxx=self.cxx,
            cxx_flags=shell([*CXX_FLAGS, *common, *shlex.split(os.environ.get("CXXFLAGS", ""))]),
            nvcc=shell(nvcc),
            nvcc_flags=shell(nvcc_flags),
            linker=linker,
            link_flags=shell([*link, *shlex.split(os.environ.get("LDFLAGS", ""))]),
            builds="\n".join(builds),
        )


class AnyPythonWheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def sources(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))


setup(
    ext_modules=[
        Extension("pydet._C", sources("csrc/*.cpp")),
        Extension("pydet._C_cuda", sources("csrc/cuda/*.cu")),
    ],
    cmdclass={"build_ext": NinjaBuild, "bdist_wheel": AnyPythonWheel},
    # pip asks for requirements with egg_info. Only where there is no torch to borrow is it one of the build.
    setup_requires=["torch>=2.10"] if "egg_info" in sys.argv and torch_root() is None else [],
)
