"""Stop and go on equals not stopping, bit for bit, for every recipe; checkpoints and journals that are not as left."""

from __future__ import annotations

import errno
import io
import json
import os
import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from conftest import SIZE, tiny_autoencoder_config, tiny_compression_config, tiny_sampling_config, tiny_tokenizer_config
from foreframe import files
from foreframe.errors import InputError, UsageError
from foreframe.manifest import seal, verify
from foreframe.models.config import AutoencoderConfig, STTransformerConfig, TokenizerConfig
from foreframe.models.wan_config import WanConfig
from foreframe.models.weights import checkpoint_folders, read_tensors, save_tensors, shipped_runs, tensor_shapes
from foreframe.recipes import RECIPES
from foreframe.runs import evaluate_run, export_run, open_run, train_run
from foreframe.tracks.table import build_track
from foreframe.train import checkpoint
from foreframe.train.journal import Journal, keep_lines
from test_sampling_full_path import SIZES, write_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "Wan"
    write_base(folder)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def small(raw_root: Path, tokenizer_run: Path, autoencoder_run: Path, base: Path) -> Any:
    """Any recipe as it is, but for the size of its model and data and for its length: six steps, a checkpoint in the
    middle, lines of the journal that span it."""
    sizes: dict[type[Any], Any] = {
        TokenizerConfig: tiny_tokenizer_config(raw_root).track.model,
        AutoencoderConfig: tiny_autoencoder_config(raw_root).track.model,
        STTransformerConfig: tiny_compression_config(raw_root, tokenizer_run).track.model,
        WanConfig: tiny_sampling_config(raw_root, autoencoder_run).track.model,
    }
    names: dict[type[Any], tuple[str, ...]] = {
        STTransformerConfig: ("vocab_size", "grid", "num_layers", "num_heads", "width", "state_width"),
        AutoencoderConfig: ("base_dim", "decoder_base_dim", "z_dim"),
        TokenizerConfig: ("levels", "fine_width", "coarse_width", "num_blocks"),
        WanConfig: (*(name for name in SIZES if name != "rope_max_seq_len"), "num_prompt_rows", "state_width"),
    }

    def config_of(recipe: str, **train: Any) -> Any:
        config: Any = RECIPES[recipe]()
        kind = type(config.track.model)
        shrunk = {name: getattr(sizes[kind], name) for name in names[kind]}
        places: dict[str, Any] = {}
        if kind is STTransformerConfig:
            places = {"tokenizer": str(tokenizer_run)}
        elif kind is WanConfig and config.track.model.base is None:
            places = {"autoencoder": str(autoencoder_run), "size": SIZE}
        elif kind is WanConfig:
            shrunk = {**SIZES, "state_width": 16, "lora_rank": 2, "base": str(base)}
            places = {"size": SIZE}
        else:
            places = {"size": SIZE}
        settings = {
            "num_steps": 6, "global_batch_size": 4, "micro_batch_size": 2, "checkpoint_every": 3, "log_every": 2,
            "validate_every": 0, **train,
        }  # fmt: skip
        track = replace(config.track, model=replace(config.track.model, **shrunk), **places)
        optim = replace(config.optim, warmup_steps=min(2, config.optim.warmup_steps))
        return replace(config, data=raw_root, track=track, optim=optim, train=replace(config.train, **settings))

    return config_of


