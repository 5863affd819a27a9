"""The package builds without torch, installs without a compiler, rebuilds only what changed, and runs unbuilt."""

import ctypes
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import setuptools
import torch

import kan_fast
from kan_fast.ops import built, cuda, native

ROOT = Path(__file__).parents[2]
BUILT = shutil.ignore_patterns("__pycache__", "*.so", "*.dylib")
BUILD_SDIST = "from setuptools import build_meta; print(build_meta.build_sdist({!r}))"
BUILD_WHEEL = "from setuptools import build_meta; print(build_meta.build_wheel({!r}))"


def run(*arguments: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs this Python; compilations are kept short: -O0, and no GPU kernels (test_cuda_build.py)."""
    env = {**os.environ, "CXXFLAGS": "-O0", "KAN_FAST_CUDA": "0", "KAN_FAST_NATIVE": "", **env}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def output(*arguments: str | Path, cwd: Path, **env: str) -> str:
    """What a command that must succeed prints."""
    result = run(*arguments, cwd=cwd, **env)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def source_tree(tmp_path_factory) -> Path:
    """A private copy of the sources, with nothing built; its path holds a space."""
    tree = tmp_path_factory.mktemp("source tree")
    for folder in ("csrc", "kan_fast", "tests"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=BUILT)
    for file in filter(Path.is_file, ROOT.iterdir()):
        shutil.copy(file, tree)
    return tree


@pytest.fixture(scope="module")
def wheel(source_tree, tmp_path_factory) -> Path:
    """The wheel that pip builds from the source distribution, isolated from this environment and so without torch."""
    folder = tmp_path_factory.mktemp("wheel")
    sdist = folder / output("-c", BUILD_SDIST.format(str(folder)), cwd=source_tree).split()[-1]
    output("-m", "pip", "wheel", "--no-deps", "--no-cache-dir", sdist, "-w", folder, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_sdist_holds_sources_and_nothing_built(source_tree, tmp_path):
    name = output("-c", BUILD_SDIST.format(str(tmp_path)), cwd=source_tree).split()[-1]
    with tarfile.open(tmp_path / name) as archive:
        names = {path.partition("/")[2] for path in archive.getnames()}
    sources = {path.relative_to(source_tree).as_posix() for path in (source_tree / "csrc").rglob("*") if path.is_file()}
    wanted = {
        "setup.py",
        "pyproject.toml",
        "LICENSE",
        "requirements-dev.txt",
        "tests/packaging/cross/check.cpp",
        "tests/packaging/test_build.py",
    }
    assert sources | wanted <= names
    assert not [path for path in names if path.endswith((".so", ".o", ".pyc", ".missing"))]


@pytest.mark.slow
def test_wheel_holds_the_package_alone(wheel, unpacked):
    tops = {Path(name).parts[0] for name in zipfile.ZipFile(wheel).namelist()}
    version = wheel.name.split("-")[1]
    assert tops == {"kan_fast", f"kan_fast-{version}.dist-info"}
    assert (unpacked / "kan_fast" / "_version.py").read_text().endswith(f'"{version}"\n')
    assert (unpacked / "kan_fast" / "py.typed").exists()
    metadata = (unpacked / f"kan_fast-{version}.dist-info" / "METADATA").read_text()
    assert "Requires-Dist: torch>=2.6\n" in metadata
    assert "License-Expression: MIT\n" in metadata


@pytest.mark.slow
def test_extension_loads_where_there_is_no_torch(unpacked):
    extension = next((unpacked / "kan_fast").glob("_C.*"))
    code = """
import importlib.util, sys
sys.modules["torch"] = None  # an import of torch now fails
spec = importlib.util.spec_from_file_location("kan_fast._C", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
"""
    output("-I", "-c", code, extension, cwd=unpacked)


@pytest.mark.slow
def test_wheel_serves_the_native_backend(unpacked):
    code = "import kan_fast; print(kan_fast.__file__, kan_fast.backends()['cpu'].available)"
    file, available = output("-c", code, cwd=unpacked, PYTHONPATH=str(unpacked)).rsplit(maxsplit=1)
    assert Path(file).parent == unpacked / "kan_fast"
    assert available == "True"


def test_package_runs_without_its_extension(tmp_path):
    shutil.copytree(ROOT / "kan_fast", tmp_path / "kan_fast", ignore=BUILT)
    code = """
import sys
sys.meta_path = [f for f in sys.meta_path if "__editable__" not in f.__module__]  # it would find the extension
import torch, kan_fast
layer = kan_fast.KANLinear(3, 2)
layer(torch.randn(5, 3)).sum().backward()
assert layer.spline_weight.grad.abs().sum() > 0
status = kan_fast.backends()["cpu"]
print(kan_fast.__file__, status.available, status.detail, sep="|")
"""
    file, available, reason = output("-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path)).split("|")
    assert Path(file).parent == tmp_path / "kan_fast"
    assert available == "False"
    assert "_C" in reason or "extension" in reason


@pytest.fixture
def compiler(tmp_path) -> Callable[[str], str]:
    """Makes a command that stands for a C++ compiler: a shell script."""

    def make(script: str) -> str:
        path = tmp_path / "compiler"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


NO_HEADER = "echo 'x.cpp:1:10: fatal error: Python.h: No such file or directory'; exit 1"


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"PATH": "", "CXX": ""}, "no C++ compiler found"),
        ({"CXX": "no-such-compiler"}, "not found"),
        ({"CXX": NO_HEADER}, "Python.h: No such file or directory"),
        ({"KAN_FAST_NATIVE": "0"}, "left out when kan_fast was built: KAN_FAST_NATIVE=0"),
    ],
    ids=["no compiler", "compiler not there", "no Python.h", "left out"],
)
def test_what_cannot_be_built_is_left_out_and_the_package_says_why(
    source_tree, compiler, tmp_path, env: dict[str, str], reason: str
):
    stale = source_tree / "build" / f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}" / "kan_fast"
    stale = stale / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"  # of an earlier build
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.touch()
    env = env if env.get("CXX") != NO_HEADER else {"CXX": compiler(NO_HEADER)}
    result = run("-c", BUILD_WHEEL.format(str(tmp_path)), cwd=source_tree, **env)
    assert result.returncode == 0, result.stderr
    assert ("installed without kan_fast._C" in result.stderr) == ("KAN_FAST_NATIVE" not in env)
    name = result.stdout.split()[-1]
    assert name.endswith("-py3-none-any.whl")
    wheel = zipfile.ZipFile(tmp_path / name)
    assert reason in wheel.read("kan_fast/_C.missing").decode()
    assert stale.name not in "".join(wheel.namelist())


def test_backends_tell_why_something_was_not_built(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "_C", None)
    monkeypatch.setattr(native, "_import_error", "No module named '_C'", raising=False)
    monkeypatch.setattr(built, "FOLDER", tmp_path)
    cuda._library.cache_clear()
    cuda.unavailable_reason.cache_clear()
    try:
        assert "No module named '_C'" in native.unavailable_reason()
        (tmp_path / "_C.missing").write_text("the build failed: no Python.h")
        (tmp_path / "_cuda_kernels.missing").write_text("the build failed: nvcc is too old")
        states = kan_fast.backends()
        assert "the build failed: no Python.h" in states["cpu"].detail
        assert "the build failed: nvcc is too old" in states["cuda"].detail
    finally:
        cuda._library.cache_clear()
        cuda.unavailable_reason.cache_clear()


def test_a_compiler_that_fails_is_an_error_where_native_code_is_asked_for(source_tree, compiler, tmp_path):
    env = {"CXX": compiler(NO_HEADER), "KAN_FAST_NATIVE": "1"}
    result = run("-c", BUILD_WHEEL.format(str(tmp_path)), cwd=source_tree, **env)
    assert result.returncode != 0
    assert "kan_fast._C: the build failed: x.cpp:1:10: fatal error: Python.h" in result.stderr
    assert not list(tmp_path.glob("*.whl"))


def test_other_values_of_the_switch_are_refused(source_tree):
    result = run("setup.py", "--version", cwd=source_tree, KAN_FAST_NATIVE="yes")
    assert result.returncode != 0
    assert "KAN_FAST_NATIVE must be 0 (pure Python), 1 (compiled or an error) or unset, got 'yes'" in result.stderr


@pytest.fixture
def plan(monkeypatch, tmp_path) -> Callable[..., str]:
    """What ninja is told, given Python's own configuration and the environment; nothing is compiled."""

    def make(platform: str, config: dict[str, Any], **env: str) -> str:
        known = sysconfig.get_config_var
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(sysconfig, "get_config_var", lambda name: config[name] if name in config else known(name))
        monkeypatch.setattr(setuptools, "setup", lambda **arguments: None)
        monkeypatch.chdir(ROOT)
        for name in ("CXXFLAGS", "LDFLAGS", "ARCHFLAGS", "MACOSX_DEPLOYMENT_TARGET"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"KAN_FAST_CUDA": "0", "KAN_FAST_NATIVE": "1", **env}.items():
            monkeypatch.setenv(name, value)
        return runpy.run_path("setup.py")["ninja_file"](tmp_path, {"kan_fast._C": tmp_path / "_C.so"})

    return make


def flags_of(plan: str, name: str) -> str:
    """The flags of the source of that name."""
    return plan.partition(f": cxx csrc/cpu/{name}.cpp\n  flags = ")[2].partition("\n")[0]


def test_instruction_sets_are_those_of_the_compilers_target(plan, compiler):
    arm = plan("linux", {}, CXX=compiler("echo '#define __aarch64__ 1'"))
    assert "csrc/cpu/kernels_avx2.cpp" in arm
    assert "-mavx" not in arm
    x86 = plan("linux", {}, CXX=compiler("echo '#define __x86_64__ 1'"))
    assert "-mavx2" in flags_of(x86, "kernels_avx2")
    assert "-mavx" not in flags_of(x86, "kernels_baseline")
    by_flag = 'case "$*" in *--target=aarch64*) ;; *) echo "#define __x86_64__ 1";; esac'
    assert "-mavx" not in plan("linux", {}, CXX=compiler(by_flag), CXXFLAGS="--target=aarch64-linux-gnu")


def test_on_macos_the_build_is_for_what_the_wheel_promises(plan, compiler):
    """The architectures and the oldest system: those of Python, as the name of the wheel, or the environment's."""
    intel = compiler("echo '#define __x86_64__ 1'")
    python = {"CFLAGS": "-O2 -arch arm64  -arch x86_64 -g", "MACOSX_DEPLOYMENT_TARGET": "10.9"}
    universal = plan("darwin", python, CXX=intel)
    for line in (flags_of(universal, "runtime/threads"), universal.partition("-bundle")[2].partition("\n")[0]):
        assert "-arch arm64 -arch x86_64 -mmacosx-version-min=10.14" in line
    assert "-Xarch_x86_64 -mavx2 -Xarch_x86_64 -mfma" in flags_of(universal, "kernels_avx2")

    single = plan("darwin", python, CXX=intel, ARCHFLAGS="-arch x86_64", MACOSX_DEPLOYMENT_TARGET="12.3")
    assert "-arch x86_64 -mmacosx-version-min=12.3" in flags_of(single, "runtime/threads")
    assert "arm64" not in single
    assert flags_of(single, "kernels_avx2").endswith("-mavx2 -mfma -mf16c")
    arm = plan("darwin", {"CFLAGS": "", "MACOSX_DEPLOYMENT_TARGET": 11}, CXX=compiler("echo '#define __arm64__ 1'"))
    assert "-mmacosx-version-min=11 " in arm.replace("\n", " ")
    assert "-arch" not in arm
    assert "-mavx" not in arm


@pytest.mark.parametrize("module", [None, SimpleNamespace(BIN_DIR="")], ids=["no package", "isolated build"])
def test_ninja_is_found_on_the_path(module, monkeypatch, plan, compiler, tmp_path, capfd):
    ninja = compiler("echo ninja: no work to do.; echo compile it")
    shutil.move(ninja, tmp_path / "ninja")
    plan("linux", {}, CXX="false", PATH=f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, "ninja", module)
    runpy.run_path("setup.py")["run_ninja"](tmp_path / "build.ninja", tmp_path / "target")
    assert capfd.readouterr().out == "compile it\n"


def test_the_thread_pool_is_found_where_only_torch_sees_it(monkeypatch, tmp_path):
    """On macOS the OpenMP runtime is a dependency of torch's module, and not visible to the whole process."""
    (tmp_path / "pool.c").write_text("void GOMP_parallel(void) {}")
    (tmp_path / "module.c").write_text("")
    for name, extra in (("pool", []), ("module", ["-Wl,--no-as-needed", f"-Wl,-rpath,{tmp_path}", "libpool.so"])):
        command = ["cc", "-shared", "-fPIC", "-o", f"lib{name}.so", f"{name}.c", *extra]
        subprocess.run(command, cwd=tmp_path, check=True)
    module, pool = (ctypes.CDLL(str(tmp_path / name)) for name in ("libmodule.so", "libpool.so"))
    real = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", lambda path, **options: real(path, **options) if path else object())
    monkeypatch.setattr(torch._C, "__file__", module._name)
    assert native._thread_pool() == ctypes.cast(pool.GOMP_parallel, ctypes.c_void_p).value
    monkeypatch.setattr(torch._C, "__file__", str(tmp_path / "missing.so"))
    assert native._thread_pool() == 0


@pytest.mark.slow
def test_a_rebuild_compiles_what_changed_alone(source_tree):
    build = ("setup.py", "--quiet", "build_ext", "--inplace")
    old_note = source_tree / "kan_fast" / "_C.missing"
    old_note.write_text("no C++ compiler found")
    assert "compile csrc/bindings.cpp" in output(*build, cwd=source_tree)
    assert not old_note.exists()
    assert output(*build, cwd=source_tree) == ""

    script = next((source_tree / "build").glob("ninja-*/build.ninja"))
    dry_run = ("-m", "ninja", "-n", "-f", script)
    source = next((source_tree / "csrc" / "cpu").glob("*.cpp"))
    source.touch()
    planned = output(*dry_run, cwd=source_tree)
    assert planned.count("compile ") == 1
    assert source.name in planned
    (source_tree / "csrc" / "kernels.h").touch()
    assert "compile csrc/bindings.cpp" in output(*dry_run, cwd=source_tree)
