"""Build of the compiled parts: ninja drives the C++ compiler and nvcc. All metadata is in pyproject.toml.

`kan_fast._C` holds the kernels for CPUs. `kan_fast._cuda_kernels` holds those for GPUs, for all architectures at once
and with the CUDA runtime inside; it is built where there is an nvcc. The build needs setuptools, pybind11 and ninja;
it never imports torch, uses the network or looks for a GPU. Without a compiler the package installs as pure Python:
kan_fast then runs on plain torch, and `kan_fast.backends()` says so.

The environment variables CXX, CXXFLAGS, LDFLAGS, CUDA_HOME and NVCC_APPEND_FLAGS have their usual meaning.
KAN_FAST_CUDA=0 leaves out the GPU kernels, KAN_FAST_CUDA="80 90" builds them for these architectures alone.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

SOURCES = [Path("csrc/bindings.cpp"), *sorted(Path("csrc/cpu").glob("*.cpp"))]
CXX_FLAGS = ["-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"]
LINK_FLAGS = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]

# A source whose name ends like this is compiled for that instruction set; the program picks one at run time.
X86_FLAGS = {
    "_avx2": ["-mavx2", "-mfma", "-mf16c"],
    "_avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"],
}

CUDA_SOURCES = sorted(Path("csrc/cuda").glob("*.cu"))
CUDA_ARCHITECTURES = "75 80 86 89 90 100 120"
NVCC_FLAGS = ["-O3", "-std=c++17", "-Xcompiler=-fPIC"]
# Static, and its symbols hidden from the runtime that torch brings.
NVCC_LINK_FLAGS = ["-shared", "-cudart=static", "-Xlinker=--exclude-libs,ALL"]

NINJA_RULES = """\
ninja_required_version = 1.5
builddir = {build_dir}

rule cxx
  command = {cxx} -MMD -MF $out.d $flags -c $in -o $out
  description = compile $in
  depfile = $out.d
  deps = gcc

rule link
  command = {cxx} $in {link_flags} -o $out
  description = link $out

rule nvcc
  command = {nvcc} -MMD -MF $out.d {nvcc_flags} -c $in -o $out
  description = compile $in for {architectures}
  depfile = $out.d
  deps = gcc

rule nvlink
  command = {nvcc} $in {nvlink_flags} -o $out
  description = link $out