def lines(run: Path) -> list[dict[str, Any]]:
    """The journal, but for the clock."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


def stopped_after_three(whole: Path, to: Path) -> Path:
    """A run of six steps as it was after its third, but for a journal that had gone on."""
    shutil.copytree(whole, to)
    shutil.rmtree(to / "checkpoints" / "step_00000006")
    assert [folder.name for folder in checkpoint_folders(to)] == ["step_00000003"]
    return to


def assert_same(run: Path, other: Path) -> None:
    """Weights, moments, statistics and journal, bit for bit."""
    ours, theirs = (checkpoint_folders(each)[-1] for each in (run, other))
    assert ours.name == theirs.name == "step_00000006"
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}
    for path in ours.iterdir():
        if path.suffix == ".safetensors":
            a, b = read_tensors(path), read_tensors(theirs / path.name)
            assert a.keys() == b.keys()
            assert [name for name in a if not torch.equal(a[name], b[name])] == [], path.name
        elif path.name not in ("trainer.json", "manifest.json"):
            assert path.read_bytes() == (theirs / path.name).read_bytes()
    assert lines(run) == lines(other)


VARIANTS = {"as it is": {}, "bfloat16, two readers": {"precision": "bf16", "num_workers": 2}}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_stopped_run_of_any_recipe_ends_bit_for_bit_as_an_unbroken_one(
    recipe: str, variant: str, small: Any, cache: Path, tmp_path: Path
) -> None:
    config = small(recipe, **VARIANTS[variant])
    whole = tmp_path / "whole"
    assert train_run(whole, config, cache=cache) == checkpoint_folders(whole)[-1]
    stopped = stopped_after_three(whole, tmp_path / "stopped")
    train_run(stopped, config, cache=cache)
    assert_same(stopped, whole)
    assert lines(whole)[0]["loss"] != lines(whole)[-1]["loss"]


def test_the_recipes_above_hold_what_has_gone_wrong(small: Any) -> None:
    """Weights that do not lie contiguous, dropout, accumulation, adapters on a base."""
    tokenizer = build_track(small("tokenizer_tiny").track).build()
    assert any(not value.is_contiguous() for value in tokenizer.parameters())
    configs = [small(recipe) for recipe in RECIPES]
    assert all(config.train.global_batch_size > config.train.micro_batch_size for config in configs)
    assert any(getattr(config.track.model, "dropout", 0) > 0 for config in configs)
    assert any(getattr(config.track.model, "lora_rank", 0) > 0 for config in configs)


# -- whose checkpoint it is ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(small: Any, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps of `compression_tiny`, with a checkpoint after the second and after the fourth."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_run(folder, short(small), cache=cache)
    return folder


def short(small: Any, **train: Any) -> Any:
    return small("compression_tiny", **{"num_steps": 4, "checkpoint_every": 2, "log_every": 1, **train})


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """A copy of that run which a test may spoil."""
    return Path(shutil.copytree(run, tmp_path / "own"))


def newest(run: Path) -> Path:
    return checkpoint_folders(run)[-1]


def refused_everywhere(run: Path, config: Any, cache: Path, out: Path) -> str:
    """The line with which training, evaluating and exporting refuse a run, all the same one."""
    journal = (run / "metrics.jsonl").read_bytes()
    said: set[str] = set()
    for use in (
        lambda: train_run(run, config, cache=cache),
        lambda: evaluate_run(run, cache=cache),
        lambda: export_run(run, out),
    ):
        with pytest.raises(InputError) as caught:
            use()
        said.add(str(caught.value))
    assert (run / "metrics.jsonl").read_bytes() == journal
    assert not out.exists()
    (line,) = said
    assert "\n" not in line and len(line.replace(str(run), "RUN")) < 300
    assert "delete" not in line
    return line


def test_a_checkpoint_that_was_renamed_is_refused(own: Path, small: Any, cache: Path, tmp_path: Path) -> None:
    newest(own).rename(own / "checkpoints" / "step_00000009")
    line = refused_everywhere(own, short(small, num_steps=12), cache, tmp_path / "out")
    assert "step_00000009: is sealed as step 4" in line


@pytest.mark.parametrize("other", ["other seed", "other data", "other length"])
def test_a_checkpoint_of_another_run_is_refused(
    other: str, own: Path, small: Any, raw_root: Path, cache: Path, tmp_path: Path
) -> None:
    config = short(small, **{"other seed": {"seed": 1}, "other length": {"num_steps": 6}}.get(other, {}))
    if other == "other data":
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "train").symlink_to(raw_root / "val")
        config = replace(config, data=tmp_path / "data")
    train_run(tmp_path / "other", config, cache=cache)
    shutil.rmtree(own / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", own / "checkpoints")
    with pytest.raises(InputError, match=r"is a checkpoint of another run than .*config\.json names"):
        open_run(own)
    line = refused_everywhere(own, short(small, num_steps=6), cache, tmp_path / "out")
    assert "is a checkpoint of another run" in line


def test_one_run_twice_is_one_run(own: Path, small: Any, cache: Path, tmp_path: Path) -> None:
    """The same settings on the same data are the same to the bit, so that either has the other's checkpoints."""
    train_run(tmp_path / "again", short(small), cache=cache)
    shutil.rmtree(newest(own))
    shutil.copytree(newest(tmp_path / "again"), own / "checkpoints" / "step_00000004")
    assert open_run(own).progress.step == 4


