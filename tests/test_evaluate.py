"""Evaluations one at a time, exchanged whole whatever kills them, of the checkpoint they began with."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from conftest import die, in_child, limited, no_locks
from foreframe import runs, scores
from foreframe.cli import run as command
from foreframe.data.encoding import encoded_fingerprint, read_encoding
from foreframe.data.folders import atomic_folder
from foreframe.errors import InputError, UsageError
from foreframe.files import sha256_file
from foreframe.inference.config import InferenceConfig
from foreframe.models.weights import checkpoint_folders, weights_hash
from foreframe.report import page
from foreframe.report.runs import read_run
from foreframe.runs import evaluate_run, export_run, open_run, train_run
from foreframe.scores import find_scores, new_partial, one_evaluation, put_scores

if TYPE_CHECKING:
    from collections.abc import Callable

QUICK = InferenceConfig(num_shown=1, num_resamples=20, max_clips=2)


@pytest.fixture
def trained(compression_run: Path, tmp_path: Path) -> Path:
    """A finished run of one's own, not scored yet."""
    run = tmp_path / "run"
    shutil.copytree(compression_run, run)
    for name in ("predictions", "scores.json"):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return run


def fill(folder: Path, name: str) -> None:
    """What stands for an evaluation `name`: scores, and two clips whose names tell it."""
    (folder / "predictions").mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps({"name": name}))
    for number in range(2):
        (folder / "predictions" / f"{name}_{number}.npz").write_bytes(b"clip")


def seen(run: Path) -> tuple[str | None, set[str]]:
    """Names of the scores that a reader finds, and of the evaluations whose clips it finds."""
    found = find_scores(run)
    name = json.loads(found.scores.read_text())["name"] if found.scores.is_file() else None
    clips = list(found.predictions.iterdir()) if found.predictions.is_dir() else []
    assert len(clips) in (0, 2)
    return name, {path.name.split("_")[0] for path in clips}


