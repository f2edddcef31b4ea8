"""What ends a training before its last step: signals, clips that cannot be read, readers that die."""

from __future__ import annotations

import multiprocessing
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import tiny_compression_config, tiny_tokenizer_config
from foreframe import cli
from foreframe.config import save_config
from foreframe.data import loader
from foreframe.data.clips import VideoClips
from foreframe.data.loader import BatchSchedule, training_batches
from foreframe.errors import InputError, Stopped, UsageError
from foreframe.models.weights import checkpoint_folders
from foreframe.runs import train_run
from foreframe.tracks.table import build_track
from foreframe.train import loop
from test_training import curve, same_weights


@pytest.fixture(autouse=True)
def signals_as_a_shell_leaves_them() -> Any:
    """Whoever runs the tests may ignore some, as `nohup` and background jobs do."""
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# -- readers ---------------------------------------------------------------------------------------------------------


class Clips:
    """Clips of which one cannot be read."""

    def __init__(self, whole: Any, error: BaseException | int) -> None:
        self.whole, self.error, self.clips, self.skipped = whole, error, whole.clips, whole.skipped
        self.encoded_fingerprint = whole.encoded_fingerprint
        self.hanging = os.pipe()

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Any:
        if index == 3 or self.error == 0:
            if isinstance(self.error, int):
                os.kill(os.getpid(), self.error)
                os.write(self.hanging[1], b"!")
                time.sleep(600)
            else:
                raise self.error
        return self.whole[index]


