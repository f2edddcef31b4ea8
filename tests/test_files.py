"""Whole writes, locks and errors that name their file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import die, in_child, limited, no_locks
from foreframe.errors import InputError, UsageError
from foreframe.files import locked, naming, write_whole

if TYPE_CHECKING:
    pass


def test_a_lock_names_who_holds_it_and_is_free_again_after_a_kill(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    script = "import sys, time, pathlib; from foreframe.files import locked\n"
    script += "with locked(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script, str(lock)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with (
            pytest.raises(UsageError, match=f"^at work: pid {holder.pid}$"),
            locked(lock, taken="at work: {pid}"),
        ):
            pass
        holder.kill()
        holder.wait()
        with locked(lock, taken="at work: {pid}") as held:
            assert held
    assert lock.read_text() == f"{os.getpid()}\n"


def test_waiting_is_said_and_ends(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lock, done = tmp_path / "lock", tmp_path / "done"

    def wait() -> None:
        with locked(lock, waiting="waiting for {pid}"):
            done.write_text("done")

    with locked(lock):
        child = os.fork()
        if child == 0:
            try:
                wait()
            finally:
                os._exit(0)
        time.sleep(0.3)
        assert not done.exists()
    os.waitpid(child, 0)
    assert done.exists()
    assert capfd.readouterr().err == f"foreframe: waiting for pid {os.getpid()}\n"


def test_a_lock_file_that_was_removed_meanwhile_is_not_held(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    first = locked(lock)
    first.__enter__()
    child = os.fork()
    if child == 0:  # waits for the file that is removed below, and must then hold the one that stands in its place
        try:
            with locked(lock):
                os._exit(0 if lock.read_text() == f"{os.getpid()}\n" else 3)
        finally:
            os._exit(1)
    time.sleep(0.2)
    lock.unlink()
    first.__exit__(None, None, None)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_it_is_said_once_and_the_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    no_locks(monkeypatch, number)
    for name in ("a", "b"):
        with locked(tmp_path / name, taken="never") as held:
            assert not held
    write_whole(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "file"]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "offers no locks" in said[0]


def test_a_lock_or_partial_that_is_a_link_does_not_reach_what_it_points_at(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("precious")
    folder = tmp_path / "a_strangers"
    folder.mkdir()
    (folder / ".lock").symlink_to(mine)
    (folder / ".scores.json.partial").symlink_to(mine)
    with pytest.raises(OSError, match="lock"), locked(folder / ".lock"):
        pass
    write_whole(folder / "scores.json", b"new")
    assert (folder / "scores.json").read_bytes() == b"new"
    assert mine.read_text() == "precious"
    os.mkfifo(folder / "pipe")
    with pytest.raises(InputError, match="pipe: is no regular file"), locked(folder / "pipe"):
        pass


def test_what_a_kill_leaves_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", die)
            assert in_child(lambda: write_whole(path, b"long and new")) == 137
        assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 1
    write_whole(path, b"short")
    assert path.read_bytes() == b"short"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def write(letter: bytes) -> None:
        for _ in range(200):
            write_whole(path, letter * 10_000)

    children = []
    for letter in (b"a", b"b"):
        child = os.fork()
        if child == 0:
            try:
                write(letter)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    seen: set[bytes] = set()
    while any(os.waitpid(child, os.WNOHANG)[0] == 0 for child in children[:1]):
        if path.exists():
            seen.add(path.read_bytes())
    assert os.waitpid(children[1], 0)[1] == 0
    assert {bytes(sorted(set(content))) for content in seen} <= {b"a", b"b"}
    assert {len(content) for content in seen} <= {10_000}
    assert list(tmp_path.iterdir()) == [path]


def test_write_whole_names_the_file_it_cannot_write(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"old")
    with pytest.raises(OSError, match="File too large") as caught, limited(1000):
        write_whole(tmp_path / "file", b"x" * 5000)
    assert caught.value.filename == str(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_error_that_names_no_file_is_given_one_and_others_keep_theirs(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="File too large") as caught, limited(1000), naming(tmp_path / "told"):
        (tmp_path / "mine").write_bytes(b"x" * 5000)
    assert caught.value.filename == str(tmp_path / "told")
    with pytest.raises(OSError, match="No such file") as caught, naming(tmp_path / "told"):
        (tmp_path / "missing").read_bytes()
    assert str(caught.value.filename) == str(tmp_path / "missing")