def test_a_run_keeps_its_name_when_it_goes_on_elsewhere_and_longer(
    own: Path, small: Any, raw_root: Path, cache: Path, tmp_path: Path
) -> None:
    before = json.loads((own / "config.json").read_text())["run"]
    (tmp_path / "data").symlink_to(raw_root)
    config = short(small, num_steps=5, num_workers=1)
    train_run(own, replace(config, data=tmp_path / "data"), cache=cache)
    assert json.loads((own / "config.json").read_text())["run"] == before
    assert {verify(folder).run for folder in checkpoint_folders(own)} == {before}


def test_an_exported_copy_has_a_name_of_its_own(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "copy")
    export_run(run, tmp_path / "again")
    manifests = [verify(newest(folder)) for folder in (run, tmp_path / "copy", tmp_path / "again")]
    assert manifests[0].run != manifests[1].run == manifests[2].run
    assert [manifest.step for manifest in manifests] == [4, 4, 4]
    assert open_run(tmp_path / "copy").progress.step == 4


def test_a_manifest_that_names_no_run_says_how_it_gets_one(own: Path, tmp_path: Path) -> None:
    for folder in checkpoint_folders(own):
        content = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({"version": 1, "files": content["files"]}))
    content = json.loads((own / "config.json").read_text())
    del content["run"]
    (own / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"version 1, which names no run; seal it anew with scripts/reseal\.py"):
        open_run(own)
    script = Path(__file__).parents[1] / "scripts" / "reseal.py"
    reseal: dict[str, Any] = runpy.run_path(str(script))
    weights = newest(own) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(SystemExit, match="is not what its manifest says"):
        reseal["reseal"](own)
    weights.write_bytes(whole)
    reseal["reseal"](own)
    assert open_run(own).progress.step == 4


def test_shipped_checkpoints_are_sealed_for_their_runs() -> None:
    for name, folder in shipped_runs().items():
        (checkpoint_folder,) = checkpoint_folders(folder)
        manifest = verify(checkpoint_folder)
        assert manifest.run is not None and len(manifest.run) == 64, name
        assert f"step_{manifest.step:08d}" == checkpoint_folder.name


# -- what else lies in a checkpoint, or cannot be read ---------------------------------------------------------------


@pytest.mark.parametrize("name", [".DS_Store", "._model.safetensors", ".nfs000000000012", ".hidden/file"])
def test_hidden_files_are_no_part_of_a_checkpoint(
    name: str, own: Path, small: Any, cache: Path, tmp_path: Path
) -> None:
    for folder in (*checkpoint_folders(own), own / "checkpoints", own):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("left behind")
    export_run(own, tmp_path / "copy")
    assert not [path for path in (tmp_path / "copy").rglob("*") if path.name.startswith(".")]
    train_run(own, short(small, num_steps=5), cache=cache)
    assert (newest(own).name, sorted(verify(newest(own)).files)) == ("step_00000005", sorted(verify(newest(own)).files))
    assert not any(part.startswith(".") for part in verify(newest(own)).files)


def test_a_file_too_many_is_moved_and_no_checkpoint_deleted(own: Path, small: Any, cache: Path, tmp_path: Path) -> None:
    (newest(own) / "notes.txt").write_text("mine")
    line = refused_everywhere(own, short(small), cache, tmp_path / "out")
    assert line.endswith("notes.txt: is not in the manifest beside it; move that file out of the folder")