def dying(step: int) -> Callable[[], None]:
    """Kill this process just before its `step`-th change to any folder from now on."""
    count = 0

    def counted(function: Any) -> Any:
        def call(*arguments: Any, **rest: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                die()
            return function(*arguments, **rest)

        return call

    def arm() -> None:
        for name in ("rename", "unlink", "replace"):
            setattr(Path, name, counted(getattr(Path, name)))
        for name in ("unlink", "rmdir"):  # what shutil.rmtree calls
            setattr(os, name, counted(getattr(os, name)))

    return arm


@pytest.mark.parametrize("before", ["old", None])
def test_killed_at_any_step_old_or_new_scores_are_found_with_their_own_predictions(
    tmp_path: Path, before: str | None
) -> None:
    found: list[str | None] = []
    for step in range(1, 100):
        run = tmp_path / f"run{step}"
        run.mkdir()
        if before is not None:
            fill(run, before)

        def evaluate(run: Path = run, step: int = step) -> None:
            dying(step)()
            with one_evaluation(run):
                partial = new_partial(run)
                fill(partial, "new")
                put_scores(run, partial)

        status = in_child(evaluate)
        name, clips = seen(run)
        assert name in (before, "new")
        assert clips == ({name} if name else set())
        found.append(name)
        # A reader that knows nothing of exchanges never finds two evaluations together, nor scores that were lost.
        if before is not None:
            plain = json.loads((run / "scores.json").read_text())["name"]
            beside = {path.name.split("_")[0] for path in (run / "predictions").glob("*")}
            assert beside <= {plain}
        with one_evaluation(run):
            assert seen(run) == (name, clips)
            assert sorted(path.name for path in run.iterdir() if path.name != ".evaluate.lock") == (
                ["predictions", "scores.json"] if name else []
            )
        if status == 0:
            break
        assert status == 137
    else:
        pytest.fail("was killed at every step")
    assert step > (10 if before else 5)
    assert found.index("new") > 0
    assert set(found[found.index("new") :]) == {"new"}


def test_a_second_evaluation_is_refused_before_any_work(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(trained, "old")
    with one_evaluation(trained):
        assert command(["evaluate", str(trained)]) == 2
        said = capsys.readouterr().err.splitlines()
        assert said[-1].startswith(f"foreframe: {trained}: another `evaluate` (pid {os.getpid()}) is at work here")
        assert seen(trained) == ("old", {"old"})
        # Evaluating never holds up training.
        assert train_run(trained, runs.load_config(trained))
    with pytest.raises(UsageError, match="cannot be written"), one_evaluation(trained / "missing"):
        pass


def test_two_evaluations_at_once_leave_the_scores_of_one(trained: Path) -> None:
    children = []
    for seed in (1, 2):
        child = os.fork()
        if child == 0:
            try:
                evaluate_run(trained, inference=InferenceConfig(num_shown=seed, num_resamples=20, max_clips=seed))
                os._exit(0)
            except UsageError as error:
                os._exit(2 if "another `evaluate`" in str(error) else 1)
            finally:
                os._exit(1)
        children.append(child)
    ends = sorted(os.WEXITSTATUS(os.waitpid(child, 0)[1]) for child in children)
    assert ends in ([0, 2], [0, 0])  # one after the other where the machine is slow
    content = json.loads((trained / "scores.json").read_text())
    assert len(list((trained / "predictions").glob("*.npz"))) == len(content["clips"])


def test_new_scores_that_are_a_link_are_not_taken_from_where_it_leads(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    fill(run, "own")
    fill(other, "foreign")
    (run / ".scores.new").symlink_to(other)
    assert seen(run) == ("own", {"own"})
    with one_evaluation(run):
        assert seen(run) == ("own", {"own"})
    assert seen(other) == ("foreign", {"foreign"})
    assert not (run / ".scores.new").is_symlink()


def test_predictions_that_are_a_link_are_replaced_and_what_it_leads_to_stays(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "elsewhere", "old")
    (trained / "scores.json").write_text('{"name": "old"}')
    (trained / "predictions").symlink_to(tmp_path / "elsewhere" / "predictions")
    content = evaluate_run(trained, inference=QUICK)
    assert json.loads((trained / "scores.json").read_text()) == json.loads(json.dumps(content))
    assert not (trained / "predictions").is_symlink()
    assert len(list((trained / "predictions").glob("clip_*.npz"))) == 1
    assert len(list((tmp_path / "elsewhere" / "predictions").iterdir())) == 2
    (said,) = [line for line in capfd.readouterr().err.splitlines() if "link" in line]
    assert f"was a link to {tmp_path / 'elsewhere' / 'predictions'}" in said


def test_predictions_that_cannot_be_moved_are_refused_before_any_work(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(trained, "old")
    rename = Path.rename

    def another_owners(self: Path, target: Path) -> Path:
        if self.name == "predictions" and self.parent == trained:
            raise PermissionError(1, "Operation not permitted", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", another_owners)
    monkeypatch.setattr(runs, "open_run", lambda *_, **__: pytest.fail("no work may begin"))
    with pytest.raises(UsageError, match=r"predictions: cannot be replaced \(Operation not permitted\)") as caught:
        evaluate_run(trained, inference=QUICK)
    assert len(str(caught.value)) < 300
    assert seen(trained) == ("old", {"old"})
    assert not list(trained.glob(".scores*"))


def test_if_they_cannot_be_moved_in_the_end_the_new_ones_are_found_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "old")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if ".old-" in Path(target).name:
            raise PermissionError(1, "Operation not permitted", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with one_evaluation(tmp_path):
        partial = new_partial(tmp_path)
        fill(partial, "new")
        with pytest.raises(InputError, match=r"predictions: cannot be exchanged .*are kept in .*\.scores\.new"):
            put_scores(tmp_path, partial)
    assert seen(tmp_path) == ("new", {"new"})
    monkeypatch.undo()
    with one_evaluation(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".evaluate.lock", "predictions", "scores.json"]
    assert seen(tmp_path) == ("new", {"new"})


def test_old_predictions_that_cannot_be_removed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path, "old")
    remove = shutil.rmtree

    def refuse(path: Path, **rest: Any) -> None:
        if ".old-" in Path(path).name:
            raise PermissionError(13, "Permission denied", str(path))
        remove(path, **rest)

    monkeypatch.setattr(scores.shutil, "rmtree", refuse)
    for name in ("new", "newer"):
        with one_evaluation(tmp_path):
            partial = new_partial(tmp_path)
            fill(partial, name)
            put_scores(tmp_path, partial)
        assert seen(tmp_path) == (name, {name})
        assert "old predictions cannot be removed (Permission denied)" in capsys.readouterr().err
    # What could not be removed is nobody's: not even where the last predictions were deleted.
    remove(tmp_path / "predictions")
    assert seen(tmp_path) == ("newer", set())


def test_the_report_finds_what_a_kill_has_left_between(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = evaluate_run(trained, inference=QUICK)
    monkeypatch.setattr(scores, "_finish", lambda _run: None)
    newer = evaluate_run(trained, inference=InferenceConfig(num_shown=2, num_resamples=20, max_clips=2))
    assert json.loads((trained / "scores.json").read_text()) == json.loads(json.dumps(content))
    run = read_run(trained)
    assert run.scores is not None
    assert run.scores.receipt == json.loads(json.dumps(newer["receipt"]))
    assert len(run.prediction_files) == 2
    monkeypatch.undo()
    evaluate_run(trained, inference=QUICK)
    assert len(read_run(trained).prediction_files) == 1
    assert not list(trained.glob(".scores*"))


def test_a_page_is_of_one_evaluation(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one ends while the page is made: old scores never stand beside new clips."""
    evaluate_run(trained, inference=QUICK)
    drawn: list[int] = []
    draw = page.render

    def slow(runs: Any, **rest: Any) -> str:
        if not drawn:
            evaluate_run(trained, inference=InferenceConfig(num_shown=2, num_resamples=20, max_clips=2))
        drawn.append(len(runs[0].prediction_files))
        return draw(runs, **rest)

    monkeypatch.setattr(page, "render", slow)
    page.write_report([trained], tmp_path / "report.html")
    assert drawn == [1, 2]


def test_the_receipt_names_the_tokens(trained: Path) -> None:
    receipt = evaluate_run(trained, inference=QUICK)["receipt"]
    source = receipt["dataset_fingerprint"]
    (cache,) = (trained / "cache").glob(f"tokens-{source[:12]}-*")
    assert receipt["encoded_fingerprint"] == encoded_fingerprint(read_encoding(cache))
    assert receipt["encoded_fingerprint"] not in (None, source)


def test_changed_tokens_in_the_cache_are_made_again_and_change_no_score(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = evaluate_run(trained, inference=QUICK)
    (cache,) = (trained / "cache").glob(f"tokens-{content['receipt']['dataset_fingerprint'][:12]}-*")
    tokens = np.fromfile(cache / "video_0.bin", dtype="<i4")
    ((tokens + 1) % 12).astype("<i4").tofile(cache / "video_0.bin")
    capsys.readouterr()
    again = evaluate_run(trained, inference=QUICK)
    assert "video_0.bin: was changed" in capsys.readouterr().err
    assert again["scores"] == content["scores"]
    assert again["receipt"]["encoded_fingerprint"] == content["receipt"]["encoded_fingerprint"]


@pytest.fixture
def earlier(trained: Path) -> Path:
    """The checkpoint before the newest of `trained`; the newest is put aside."""
    *_, before, newest = checkpoint_folders(trained)
    newest.rename(trained / "checkpoints" / ".newest")
    return before


def prune(run: Path, old: Path) -> None:
    """What training does: a newer checkpoint appears, and the old one goes, file by file."""
    newest = run / "checkpoints" / ".newest"
    if newest.exists():
        newest.rename(newest.with_name("step_00000006"))
        shutil.rmtree(old)


@pytest.mark.parametrize("moment", ["load_checkpoint", "weights_hash", "_small_files"])
def test_a_checkpoint_that_is_removed_while_it_is_read_gives_way_to_the_newest(
    trained: Path, earlier: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    function = getattr(runs, moment)

    def pruned(folder: Path, **rest: Any) -> Any:
        prune(trained, earlier)
        return function(folder, **rest)

    monkeypatch.setattr(runs, moment, pruned)
    run = open_run(trained)
    assert run.checkpoint.name == "step_00000006"
    assert run.progress.step == 6
    assert run.weights_sha256 == sha256_file(run.checkpoint / "model.safetensors")
    loaded = run.model.state_dict()
    monkeypatch.undo()
    for name, value in open_run(trained).model.state_dict().items():
        assert value.equal(loaded[name])


def test_an_evaluation_ends_with_the_checkpoint_it_began_with(
    trained: Path, earlier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = weights_hash(earlier)
    evaluate = runs.evaluate

    def pruned(*arguments: Any, **rest: Any) -> Any:
        return evaluate(*arguments, **rest)

    monkeypatch.setattr(runs, "fingerprint", lambda root: (prune(trained, earlier), "0" * 64)[1])
    monkeypatch.setattr(runs, "evaluate", pruned)
    receipt = evaluate_run(trained, inference=QUICK)["receipt"]
    assert (receipt["checkpoint"], receipt["weights_sha256"]) == (earlier.name, weights)
    assert not earlier.exists()


def test_an_export_ends_with_the_checkpoint_it_began_with(
    trained: Path, earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_run(trained, tmp_path / "before")
    save = runs.save_config

    def pruned(*arguments: Any, **rest: Any) -> None:
        prune(trained, earlier)
        save(*arguments, **rest)

    monkeypatch.setattr(runs, "save_config", pruned)
    export_run(trained, tmp_path / "out")
    assert not earlier.exists()
    (ours,), (theirs,) = checkpoint_folders(tmp_path / "out"), checkpoint_folders(tmp_path / "before")
    assert ours.name == theirs.name == earlier.name
    for path in theirs.iterdir():
        assert (ours / path.name).read_bytes() == path.read_bytes()


def test_a_damaged_newest_checkpoint_is_still_refused(trained: Path) -> None:
    newest = checkpoint_folders(trained)[-1]
    os.truncate(newest / "model.safetensors", 100)
    with pytest.raises(InputError, match=r"model\.safetensors"):
        open_run(trained)


def test_checkpoints_that_always_vanish_end_in_one_line(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = 6

    def vanish(folder: Path, **_: Any) -> None:
        nonlocal number
        number += 1
        folder.rename(folder.with_name(f"step_{number:08d}"))
        raise FileNotFoundError(2, "No such file", str(folder))

    monkeypatch.setattr(runs, "load_checkpoint", vanish)
    with pytest.raises(InputError, match=r"removed faster than they are read; start again"):
        open_run(trained)


def test_what_a_killed_export_leaves_is_removed_by_the_next(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "exports" / "out"

    def export() -> None:
        runs.export_checkpoint = die
        export_run(trained, out)

    for _ in range(3):
        assert in_child(export) == 137
        assert len(list(out.parent.iterdir())) == 1
    export_run(trained, out)
    assert list(out.parent.iterdir()) == [out]


def test_what_another_call_makes_just_now_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="made or filled meanwhile"), atomic_folder(out) as ours:
        (ours / "file").write_text("ours")
        with atomic_folder(out) as theirs:
            (theirs / "file").write_text("theirs")
        assert (ours / "file").read_text() == "ours"
    assert (out / "file").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [out]


def test_without_locks_evaluating_and_exporting_go_on(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate_run(trained, inference=QUICK)
    capsys.readouterr()
    no_locks(monkeypatch)
    others = trained / ".scores-00000000.partial"
    others.mkdir()
    evaluate_run(trained, inference=QUICK)
    assert others.is_dir(), "another evaluation may be at work there"
    dead = tmp_path / ".out.partial-00000000"
    dead.mkdir()
    export_run(trained, tmp_path / "out")
    assert dead.is_dir()
    said = capsys.readouterr().err
    assert f"{trained}: this file system offers no locks" in said


def test_a_full_disk_names_the_clip_and_keeps_the_old_scores(trained: Path) -> None:
    fill(trained, "old")
    open_run(trained)
    with pytest.raises(OSError, match="File too large") as caught, limited(2000):
        evaluate_run(trained, inference=QUICK)
    assert str(caught.value.filename).startswith(str(trained))
    assert seen(trained) == ("old", {"old"})
    assert not list(trained.glob(".scores*"))


def test_shared_over_processes_all_are_refused_together(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the main process is refused reaches the others, which wait for it."""
    from foreframe import evaluate

    told: list[Any] = []
    monkeypatch.setattr(evaluate, "broadcast_object_list", lambda values: told.append(list(values)))
    accelerator = runs.start_accelerator()
    with one_evaluation(trained), pytest.raises(UsageError), evaluate.evaluating(trained, accelerator):
        pass
    assert len(told) == 1
    assert "another `evaluate`" in told[0][0]


def test_a_full_disk_names_what_export_was_writing_and_leaves_nothing(trained: Path, tmp_path: Path) -> None:
    open_run(trained)
    place = tmp_path / "exports"
    with pytest.raises(OSError, match="File too large") as caught, limited(1000):
        export_run(trained, place / "out")
    assert str(caught.value.filename).startswith(str(place))
    with pytest.raises(OSError, match="File too large") as caught, limited(1000):
        runs.copy_shipped("compression_tiny", place / "copy")
    assert str(caught.value.filename).startswith(str(place))
    assert not place.exists()
    runs.copy_shipped("compression_tiny", place / "copy")
    copied = {path.relative_to(place / "copy"): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    shipped = runs.shipped_runs()["compression_tiny"]
    assert copied == {path.relative_to(shipped): path.read_bytes() for path in shipped.rglob("*") if path.is_file()}