@pytest.fixture(scope="module")
def whole(raw_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    clips = build_track(tiny_tokenizer_config(raw_root).track).open(
        raw_root / "train", cache=tmp_path_factory.mktemp("c")
    )
    assert isinstance(clips, VideoClips)
    return clips


class Unpicklable(ValueError):
    """As PyAV's errors are, which want a number and a text to be made of."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"{number}: {text}")


ERRORS = {
    "input": InputError("video_0.mp4: is damaged"),
    "usage": UsageError("--data: no such folder"),
    "system": OSError(28, "No space left on device", Path("cache/frames.bin")),
    "nameless": OSError("something about a device"),
    "memory": MemoryError("9 TiB"),
    "unpicklable": Unpicklable(5, "moov atom not found"),
    "end": EOFError("end of file"),
}
TOLD = {"system": "No space left on device: 'cache/frames.bin'"}


def read_all(clips: Any, num_workers: int) -> int:
    schedule = BatchSchedule(num_clips=len(clips), global_batch_size=2, seed=0)
    with training_batches(
        clips, schedule, steps=range(len(clips)), micro_batch_size=2, num_workers=num_workers
    ) as batches:
        return sum(len(batch.clips) for batch in batches)


@pytest.mark.parametrize("kind", ERRORS)
def test_a_clip_that_cannot_be_read_is_the_same_error_with_readers_and_without(kind: str, whole: Any) -> None:
    told: list[BaseException] = []
    for num_workers in (0, 2):
        with pytest.raises((ValueError, OSError, MemoryError)) as caught:
            read_all(Clips(whole, ERRORS[kind]), num_workers)
        told.append(caught.value)
        assert not multiprocessing.active_children()
    alone, beside = told
    assert type(alone) is type(beside)
    assert str(alone) == str(beside)
    assert str(beside).endswith(TOLD.get(kind, str(ERRORS[kind])))
    assert isinstance(beside, InputError if kind in ("unpicklable", "nameless", "end") else type(ERRORS[kind]))
    if kind == "system":
        assert (beside.errno, beside.filename) == (28, "cache/frames.bin")  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS, signal.SIGSEGV])
def test_a_reader_that_is_killed_is_one_line(number: int, whole: Any) -> None:
    with pytest.raises(InputError, match=r"^a reader process has died \(worker \(pid.*checkpoint") as caught:
        read_all(Clips(whole, int(number)), 2)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    assert not multiprocessing.active_children()


def test_an_error_beside_readers_ends_them(whole: Any) -> None:
    """They ignore SIGTERM, by which multiprocessing would end them at exit, and it then waits for ever."""
    schedule = BatchSchedule(num_clips=len(whole), global_batch_size=2, seed=0)
    with (
        pytest.raises(ZeroDivisionError),
        training_batches(whole, schedule, steps=range(500), micro_batch_size=2, num_workers=2) as batches,
    ):
        next(batches)
        assert len(multiprocessing.active_children()) == 2
        raise ZeroDivisionError
    assert not multiprocessing.active_children()


def test_readers_that_hang_keep_nobody(whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network drive that no longer answers."""
    monkeypatch.setattr(loader, "_PATIENCE", 1.0)
    started = time.monotonic()
    schedule = BatchSchedule(num_clips=len(whole), global_batch_size=2, seed=0)
    clips = Clips(whole, 0)
    with (
        pytest.raises(ZeroDivisionError),
        training_batches(clips, schedule, steps=range(500), micro_batch_size=2, num_workers=2),
    ):
        os.read(clips.hanging[0], 1)
        raise ZeroDivisionError
    assert time.monotonic() - started < 10
    assert not [reader for reader in multiprocessing.active_children() if reader.join(5) or reader.is_alive()]


def test_readers_leave_signals_to_their_parent(whole: Any) -> None:
    schedule = BatchSchedule(num_clips=len(whole), global_batch_size=2, seed=0)
    with training_batches(whole, schedule, steps=range(50), micro_batch_size=2, num_workers=1) as batches:
        next(batches)
        (reader,) = multiprocessing.active_children()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            assert reader.pid is not None
            os.kill(reader.pid, number)
        assert sum(1 for _ in batches) == 49


# -- signals ---------------------------------------------------------------------------------------------------------


def interrupting(monkeypatch: pytest.MonkeyPatch, *numbers: int, after: int = 3) -> None:
    """Let signals come during a step."""
    step = loop._step  # pyright: ignore[reportPrivateUsage]

    def interrupted(*arguments: Any) -> dict[str, float]:
        if arguments[-1] == after - 1:
            for number in numbers:
                os.kill(os.getpid(), number)
        return step(*arguments)

    monkeypatch.setattr(loop, "_step", interrupted)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_checkpoint_a_line_and_a_status_of_its_own(
    number: signal.Signals,
    raw_root: Path,
    tokenizer_run: Path,
    compression_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = tiny_compression_config(raw_root, tokenizer_run)
    config = replace(config, train=replace(config.train, num_workers=1))
    run = tmp_path / "run"
    handlers = [signal.getsignal(one) for one in signal.Signals if one not in (signal.SIGKILL, signal.SIGSTOP)]
    with monkeypatch.context() as patched:
        interrupting(patched, number)
        patched.setitem(cli.__dict__, "_dispatch", lambda _arguments: train_run(run, config))
        assert cli.run([]) == 128 + number
    assert handlers == [signal.getsignal(one) for one in signal.Signals if one not in (signal.SIGKILL, signal.SIGSTOP)]
    assert not multiprocessing.active_children()
    said = [line for line in capfd.readouterr().err.splitlines() if "compression_tiny" not in line]
    assert said == ["stopped after step 3; the same command goes on from there"]
    assert checkpoint_folders(run)[-1].name == "step_00000003"
    train_run(run, config)
    assert same_weights(run, compression_run)
    assert curve(run) == curve(compression_run)


def test_what_nohup_ignores_stays_ignored(
    raw_root: Path, tokenizer_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interrupting(monkeypatch, signal.SIGHUP)
        train_run(tmp_path / "run", tiny_compression_config(raw_root, tokenizer_run))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGHUP, signal.SIGHUP), (signal.SIGTERM, signal.SIGTERM), (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP)],
)
def test_a_signal_that_comes_twice_at_once_is_one(
    numbers: tuple[int, ...], raw_root: Path, tokenizer_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closing terminal hangs up twice; `timeout` ends a process and then its group."""
    interrupting(monkeypatch, *numbers)
    with pytest.raises(Stopped) as stopped:
        train_run(tmp_path / "run", tiny_compression_config(raw_root, tokenizer_run))
    assert stopped.value.number == numbers[0]
    assert checkpoint_folders(tmp_path / "run")[-1].name == "step_00000003"


def test_an_impatient_second_ctrl_c_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 0.5, 0.5, 1.5, 1.5])
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(clock))
    with pytest.raises(KeyboardInterrupt), loop._stop_requested() as stop:  # pyright: ignore[reportPrivateUsage]
        signal.raise_signal(signal.SIGHUP)
        assert stop.number == signal.SIGHUP
        signal.raise_signal(signal.SIGHUP)
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGHUP
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_training_beside_the_main_thread_leaves_signals_alone(
    raw_root: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    done: list[Path] = []
    config = tiny_compression_config(raw_root, tokenizer_run)
    thread = threading.Thread(target=lambda: done.append(train_run(tmp_path / "run", config)))
    thread.start()
    thread.join()
    assert done == [checkpoint_folders(tmp_path / "run")[-1]]


def test_a_process_whose_training_fails_beside_readers_ends(
    raw_root: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    """The whole process, as a person sees it: one line, its status, and no wait."""
    config = tiny_compression_config(raw_root, tokenizer_run)
    optim = replace(config.optim, learning_rate=1e6, warmup_steps=0, gradient_clip=0)
    config = replace(config, optim=optim, train=replace(config.train, num_workers=2, num_steps=400))
    save_config(tmp_path, config)
    script = (
        "import sys; from pathlib import Path; from foreframe import cli\n"
        "from foreframe.config import load_config; from foreframe.runs import train_run\n"
        "cli._dispatch = lambda _: train_run(Path(sys.argv[1]), load_config(Path(sys.argv[1])))\n"
        "cli.main([])\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("foreframe: ")]
    assert "is not finite" in line
    assert "Traceback" not in done.stderr


def test_a_terminal_that_closes_leaves_a_checkpoint(raw_root: Path, tokenizer_run: Path, tmp_path: Path) -> None:
    """The system hangs up, and whatever is then written to the terminal fails."""
    config = tiny_compression_config(raw_root, tokenizer_run)
    config = replace(config, train=replace(config.train, num_steps=10_000, checkpoint_every=10_000, validate_every=0))
    child, terminal = pty.fork()
    if not child:
        status: Any = None
        try:
            sys.stderr = sys.__stderr__ = os.fdopen(2, "w")
            cli.__dict__["_dispatch"] = lambda _arguments: train_run(tmp_path / "run", config)
            status = cli.run([])
        finally:
            os._exit(status if isinstance(status, int) else 99)  # never on into the other tests
    journal = tmp_path / "run" / "metrics.jsonl"
    started = time.monotonic()
    while not (journal.exists() and journal.stat().st_size) and time.monotonic() - started < 60:
        time.sleep(0.05)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGHUP
    assert len(checkpoint_folders(tmp_path / "run")) == 1
