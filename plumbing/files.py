"""Files and folders that are whole or not there, of which one program at a time is the writer."""

import hashlib
import json
import math
import os
import shutil
import time
from contextlib import contextmanager, suppress
from pathlib import Path, PureWindowsPath

from filelock import FileLock, Timeout

from plumbing.console import say
from plumbing.processes import rank

NUMBER = int | float
POINTER = "is a pointer of Git LFS, not the file: run git lfs pull"
TEXT = {"encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}  # JSON knows \ud800


@contextmanager
def lock_folder(folder, names):
    """Make the folder and hold it against a second writer of the same files.

    names   the files to be written there; none may be a link, which would lead elsewhere
    Raises ValueError.
    """
    folder, lock = Path(folder), FileLock(Path(folder, ".lock"), timeout=0)
    for name in (".lock", *names, *(f"{name}.partial" for name in names)):
        if (folder / name).is_symlink():
            raise ValueError(f"{folder / name} is a link, and may lead out of {folder}: remove it")
        if (folder / name).is_dir() and not name.startswith("checkpoint-"):
            raise ValueError(f"{folder / name} is a folder, in the place of a file: move it away")
    if os.path.lexists(folder) and not folder.is_dir():
        raise ValueError(f"{folder} is a file, or a link to nowhere: give another --out")
    is_new, had_lock = not folder.exists(), (folder / ".lock").exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"another run is writing to {folder}: wait for it, or give another --out"
        ) from error
    except OSError as error:
        raise ValueError(
            f"cannot write to {folder} ({error.strerror}): give another --out"
        ) from error
    with lock:
        try:
            yield folder
        except BaseException:
            with suppress(OSError):  # on Windows an open file stays
                if not had_lock:  # what is refused leaves nothing in a folder of others
                    (folder / ".lock").unlink()
                if is_new and not os.listdir(folder):
                    folder.rmdir()
            raise


def fault_of(file, error):
    """What is wrong with a file that cannot be read, for a message that begins with its name."""
    return POINTER if is_pointer(file) else f"is damaged or cut short ({error})"


def is_pointer(file):
    """Whether it is what Git leaves in the place of a large file, with LFS."""
    with suppress(OSError), file.open("rb") as start:
        return start.read(64).startswith(b"version https://git-lfs")


def read_json(file):
    """The object that a JSON file of a folder holds. Raises ValueError naming the file."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{file.parent} has no {file.name}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} {fault_of(file, error)}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} is damaged: it holds no JSON object")
    return found


def write_json(file, value):
    write_text(file, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(file, text):
    """Write beside and rename: a reader, or a kill, never meets half a file."""
    partial = file.with_name(file.name + ".partial")
    with named(file):
        partial.write_text(text, **TEXT)
        os.replace(partial, file)


@contextmanager
def named(file):
    """An OSError of writing, as for a full disk, names the file, as those of opening do."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename:
            raise
        raise type(error)(error.errno, error.strerror, str(file)) from error


def line_of(record):
    """One line of JSON. What is not finite has no place in JSON: null."""
    floats = {name: value for name, value in record.items() if isinstance(value, float)}
    record = record | {name: None for name, value in floats.items() if not math.isfinite(value)}
    return json.dumps(record, ensure_ascii=False) + "\n"


def append_line(file, record):
    """Add a record to a .jsonl file, by the first process."""
    if rank() == 0:
        with named(file), file.open("a", **TEXT) as lines:
            lines.write(line_of(record))


def write_lines(file, records):
    """Write a whole .jsonl file."""
    write_text(file, "".join(map(line_of, records)))


def read_lines(file):
    """The records of a .jsonl file, none if it is not there; without a last line that was cut.

    Raises ValueError naming the file and the line. Whoever appends cuts the file back first, by
    `write_lines`; to read changes nothing, as a run may be writing.
    """
    data, records = file.read_bytes() if file.exists() else b"", []
    lines = data.split(b"\n")  # a text may hold other separators
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # nothing, or cut; a whole one, of an editor, counts
                break
            raise ValueError(f"{file}, line {number}: not a record ({error})") from error
        if not isinstance(records[-1], dict):
            raise ValueError(f"{file}, line {number}: not a record, but {records[-1]!r}")
    return records


def read_checked(file, kinds_of):
    """As `read_lines`, and checked: each record against the kinds that a function gives for it."""
    records = read_lines(file)
    for number, record in enumerate(records, 1):
        check_record(f"{file}, line {number}", record, kinds_of(record))
    return records


def check_record(place, record, kinds):
    """Raise ValueError, naming the place, where a record does not hold {name: type}, finite.

    In the place of a type {name: type} stands for a record, and [{name: type}] for a list of them.
    """
    for name, kind in kinds.items():
        value, inner = record.get(name, ...), kind
        kind = type(inner) if isinstance(inner, dict | list) else kind
        finite = not isinstance(value, NUMBER) or abs(value) < 1e300  # an int may be larger
        if not isinstance(value, kind) or not finite or kind is int and isinstance(value, bool):
            raise ValueError(f"{place}: {name} is {record.get(name)!r}")
        for one in value if isinstance(inner, list) else [value] * isinstance(inner, dict):
            within = inner[0] if isinstance(inner, list) else inner
            check_record(place, one if isinstance(one, dict) else {name: one}, within)


@contextmanager
def written_whole(target):
    """A folder to fill beside `target`, which it becomes when all of it is on the disk."""
    partial = target.with_name(target.name + ".partial")
    partial.mkdir(parents=True)
    try:
        with named(partial):
            yield partial
            for path in partial.iterdir():
                with path.open("r+b") as file:
                    os.fsync(file.fileno())
        if os.path.lexists(target):  # it is damaged, else this run would have begun there
            aside = target.with_name(f"{target.name}.damaged-{time.time_ns()}")
            os.replace(target, aside)
            say(f"{target} was there, and is now {aside.name}: remove it if you do not need it")
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def hash_of(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_plain_name(name):
    """Whether it names a file in its own folder, on every system: "../x", "/x", "C:x" do not."""
    return PureWindowsPath(name).name == name and name != ".."
