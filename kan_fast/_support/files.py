"""Files that are replaced as a whole or stay as they were, and hold plain data, so that reading them runs no code."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import stat
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from torch import Tensor

PathLike = str | bytes | os.PathLike[str]
T = TypeVar("T")

_VALUES = (type(None), bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device)
_RECORDS: tuple[type[dict], ...] = (dict, OrderedDict, Counter)


def named(path: Any) -> str:
    """The path as text; TypeError if it is no path, such as an open file."""
    try:
        return os.fsdecode(path)
    except TypeError:
        raise TypeError(
            f"expected the path of a file, got {type(path).__name__}; an open file can have the parameters alone: "
            "torch.save(model.state_dict(), file)"
        ) from None


def write(path: PathLike, content: bytes) -> None:
    """Write the content of a file. After any failure, Ctrl-C included, the old file is still there.

    The content goes to a temporary file with a name of its own in the same folder, which then replaces the old file:
    readers see the old file or the new one, and of several writers the last one wins. The file gets the permissions
    that `open(path, "wb")` would give it. If the path is a symbolic link, the file that it points to is replaced. Paths
    that are no regular files, such as /dev/stdout, are written to directly.

    Raises:
        OSError: the file can't be written; the error names the path.
    """
    path = named(path)
    try:
        target = os.path.realpath(path)
        mode = os.stat(target).st_mode if os.path.exists(target) else None
        if mode is not None and not stat.S_ISREG(mode):
            with open(path, "wb") as file:  # a folder raises IsADirectoryError
                file.write(content)
            return
        if mode is not None and not os.access(target, os.W_OK):
            raise PermissionError(13, "Permission denied")
        _replace(target, content, mode)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), path) from error


def _replace(target: str, content: bytes, mode: int | None) -> None:
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name[:40]}.{secrets.token_hex(8)}.part")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:  # less what the umask takes
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(temporary, stat.S_IMODE(mode))
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def save(path: PathLike, data: Any) -> None:
    """Write tensors and plain values to a file, from which `load` reads them; see `plain` and `write`.

    Raises:
        TypeError: the data have a value that a file can't keep.
        OSError: the file can't be written.
    """
    buffer = io.BytesIO()  # torch.save to a path raises RuntimeError on a full disk
    checksums = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)  # by which `load` notices damage
    try:
        torch.save(plain(data), buffer)
    finally:
        torch.serialization.set_crc32_options(checksums)
    write(path, buffer.getvalue())


def load(path: PathLike, what: str, build: Callable[[Any], T]) -> T:
    """The result of `build` for the data in a file that `save` wrote.

    Args:
        path: path of the file.
        what: the expected kind of file, for messages: "a file of KAN.save".
        build: makes the result from the data; raises ValueError if they are not of the expected kind.

    Raises:
        ValueError: the file is damaged, cut off, of another kind, or `build` refuses the data; the message names it.
        OSError: it can't be opened.
    """
    path = named(path)
    refused = f"{path} is not {what} that this version of kan_fast reads"
    with open(path, "rb") as file:
        try:
            data = _read(file)
        except Exception as error:  # zipfile and torch raise errors of all kinds on damaged files
            raise ValueError(
                f"{refused}: it is damaged or of another kind ({type(error).__name__}: {error!s:.200})"
            ) from error
    try:
        return build(data)
    except ValueError as error:
        raise ValueError(f"{refused}: {error}") from error


def _read(file: BinaryIO) -> Any:
    """The data. torch.load compares no checksums, so it gets a new archive of the parts that zipfile has compared."""
    whole = io.BytesIO()
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(whole, "w") as checked:
        entries = archive.infolist()
        compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if compressed or sum(entry.file_size for entry in entries) > os.fstat(file.fileno()).st_size:
            raise zipfile.BadZipFile("its parts are larger than the file")
        if len({entry.filename for entry in entries}) < len(entries):
            raise zipfile.BadZipFile("two of its parts have the same name")
        for entry in entries:
            checked.writestr(zipfile.ZipInfo(entry.filename), archive.read(entry))
    whole.seek(0)
    return torch.load(whole, map_location="cpu", weights_only=True, mmap=False)


def plain(value: Any, place: str = "data") -> Any:
    """The value as a file can keep it: numpy's numbers, arrays and texts become Python's numbers, lists and texts.

    Raises:
        TypeError: a part of it is neither a tensor nor a plain value; the message says which part.
    """
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist(), place)
    if type(value) in _VALUES or isinstance(value, Tensor):
        return value
    if type(value) in _RECORDS:
        kind = type(value)
        return kind({plain(key, place): plain(item, f"{place}.{key}") for key, item in value.items()})
    if type(value) in (list, tuple, set):
        return type(value)(plain(item, f"{place}[{number}]") for number, item in enumerate(value))
    raise TypeError(
        f"a file can't keep {place}, a {type(value).__name__}: {value!r:.80}; it keeps tensors, numbers, texts, and "
        "lists and dicts of them"
    )