def test_permission_is_called_permission(
    own: Path, small: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for root, to whom nothing is forbidden: opening itself fails here."""
    forbidden(monkeypatch, "open", newest(own) / "manifest.json")
    line = refused_everywhere(own, short(small), cache, tmp_path / "out")
    assert line.endswith("manifest.json: cannot be read (Permission denied)")


def forbidden(monkeypatch: pytest.MonkeyPatch, action: str, path: Path) -> None:
    """Let an action of one path fail for want of permission."""
    allowed = getattr(Path, action)

    def act(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.absolute() == path.absolute():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return allowed(self, *arguments, **options)

    monkeypatch.setattr(Path, action, act)


def test_checkpoints_that_cannot_be_listed_are_not_called_none(
    own: Path, small: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    forbidden(monkeypatch, "iterdir", own / "checkpoints")
    for use in (lambda: train_run(own, short(small), cache=cache), lambda: open_run(own)):
        with pytest.raises(PermissionError):
            use()
    monkeypatch.undo()
    after = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} <= {own / ".train.lock"}


@pytest.mark.parametrize("what", ["a link to what is not there", "no folder"])
def test_checkpoints_whose_drive_is_gone_are_not_called_none(what: str, own: Path, small: Any, cache: Path) -> None:
    (own / "checkpoints").rename(own / "elsewhere")
    if what == "no folder":
        (own / "checkpoints").write_text("")
    else:
        (own / "checkpoints").symlink_to(own / "gone")
    before = (own / "metrics.jsonl").read_bytes()
    for use in (lambda: train_run(own, short(small), cache=cache), lambda: open_run(own)):
        with pytest.raises(InputError, match=f"checkpoints: is {what}"):
            use()
    assert (own / "metrics.jsonl").read_bytes() == before


def test_a_run_folder_that_cannot_be_listed_is_not_begun(
    own: Path, small: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbidden(monkeypatch, "iterdir", own)
    with pytest.raises(PermissionError):
        train_run(own, short(small), cache=cache)


def test_an_old_checkpoint_that_cannot_be_removed_stays_and_is_told_once(
    own: Path, small: Any, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one that another user wrote."""
    oldest = checkpoint_folders(own)[0]
    remove = shutil.rmtree

    def refuse(path: Path, *arguments: Any, **options: Any) -> None:
        if Path(path) == oldest:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        remove(path, *arguments, **options)

    monkeypatch.setattr(checkpoint.shutil, "rmtree", refuse)
    train_run(own, short(small, num_steps=8), cache=cache)
    told = [line for line in capsys.readouterr().err.splitlines() if "cannot be removed" in line]
    assert told == [
        f"foreframe: {oldest}: this old checkpoint cannot be removed (Permission denied) and stays; training goes on"
    ]
    assert [folder.name[-1] for folder in checkpoint_folders(own)] == ["2", "6", "8"]


# -- files that are not as they were written -------------------------------------------------------------------------

DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
BROKEN_TRAINERS = {
    "no JSON": "{",
    "another kind": "[]",
    "deep": DEEP,
    "long number": '{"version": 1, "step": ' + "4" * 400 + "}",
    "a word": '{"version": 1, "step": "four", "elapsed": 1.0, "window": [], "data_fingerprint": ""}',
    "window": '{"version": 1, "step": 4, "elapsed": 1.0, "window": {"loss": 1}, "data_fingerprint": ""}',
    "in window": '{"version": 1, "step": 4, "elapsed": 1.0, "window": [{"loss": []}], "data_fingerprint": ""}',
    "not finite": '{"version": 1, "step": 4, "elapsed": NaN, "window": [], "data_fingerprint": ""}',
    "missing": '{"version": 1, "step": 4}',
    "version": '{"version": 7, "step": 4, "elapsed": 1.0, "window": [], "data_fingerprint": ""}',
    "another step": '{"version": 1, "step": 3, "elapsed": 1.0, "window": [], "data_fingerprint": ""}',
}


@pytest.mark.parametrize("kind", BROKEN_TRAINERS)
def test_a_broken_trainer_file_is_one_line(kind: str, own: Path, small: Any, cache: Path, tmp_path: Path) -> None:
    (newest(own) / "trainer.json").write_text(BROKEN_TRAINERS[kind])
    seal(newest(own))
    assert "trainer.json: " in refused_everywhere(own, short(small), cache, tmp_path / "out")


MANIFEST = {"version": 2, "step": 4, "run": None}
BROKEN_MANIFESTS = {
    "no JSON": "{",
    "empty": "",
    "deep": DEEP,
    "long number": '{"version": 2, "step": ' + "4" * 400 + "}",
    "files": json.dumps({**MANIFEST, "files": ["model.json"]}),
    "entry": json.dumps({**MANIFEST, "files": {"model.json": {"size": "large", "sha256": 1}}}),
    "version": json.dumps({**MANIFEST, "files": {}, "version": "x" * 5000}),
}


@pytest.mark.parametrize("kind", [*BROKEN_MANIFESTS, "pipe", "missing"])
def test_a_broken_manifest_is_one_line(kind: str, own: Path, small: Any, cache: Path, tmp_path: Path) -> None:
    path = newest(own) / "manifest.json"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind != "missing":
        path.write_text(BROKEN_MANIFESTS[kind])
    assert "manifest.json: " in refused_everywhere(own, short(small), cache, tmp_path / "out")


def test_a_pipe_in_place_of_a_file_is_not_waited_for(own: Path, small: Any, cache: Path, tmp_path: Path) -> None:
    weights = newest(own) / "model.safetensors"
    weights.unlink()
    os.mkfifo(weights)
    line = refused_everywhere(own, short(small), cache, tmp_path / "out")
    assert "model.safetensors: is a pipe, a device or a socket" in line
    shutil.rmtree(newest(own))
    (own / "metrics.jsonl").unlink()
    os.mkfifo(own / "metrics.jsonl")
    with pytest.raises(InputError, match=r"metrics\.jsonl: is a pipe"):
        train_run(own, short(small), cache=cache)


def test_the_journal_keeps_what_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    good = [f'{{"step": {step}, "loss": 1.5}}' for step in (1, 2, 3)]
    odd = [DEEP, "[" * 100_000, '{"step": ' + "1" * 400 + "}", '{"step": "1"}', '{"step": [1]}', "1", "null", '{"st']
    path.write_text("\n".join([good[0], *odd, *good[1:]]) + "\n")
    keep_lines(path, up_to_step=2)
    assert path.read_text().splitlines() == good[:2]
    assert [one.name for one in tmp_path.iterdir()] == ["metrics.jsonl"]
    keep_lines(tmp_path / "none.jsonl", up_to_step=2)
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize("missing", ["exp_avg_sq", "step"])
def test_moments_that_do_not_fit_are_refused(missing: str, own: Path, small: Any, cache: Path) -> None:
    path = newest(own) / "optimizer.safetensors"
    tensors = read_tensors(path)
    first = next(name for name in tensors if name.endswith(f"/{missing}"))
    odd = {**tensors, first: torch.zeros(3, 5, 7)}
    for content, told in (
        ({name: value for name, value in tensors.items() if name != first}, "lacks a part of Adam's state"),
        (odd, r"has shape \[3, 5, 7\]"),
    ):
        save_tensors(content, path)
        seal(newest(own))
        with pytest.raises(InputError, match=told):
            train_run(own, short(small, num_steps=5), cache=cache)


# -- a disk that is full, a terminal that is gone --------------------------------------------------------------------


def test_a_full_disk_names_the_file(
    own: Path, small: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a write says it, which knows no name

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_model", full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            train_run(own, short(small, num_steps=5), cache=cache)
        assert caught.value.filename == str(own / "checkpoints" / "step_00000005")
    assert sorted(path.name for path in (own / "checkpoints").iterdir()) == ["step_00000002", "step_00000004"]
    with monkeypatch.context() as patched:
        patched.setattr("foreframe.models.weights.save_file", safetensors_full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            save_tensors({"a": torch.ones(2)}, tmp_path / "a.safetensors")
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a.safetensors"))
    train_run(own, short(small, num_steps=5), cache=cache)


def safetensors_full(*_arguments: Any, **_options: Any) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_under_the_journal_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path_open = Path.open

    def to_the_full(self: Path, *arguments: Any, **options: Any) -> Any:
        full = self.name == "metrics.jsonl"
        return path_open(Path("/dev/full") if full else self, *arguments, **options)

    monkeypatch.setattr(Path, "open", to_the_full)
    journal = Journal(tmp_path, first_step=0, num_steps=2, elapsed=0.0, label="full")
    with pytest.raises(OSError, match="No space left on device") as caught, journal:
        journal.write(1, "train", {"loss": 1.0})
    assert caught.value.filename == str(tmp_path / "metrics.jsonl")


def test_a_terminal_that_is_gone_ends_no_training(tmp_path: Path) -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(errno.EIO, "Input/output error")

    with Journal(tmp_path, first_step=0, num_steps=2, elapsed=0.0, label="gone", shown=Gone()) as journal:
        journal.say("stopped")
        journal.advance(1, status="")
        journal.write(1, "train", {"loss": 1.0})
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


# -- one training a folder -------------------------------------------------------------------------------------------


def test_a_second_training_is_refused_and_disturbs_nothing(
    own: Path, small: Any, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = own / ".train.lock"
    with files.locked(lock, taken="unused"):
        before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
        with pytest.raises(UsageError, match=rf"own: another `train` \(pid {os.getpid()}\) is at work here; .*--out"):
            train_run(own, short(small, num_steps=5), cache=cache)
        assert {path: path.read_bytes() for path in own.rglob("*") if path.is_file()} == before
        # Evaluation does not ask.
        assert evaluate_run(own, cache=cache)["scores"]
    train_run(own, short(small, num_steps=5), cache=cache)
    capsys.readouterr()


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", ".train.lock"])
def test_what_cannot_be_written_is_refused_before_any_work(
    name: str, own: Path, small: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access, opened = os.access, os.open

    def open_(path: Any, *arguments: Any, **options: Any) -> int:
        if path == own / name == own / ".train.lock":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != own / name and access(path, mode))
    monkeypatch.setattr("foreframe.runs.build_track", None)
    with pytest.raises(UsageError, match=rf"{name}: cannot be written \(Permission denied\); name a folder of yours"):
        train_run(own, short(small, num_steps=5), cache=cache)


def test_a_folder_of_other_files_gets_no_lock(small: Any, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="is a folder with other files in it"):
        train_run(tmp_path, short(small))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_forked_reader_does_not_hold_its_parents_lock(tmp_path: Path) -> None:
    """Else a training that was killed would be at work until its last reader noticed."""
    begun, begin = os.pipe()
    wait, go = os.pipe()
    with files.locked(tmp_path / "lock", taken="held"):
        child = os.fork()
        if not child:
            os.close(go)
            os.write(begin, b"!")
            os.read(wait, 1)
            os._exit(0)
    try:
        os.read(begun, 1)
        with files.locked(tmp_path / "lock", taken="held by a child"):
            pass
    finally:
        os.close(go)
        os.waitpid(child, 0)
        for end in (begun, begin, wait):
            os.close(end)


def test_weights_may_be_read_by_whoever_may_read_the_files_beside_them(own: Path) -> None:
    checkpoint = newest(own)
    modes = {path.name: path.stat().st_mode & 0o777 for path in checkpoint.iterdir()}
    assert set(modes.values()) == {modes["manifest.json"]}


def test_weights_without_permission_are_not_called_missing(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = newest(own) / "model.safetensors"
    forbidden(monkeypatch, "open", weights)
    with pytest.raises(InputError, match=r"model.safetensors: cannot be read \(Permission denied"):
        tensor_shapes(weights)
