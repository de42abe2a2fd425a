"""Files that are whole or not there, and their one writer.    python -m pytest tests/test_files.py"""

import errno
import json
import shutil
import threading
from pathlib import Path

import pytest

from plumbing import files, resume

ROOT = Path(__file__).parent.parent


def test_records_hold_any_text(tmp_path):
    """Bug: a line separator of Unicode in a response, which JSON leaves as it is, ends a record."""
    text = "one\u2028two\x85three\x0cfour\nfive"
    record = {"step": 1, "problem": text, "response": text, "correct": 1.0}
    for name in ("metrics.jsonl", "samples.jsonl"):
        files.append_line(tmp_path / name, record)
    assert files.read_lines(tmp_path / "samples.jsonl") == [record]
    resume.cut_back(tmp_path, 2)
    assert files.read_lines(tmp_path / "samples.jsonl") == [record]

def test_reading_writes_nothing(tmp_path):
    """Bug: a reader takes half of a line for one that a kill cut, and writes the file without it."""
    file = tmp_path / "metrics.jsonl"
    whole, cut = '{"step": 0, "text": "\u00fc"}\n', '{"step": 1, "text": "\u00fc'.encode()
    for half in (cut, cut[:-1], b"{", b"\x00\x00\x00"):  # the second ends within a character
        file.write_bytes(whole.encode() + half)
        before = file.stat().st_mtime_ns, file.read_bytes()
        assert files.read_lines(file) == [{"step": 0, "text": "\u00fc"}]
        assert (file.stat().st_mtime_ns, file.read_bytes()) == before
    files.write_lines(file, files.read_lines(file))  # as the one who appends does
    assert file.read_bytes() == whole.encode()
    file.write_bytes(whole.encode().rstrip())  # an editor took the end of the last line
    files.write_lines(file, files.read_lines(file))
    assert file.read_bytes() == whole.encode()


def test_readers_lose_no_record(tmp_path):
    """Bug: 1 of 20 trials lost a record to a reader."""
    file, written = tmp_path / "metrics.jsonl", 400

    def write():
        for step in range(written):
            files.append_line(file, {"step": step, "text": "x" * 9_000})

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        files.read_lines(file)
    assert [one["step"] for one in files.read_lines(file)] == list(range(written))


@pytest.mark.parametrize("line", ["{", "[1]", "null", "7", "\x00", '{"a": }', "\udcff"])
def test_a_damaged_line_is_named(tmp_path, line):
    """Bug: a traceback, or "Expecting value: line 1 column 1", which is no line of that file."""
    file = tmp_path / "metrics.jsonl"
    file.write_text(f'{{"step": 0}}\n{line}\n{{"step": 2}}\n', "utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match="metrics.jsonl, line 2"):
        files.read_lines(file)


def test_half_a_surrogate_pair_is_kept(tmp_path):
    """Bug: a character of somebody's data that UTF-8 does not have ends the run."""
    record = {"step": 0, "text": "\ud800 and \udfff"}
    files.append_line(tmp_path / "a.jsonl", record)
    files.write_json(tmp_path / "a.json", record)
    assert files.read_lines(tmp_path / "a.jsonl") == [record]
    assert json.loads((tmp_path / "a.json").read_text()) == record


def no_locks(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")


def test_a_folder_is_held_by_one(tmp_path, monkeypatch):
    """Bug: two writers in one folder; a folder outside written through a link; fcntl, which Windows
    does not have; a file system without locks, where no run could ever start.
    """
    with files.lock_folder(tmp_path / "a", ["results.json"]) as folder:
        assert folder.is_dir()
        with pytest.raises(ValueError, match="another run is writing to"):
            with files.lock_folder(folder, ["results.json"]):
                pass
    with files.lock_folder(folder, ["results.json"]):  # it is free again
        pass
    for made in (True, False):  # what was refused before it wrote leaves no folder of its own
        with pytest.raises(ValueError, match="refused"):
            with files.lock_folder(tmp_path / "refused", ["results.json"]) as kept:
                if made:
                    (kept / "results.json").touch()
                raise ValueError("refused")
        assert kept.exists() == made and not (kept / ".lock").exists()
        shutil.rmtree(kept, ignore_errors=True)
    monkeypatch.setattr("fcntl.flock", no_locks)
    with files.lock_folder(tmp_path / "b", ["results.json"]):
        pass
    for name in ("results.json", "results.json.partial", ".lock"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(tmp_path / "precious")
        with pytest.raises(ValueError, match=f"{name} is a link"):
            with files.lock_folder(folder, ["results.json"]):
                pass
        (folder / name).unlink()
    assert not (tmp_path / "precious").exists()
    (folder / "results.json").mkdir()  # as a file it could be written at the end of hours only
    with pytest.raises(ValueError, match="results.json is a folder"):
        with files.lock_folder(folder, ["results.json"]):
            pass
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    for place, why in ((tmp_path / "file", "is a file, or a link"), ("/proc/nothing", "cannot write"),
                       (tmp_path / "nowhere", "a link to nowhere"),
                       (tmp_path / "file/below", "cannot write to")):  # fmt: skip
        with pytest.raises(ValueError, match=why):
            with files.lock_folder(place, []):
                pass
    sources = [*ROOT.glob("*.py"), *ROOT.glob("plumbing/*.py")]
    assert not [path for path in sources if "fcntl" in path.read_text()]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_names_the_file(tmp_path):
    """Bug: "No space left on device", of which disk is not said."""
    (tmp_path / "a.jsonl").symlink_to("/dev/full")
    (tmp_path / "a.json.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left.*a.jsonl"):
        files.append_line(tmp_path / "a.jsonl", {"step": 0})
    with pytest.raises(OSError, match="No space left.*a.json"):
        files.write_json(tmp_path / "a.json", {"step": 0})


def test_a_line_of_too_many_brackets_is_named(tmp_path):
    """Bug: RecursionError."""
    (tmp_path / "a.jsonl").write_text("[" * 100_000 + "]" * 100_000 + "\n")
    with pytest.raises(ValueError, match="a.jsonl, line 1"):
        files.read_lines(tmp_path / "a.jsonl")
