"""Build of the compiled extension `kan_fast._C`: ninja drives the C++ compiler. All metadata is in pyproject.toml.

The build needs setuptools, pybind11 and ninja; it never imports torch, uses the network or looks for a GPU. Without a
compiler the package installs as pure Python: kan_fast then runs on plain torch, and `kan_fast.backends()` says so.
The environment variables CXX, CXXFLAGS and LDFLAGS have their usual meaning.
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

"""


def find_compiler() -> list[str]:
    """The C++ compiler as a command, from CXX or PATH; empty where there is none that takes these flags."""
    if sys.platform == "win32":
        return []
    found = map(shutil.which, ("c++", "g++", "clang++"))
    return shlex.split(os.environ.get("CXX", "")) or list(filter(None, found))[:1]


def instruction_set(source: Path) -> str:
    """The key of X86_FLAGS that the name of `source` ends with, or ""."""
    return next((suffix for suffix in X86_FLAGS if source.stem.endswith(suffix)), "")


def quote(words: list[str]) -> str:
    """A command line for the shell, inside a ninja file."""
    return shlex.join(words).replace("$", "$$")


def ninja_file(cxx: list[str], includes: list[str], build_dir: Path, target: Path) -> str:
    """The text of build.ninja: one `cxx` edge for each source, one `link` edge."""
    flags = CXX_FLAGS + [f"-I{path}" for path in includes] + shlex.split(os.environ.get("CXXFLAGS", ""))
    link_flags = LINK_FLAGS + shlex.split(os.environ.get("LDFLAGS", ""))
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    text = NINJA_RULES.format(build_dir=build_dir.as_posix(), cxx=quote(cxx), link_flags=quote(link_flags))
    objects = []
    for source in SOURCES:
        isa = instruction_set(source)
        if isa and not is_x86:
            continue
        objects.append((build_dir / source.with_suffix(".o")).as_posix())
        text += f"build {objects[-1]}: cxx {source.as_posix()}\n  flags = {quote(flags + X86_FLAGS.get(isa, []))}\n"
    return text + f"build {target.as_posix()}: link {' '.join(objects)}\n"


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
        import pybind11

        filename = Path(self.get_ext_filename(ext.name)).name
        build_dir = Path("build", f"ninja-{sysconfig.get_config_var('SOABI')}")
        build_dir.mkdir(parents=True, exist_ok=True)
        includes = ["csrc", sysconfig.get_path("include"), pybind11.get_include()]
        script = build_dir / "build.ninja"
        script.write_text(ninja_file(find_compiler(), includes, build_dir, build_dir / filename))
        if subprocess.run([ninja_command(), "-f", script]).returncode:
            raise CompileError("kan_fast: the C++ build failed; the compiler's messages are above")
        destination = Path(self.get_ext_fullpath(ext.name))
        destination.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(build_dir / filename), str(destination))


extensions = [Extension("kan_fast._C", [source.as_posix() for source in SOURCES])]
if not find_compiler():
    extensions = []
    reason = "Windows is not supported by the native backend" if sys.platform == "win32" else "no C++ compiler found"
    warnings.warn(
        f"kan_fast is installed without its compiled extension ({reason}); it will run on plain torch.", stacklevel=1
    )

setup(ext_modules=extensions, cmdclass={"build_ext": NinjaBuild})
