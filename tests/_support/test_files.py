"""Files are replaced as a whole or stay as they were, whatever happens; what is read back is checked."""

import contextlib
import os
import resource
import stat
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from kan_fast import KAN
from kan_fast._support import files

NEW, OLD = b"new", b"old"


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(OLD)
    return path


def test_content_is_replaced_and_nothing_else_is_left(old):
    files.write(old, NEW)
    assert old.read_bytes() == NEW
    assert os.listdir(old.parent) == ["file"]


@pytest.mark.parametrize("step", ["open", "fdopen", "fsync", "chmod", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), MemoryError])
def test_an_error_or_ctrl_c_in_any_step_leaves_the_old_file(old, step, error, monkeypatch):
    def fails(*args, **options):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(files.os, step, fails)
        with pytest.raises(type(error) if isinstance(error, OSError) else error):
            files.write(old, NEW)
    assert old.read_bytes() == OLD
    assert os.listdir(old.parent) == ["file"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a file that was being opened is closed by the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(5, "Input/output error"), MemoryError])
def test_an_error_before_or_after_any_call_leaves_a_whole_file(old, error):
    """Whatever the writer calls fails in turn, or is interrupted as soon as it has ended."""

    def attempt(at):
        calls = count()

        def fail(frame, event, _):
            inside = frame.f_code.co_filename == files.__file__ or frame.f_back.f_code.co_filename == files.__file__
            if event != "line" and inside and next(calls) == at:
                sys.setprofile(None)
                raise error

        sys.setprofile(fail)
        try:
            files.write(old, NEW)
        except (KeyboardInterrupt, OSError, MemoryError):
            return None
        finally:
            sys.setprofile(None)
        return next(calls)

    total, found = attempt(-1), set()
    assert total is not None and total > 20
    for at in range(total - 1):
        old.write_bytes(OLD)
        attempt(at)
        found.add(old.read_bytes())
        assert os.listdir(old.parent) == ["file"], at
    assert found == {OLD, NEW}


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_a_disk_that_is_full_is_one_sentence_with_the_path(old):
    model, limit = KAN([4, 8, 1], seed=0), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError, match=rf"^\[Errno \d+\] [\w ]+: '{old}'$"):
            model.save(old)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert old.read_bytes() == OLD
    assert os.listdir(old.parent) == ["file"]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are others there")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_are_those_of_open(tmp_path, umask):
    before = os.umask(umask)
    try:
        files.write(tmp_path / "new", NEW)
        (tmp_path / "opened").write_bytes(NEW)
        (tmp_path / "old").write_bytes(OLD)
        os.chmod(tmp_path / "old", 0o640)
        files.write(tmp_path / "old", NEW)
    finally:
        os.umask(before)
    new, opened, old = (stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("new", "opened", "old"))
    assert (new, old) == (opened, 0o640)


def test_places_that_cannot_be_written_to(tmp_path, monkeypatch):
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        files.write(tmp_path, NEW)
    with pytest.raises(FileNotFoundError, match="folder/file"):
        files.write(tmp_path / "folder" / "file", NEW)
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(NotADirectoryError):
        files.write(tmp_path / "file" / "file", NEW)
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)  # what a read-only file is to all but root
    with pytest.raises(PermissionError, match="file"):
        files.write(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == OLD
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_stay_and_what_is_no_file_is_written_to(old, tmp_path):
    link, loose = tmp_path / "link", tmp_path / "loose"
    link.symlink_to(old)
    loose.symlink_to(tmp_path / "later")
    files.write(link, NEW)
    files.write(loose, NEW)
    files.write("/dev/null", NEW)
    assert link.is_symlink() and loose.is_symlink()
    assert old.read_bytes() == NEW == (tmp_path / "later").read_bytes()


def test_long_names(tmp_path):
    files.write(tmp_path / ("名" * 84), NEW)
    assert len(os.listdir(tmp_path)) == 1


def test_many_writers_and_readers_of_one_file(tmp_path):
    """Each reads the whole of what one of them wrote."""
    path, wrong = tmp_path / "file", []
    models = [KAN([2, 2, 1], seed=seed) for seed in range(3)]
    known = [repr(model.state_dict()) for model in models]
    models[0].save(path)

    def save_and_load(model):
        for _ in range(20):
            model.save(path)
            if repr(KAN.load(path).state_dict()) not in known:
                wrong.append(model)

    threads = [threading.Thread(target=save_and_load, args=[model]) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert os.listdir(tmp_path) == ["file"]


def test_data_become_plain(tmp_path):
    data = {np.str_("a"): np.float64(0.5), "b": (np.int64(1), [np.bool_(True)]), "c": np.arange(3), "d": torch.ones(2)}
    files.save(tmp_path / "f", data)
    back = files.load(tmp_path / "f", "data", lambda data: data)
    assert torch.equal(back.pop("d"), torch.ones(2))
    assert back == {"a": 0.5, "b": (1, [True]), "c": [0, 1, 2]}
    assert [type(one) for one in back["b"]] == [int, list]
    for wrong in ({"x": [print]}, {"x": [Path()]}):
        with pytest.raises(TypeError, match=r"a file can't keep data.x\[0\], a "):
            files.save(tmp_path / "f", wrong)


def test_checksums_are_written_whatever_torch_is_told(tmp_path):
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        files.save(tmp_path / "f", {"a": torch.ones(100)})
        assert torch.serialization.get_crc32_options() is False
    finally:
        torch.serialization.set_crc32_options(before)
    content = (tmp_path / "f").read_bytes()
    assert files.load(tmp_path / "f", "data", lambda data: len(data["a"])) == 100
    number = torch.ones(1).numpy().tobytes()
    (tmp_path / "f").write_bytes(content.replace(number, b"\0" * 4, 1))
    with pytest.raises(ValueError, match=r"f is not data that .* reads: it is damaged .*CRC"):
        files.load(tmp_path / "f", "data", lambda data: data)


def test_parts_that_are_larger_than_the_file_are_refused(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "f", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**7)
    with pytest.raises(ValueError, match="larger than the file"):
        files.load(tmp_path / "f", "data", lambda data: data)


def test_a_process_that_is_killed_while_it_saves_leaves_a_whole_file(tmp_path):
    child = (
        "import sys, kan_fast\nmodel = kan_fast.KAN([8, 8, 1], seed=0)\n"
        "while True:\n    model.save(sys.argv[1]); print(flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", child, str(tmp_path / "f")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with contextlib.closing(process.stdout):
        for _ in range(5):
            process.stdout.readline()
        process.kill()
    process.wait()
    assert KAN.load(tmp_path / "f").width == [8, 8, 1]
