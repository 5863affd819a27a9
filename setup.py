"""Build of the compiled parts: ninja drives the C++ compiler and nvcc. All metadata is in pyproject.toml.

`kan_fast._C` holds the kernels for CPUs. `kan_fast._cuda_kernels` holds those for GPUs, for all architectures at once
and with the CUDA runtime inside; it is built where there is an nvcc. The build needs setuptools, pybind11 and ninja;
it never imports torch, uses the network or looks for a GPU. Without a compiler, or with one that fails, the package
installs as pure Python: kan_fast then runs on plain torch, and `kan_fast.backends()` says why.

The environment variables that change the build are in docs/install.md.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

SOURCES = [Path("csrc/bindings.cpp"), *sorted(Path("csrc/cpu").rglob("*.cpp"))]
CXX_FLAGS = ["-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"]
LINK_FLAGS = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]

# A source whose name ends like this is compiled for that instruction set; the program picks one at run time.
X86_FLAGS = {
    "_avx2": ["-mavx2", "-mfma", "-mf16c"],
    "_avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"],
}

NATIVE = os.environ.get("KAN_FAST_NATIVE", "")
if NATIVE not in ("", "0", "1"):
    sys.exit(f"kan_fast: KAN_FAST_NATIVE must be 0 (pure Python), 1 (compiled or an error) or unset, got {NATIVE!r}")

CUDA_SOURCES = sorted(Path("csrc/cuda").glob("*.cu"))
CUDA_ARCHITECTURES = "75 80 86 89 90 100 120"
NVCC_FLAGS = ["-O3", "-std=c++17", "-Icsrc", "-Xcompiler=-fPIC"]
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


def has_x86_target(cxx: list[str]) -> bool:
    """Whether a compiler with its flags makes code for x86-64: a cross compiler does not for the machine it runs on."""
    command = [*cxx, "-dM", "-E", "-x", "c++", os.devnull]
    try:
        return "__x86_64__" in subprocess.run(command, capture_output=True, text=True).stdout
    except OSError:
        return False  # the build will say what is wrong


def mac_flags() -> list[str]:
    """The architectures and the oldest macOS that the name of the wheel promises: Python's, or the environment's."""
    of_python = re.findall(r"-arch\s+\S+", sysconfig.get_config_var("CFLAGS") or "")
    oldest = str(sysconfig.get_config_var("MACOSX_DEPLOYMENT_TARGET") or "").split(".")
    oldest = max([10, 14], [int(number) for number in oldest if number])  # what C++17 asks for
    version = os.environ.get("MACOSX_DEPLOYMENT_TARGET") or ".".join(map(str, oldest))
    return [*shlex.split(os.environ.get("ARCHFLAGS") or " ".join(of_python)), f"-mmacosx-version-min={version}"]


def find_nvcc() -> str:
    """The CUDA compiler, from CUDA_HOME or PATH; empty where there is none or KAN_FAST_CUDA=0."""
    if os.environ.get("KAN_FAST_CUDA") == "0" or NATIVE == "0" or not find_compiler():
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


def quote(words: list[str]) -> str:
    """A command line for the shell, inside a ninja file."""
    return shlex.join(words).replace("$", "$$")


def ninja_file(build_dir: Path, targets: dict[str, Path]) -> str:
    """The text of build.ninja: for each target one edge for each source, and one that links them."""
    import pybind11

    includes = ["csrc", sysconfig.get_path("include"), pybind11.get_include()]
    platform_flags = mac_flags() if sys.platform == "darwin" else []
    extra_flags = platform_flags + shlex.split(os.environ.get("CXXFLAGS", ""))
    flags = CXX_FLAGS + [f"-I{path}" for path in includes] + extra_flags
    link_flags = LINK_FLAGS + platform_flags + shlex.split(os.environ.get("LDFLAGS", ""))
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

    universal = extra_flags.count("-arch") > 1  # one call compiles for several architectures
    is_x86 = not universal and has_x86_target([*find_compiler(), *extra_flags])
    objects = []
    for source in SOURCES:
        own = next((flags for suffix, flags in X86_FLAGS.items() if source.stem.endswith(suffix)), [])
        own = [word for flag in own for word in ("-Xarch_x86_64", flag)] if universal else own if is_x86 else []
        objects.append((build_dir / source.with_suffix(".o")).as_posix())
        text += f"build {objects[-1]}: cxx {source.as_posix()}\n  flags = {quote(flags + own)}\n"
    text += f"build {targets['kan_fast._C'].as_posix()}: link {' '.join(objects)}\n"

    if nvcc:
        objects = [(build_dir / source.with_suffix(".o")).as_posix() for source in CUDA_SOURCES]
        for source, built in zip(CUDA_SOURCES, objects, strict=True):
            text += f"build {built}: nvcc {source.as_posix()}\n"
        text += f"build {targets['kan_fast._cuda_kernels'].as_posix()}: nvlink {' '.join(objects)}\n"
    return text


def run_ninja(script: Path, target: Path) -> None:
    """Build a target; what the tools print is passed on.

    Raises:
        CompileError: a tool failed; the message is its own first one.
    """
    try:
        from ninja import BIN_DIR
    except ImportError:
        BIN_DIR = ""
    ninja = shutil.which("ninja", path=BIN_DIR or None)  # empty: it is on PATH, as in the isolated builds of pip
    if not ninja:
        raise CompileError("the build needs ninja: pip install ninja")
    command, lines = [ninja, "-f", str(script), str(target)], []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace") as process:
        for line in process.stdout:
            if "no work to do" not in line:
                print(line, end="", flush=True)
                lines.append(line.strip())
    if process.returncode:
        said = [line for line in lines if re.search(r"\b(error|fatal|not found)\b", line)]
        raise CompileError(f"the build failed: {(said or lines)[0]}")


class NinjaBuild(build_ext):
    """Builds in build/ninja-<platform>, which outlives pip's temporary folders, so that a rebuild is incremental.

    What can't be built is left out, unless KAN_FAST_NATIVE=1, and the file NAME.missing says why.
    """

    def run(self) -> None:
        self.missing: dict[str, str] = {}
        names = [ext.name for ext in self.extensions]
        super().run()
        for name in names:
            built = Path(self.get_ext_fullpath(name))
            note = built.with_name(name.rpartition(".")[2] + ".missing")
            note.unlink(missing_ok=True)
            if name in self.missing:
                built.unlink(missing_ok=True)  # of an earlier build
                note.parent.mkdir(parents=True, exist_ok=True)
                note.write_text(self.missing[name], encoding="utf-8")

    def build_extensions(self) -> None:
        super().build_extensions()
        self.extensions = [ext for ext in self.extensions if ext.name not in self.missing]
        self.distribution.ext_modules = self.extensions

    def build_extension(self, ext: Extension) -> None:
        try:
            self.compile(ext)
        except CompileError as error:
            if NATIVE == "1":
                raise CompileError(f"kan_fast: {ext.name}: {error} (KAN_FAST_NATIVE=1 allows no fallback)") from error
            self.missing[ext.name] = str(error)
            if NATIVE != "0":
                warnings.warn(f"kan_fast is installed without {ext.name} ({error}): plain torch works", stacklevel=1)

    def compile(self, ext: Extension) -> None:
        if NATIVE == "0":
            raise CompileError("it was left out when kan_fast was built: KAN_FAST_NATIVE=0")
        if not find_compiler():
            raise CompileError("no C++ compiler found" if sys.platform != "win32" else "Windows is not supported")
        suffix = Path(self.get_ext_filename("")).name.split(".")[1]  # names Python and its platform
        build_dir = Path("build", f"ninja-{suffix}")
        build_dir.mkdir(parents=True, exist_ok=True)
        targets = {e.name: build_dir / Path(self.get_ext_filename(e.name)).name for e in self.extensions}
        script = build_dir / "build.ninja"
        script.write_text(ninja_file(build_dir, targets))
        run_ninja(script, targets[ext.name])
        destination = Path(self.get_ext_fullpath(ext.name))
        destination.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(targets[ext.name]), str(destination))


class Wheel(bdist_wheel):
    """Builds first, since the name of a wheel without compiled parts promises any platform."""

    def run(self) -> None:
        self.run_command("build")
        self.root_is_pure = not self.distribution.has_ext_modules()
        super().run()


extensions = [Extension("kan_fast._C", [source.as_posix() for source in SOURCES])]
if find_nvcc():
    extensions.append(Extension("kan_fast._cuda_kernels", [source.as_posix() for source in CUDA_SOURCES]))

setup(ext_modules=extensions, cmdclass={"build_ext": NinjaBuild, "bdist_wheel": Wheel})