"""


def find_compiler() -> list[str]:
    """The C++ compiler as a command, from CXX or PATH; empty where there is none that takes these flags."""
    if sys.platform == "win32":
        return []
    found = map(shutil.which, ("c++", "g++", "clang++"))
    return shlex.split(os.environ.get("CXX", "")) or list(filter(None, found))[:1]


def find_nvcc() -> str:
    """The CUDA compiler, from CUDA_HOME or PATH; empty where there is none or KAN_FAST_CUDA=0."""
    if os.environ.get("KAN_FAST_CUDA") == "0" or not find_compiler():
        return ""
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=os.path.join(home, "bin") if home else None) or ""


def cuda_architectures(nvcc: str) -> list[str]:
    """The wanted architectures that this nvcc knows: old ones lack the newest, new ones drop the oldest."""
    known = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
    wanted = os.environ.get("KAN_FAST_CUDA", CUDA_ARCHITECTURES).split()
    found = [arch for arch in wanted if f"sm_{arch}" in known]
    return found or sys.exit(f"kan_fast: {nvcc} knows none of the architectures {' '.join(wanted)}: {' '.join(known)}")


def architecture_flags(architectures: list[str]) -> list[str]:
    """One pass over the source, for the lowest architecture, serves all but sm_75, which holds fewer threads.

    Newer GPUs than these start from the PTX of the last pass.
    """
    groups = [[arch for arch in architectures if (arch == "75") == old] for old in (True, False)]
    passes = [[f"sm_{arch}" for arch in group] for group in groups if group]
    lowest = [codes[0].replace("sm", "compute") for codes in passes]
    passes[-1].append(lowest[-1])
    return [f"-gencode=arch={arch},code=[{','.join(codes)}]" for arch, codes in zip(lowest, passes, strict=True)]


def instruction_set(source: Path) -> str:
    """The key of X86_FLAGS that the name of `source` ends with, or ""."""
    return next((suffix for suffix in X86_FLAGS if source.stem.endswith(suffix)), "")


def quote(words: list[str]) -> str:
    """A command line for the shell, inside a ninja file."""
    return shlex.join(words).replace("$", "$$")


def ninja_file(build_dir: Path, targets: dict[str, Path]) -> str:
    """The text of build.ninja: for each target one edge for each source, and one that links them."""
    import pybind11

    includes = ["csrc", sysconfig.get_path("include"), pybind11.get_include()]
    flags = CXX_FLAGS + [f"-I{path}" for path in includes] + shlex.split(os.environ.get("CXXFLAGS", ""))
    link_flags = LINK_FLAGS + shlex.split(os.environ.get("LDFLAGS", ""))
    nvcc = find_nvcc()
    architectures = cuda_architectures(nvcc) if nvcc else []
    text = NINJA_RULES.format(
        build_dir=build_dir.as_posix(),
        cxx=quote(find_compiler()),
        link_flags=quote(link_flags),
        nvcc=quote([nvcc]),
        nvcc_flags=quote([*NVCC_FLAGS, *architecture_flags(architectures)] if nvcc else []),
        nvlink_flags=quote(NVCC_LINK_FLAGS),
        architectures=" ".join(f"sm_{arch}" for arch in architectures),
    )

    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    objects = []
    for source in SOURCES:
        isa = instruction_set(source)
        if isa and not is_x86:
            continue
        objects.append((build_dir / source.with_suffix(".o")).as_posix())
        text += f"build {objects[-1]}: cxx {source.as_posix()}\n  flags = {quote(flags + X86_FLAGS.get(isa, []))}\n"
    text += f"build {targets['kan_fast._C'].as_posix()}: link {' '.join(objects)}\n"

    if nvcc:
        objects = [(build_dir / source.with_suffix(".o")).as_posix() for source in CUDA_SOURCES]
        for source, built in zip(CUDA_SOURCES, objects, strict=True):
            text += f"build {built}: nvcc {source.as_posix()}\n"
        text += f"build {targets['kan_fast._cuda_kernels'].as_posix()}: nvlink {' '.join(objects)}\n"
    return text


def ninja_command() -> str:
    """The ninja of the Python package, else the one on PATH."""
    try:
        from ninja import BIN_DIR
    except ImportError:
        return shutil.which("ninja") or sys.exit("kan_fast: the build needs ninja: pip install ninja")
    return os.path.join(BIN_DIR, "ninja")


class NinjaBuild(build_ext):
    """Builds in build/ninja-<platform>, which outlives pip's temporary folders, so that a rebuild is incremental."""

    def build_extension(self, ext: Extension) -> None:
        build_dir = Path("build", f"ninja-{sysconfig.get_config_var('SOABI')}")
        build_dir.mkdir(parents=True, exist_ok=True)
        targets = {e.name: build_dir / Path(self.get_ext_filename(e.name)).name for e in self.extensions}
        script = build_dir / "build.ninja"
        script.write_text(ninja_file(build_dir, targets))
        quiet = [] if self.verbose else ["--quiet"]
        if subprocess.run([ninja_command(), *quiet, "-f", script, targets[ext.name]]).returncode:
            raise CompileError(f"kan_fast: the C++ build failed ({ext.name}); the compiler's messages are above")
        destination = Path(self.get_ext_fullpath(ext.name))
        destination.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(targets[ext.name]), str(destination))


extensions = [Extension("kan_fast._C", [source.as_posix() for source in SOURCES])]
if find_nvcc():
    extensions.append(Extension("kan_fast._cuda_kernels", [source.as_posix() for source in CUDA_SOURCES]))
if not find_compiler():
    extensions = []
    reason = "Windows is not supported by the native backend" if sys.platform == "win32" else "no C++ compiler found"
    warnings.warn(
        f"kan_fast is installed without its compiled extension ({reason}); it will run on plain torch.", stacklevel=1
    )

setup(ext_modules=extensions, cmdclass={"build_ext": NinjaBuild})
