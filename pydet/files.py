"""How pydet writes files: whole or not at all, whatever happens meanwhile. No torch, so that it costs no time."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex


@contextmanager
def whole_file(path: str | os.PathLike[str], durable: bool = False) -> Iterator[Path]:
    """A temporary file beside the path, which takes its place at the end; on any error the path stays untouched.

    A link stays a link, to a new file; a file keeps its permissions. What is no file, such as /dev/stdout or a pipe,
    gets the bytes at the end. A process that is killed leaves the old file, and the temporary one, `.<name>.<random>`.

    Args:
        path: Of the file that comes to be.
        durable: Wait until it is on the disk, so that not even a power cut leaves half of it under this name.

    Raises:
        OSError: It cannot be written, as when the disk is full; the message is a sentence that names it.
    """
    target = Path(path if is_stream(path) else os.path.realpath(path))
    folder = Path(tempfile.gettempdir()) if is_stream(path) else target.parent
    temporary = folder / f".{target.name[:50]}.{token_hex(4)}"
    try:
        with named_errors(path, temporary):
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # less the umask
            yield temporary
            if is_stream(path):
                _send(temporary, target)
                temporary.unlink()
                return
            if target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            if durable:
                _sync(temporary)
            temporary.replace(target)
            if durable and os.name == "posix":
                _sync(target.parent)  # the name is in the folder
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def named_errors(path: str | os.PathLike[str], written: Path | None = None) -> Iterator[None]:
    """Errors of writing become sentences that name the file.

    Args:
        path: Of the file that the user knows.
        written: Where the bytes really go; to ask the system what is wrong, where a library does not pass that on.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or _reason(written)
        if reason is None:  # not about this file
            raise
        kind = type(error) if isinstance(error, OSError) else OSError  # torch.save raises RuntimeError
        raise kind(f"cannot write {os.fspath(path)}: {reason}") from error


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps out of a folder whoever asks for it too, where the system has such locks; they end with the process.

    Raises:
        OSError: Somebody is in it; the message is a sentence.
    """
    if os.name != "posix":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"{folder}: another process is at work in it") from None
        except OSError:  # some file systems of networks have none
            pass
        yield
    finally:
        os.close(handle)


def is_file_or_lost(path: Path) -> bool:
    """Whether it is a file, or a link that leads nowhere: whoever put it there means a file, and shall be told."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def is_there(path: Path) -> bool:
    """Whether there is something of that name, which a stranger's file may have made too long for the system."""
    try:
        return path.exists()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """As `is_there`, of a file."""
    return is_there(path) and path.is_file()


def check_readable(path: str | os.PathLike[str]) -> None:
    """Raises OSError unless it is a file that can be read: for libraries that take any of it for a damaged file."""
    if Path(path).is_dir():
        raise IsADirectoryError(f"{os.fspath(path)}: is a folder, not a file")
    if not is_file(Path(path)):
        raise FileNotFoundError(f"{os.fspath(path)}: no such file")
    with Path(path).open("rb"):
        pass


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether it is a device, a pipe or an open file of a process, such as /dev/stdout: nothing to be replaced."""
    parent = os.path.realpath(Path(path).parent)
    if parent == "/dev" or parent.startswith("/proc/"):
        return True
    return Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir())


def _send(temporary: Path, stream: Path) -> None:
    sys.stdout.flush()  # what was said before comes first
    handle = os.open(stream, os.O_WRONLY | os.O_APPEND)  # behind what is there, should it lead to a file
    with os.fdopen(handle, "wb") as file:
        file.write(temporary.read_bytes())


def _reason(written: Path | None) -> str | None:
    """What the system says of more bytes at the end of the file; None where it takes them."""
    try:
        if written is not None:
            with written.open("ab") as file:
                file.write(bytes(1 << 16))
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        return error.strerror
    return None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
