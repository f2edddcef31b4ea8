"""What a stranger's files may do: run nothing, fetch nothing, hijack no name, and fail in one line."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from conftest import tiny_compression_config, tiny_sampling_config
from foreframe import cli
from foreframe.cli.train import _with_absolute_paths
from foreframe.config import CONFIG_FILE, load_config, save_config
from foreframe.errors import InputError, UsageError
from foreframe.files import sha256_file
from foreframe.manifest import seal
from foreframe.models import weights
from foreframe.models.autoencoder import VideoAutoencoder
from foreframe.models.config import AutoencoderConfig, STTransformerConfig, TokenizerConfig
from foreframe.models.hub import diffusers_folder
from foreframe.models.tokenizer import VideoTokenizer
from foreframe.models.wan import StateConditionedWan
from foreframe.models.wan_config import WanConfig
from foreframe.models.weights import checkpoint_folders, find_weights, load_model, named_folder, save_model
from foreframe.permissions import Permissions
from foreframe.report import archive
from foreframe.report.clips import read_clip
from foreframe.report.page import render, write_report
from foreframe.report.runs import read_journal, read_run, read_scores
from foreframe.runs import open_run, train_run
from foreframe.tracks.config import SamplingConfig

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = TokenizerConfig(levels=(4, 3), fine_width=8, coarse_width=8, num_blocks=1, num_drawing_blocks=1)
COMMIT = "0123456789abcdef" * 2 + "01234567"


def refusal(action: Callable[[], object], kind: type[Exception] = InputError) -> str:
    """What the error says, which must be one line of a readable length."""
    with pytest.raises(kind) as caught:
        action()
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert len(said) <= 480, said
    return said


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A model folder with a manifest."""
    folder = tmp_path / "model"
    folder.mkdir()
    torch.manual_seed(0)
    save_model(folder, VideoTokenizer(SMALL))
    seal(folder)
    return folder


# -- programs ------------------------------------------------------------------------------------------------------


class _Anything(torch.nn.Module):
    """Stands for a program that does anything; it must not even be loaded."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def hostile_run(run: Path, compression_run: Path) -> Path:
    """A stranger's run, whose tokenizer lies in its own folder with a voucher of its own."""
    shutil.copytree(compression_run, run)
    folder = run / "tok"
    folder.mkdir()
    for name in ("encoder.jit", "decoder.jit"):
        torch.jit.save(torch.jit.script(_Anything()), str(folder / name))
    lines = [f"{sha256_file(folder / name)}  {name}\n" for name in ("encoder.jit", "decoder.jit")]
    (folder / "SHA256SUMS").write_text("".join(lines))
    config = load_config(run)
    track: Any = replace(config.track, tokenizer=str(folder))  # type: ignore[call-arg]
    save_config(run, replace(config, track=track))
    newest = checkpoint_folders(run)[-1]
    statistics = json.loads((newest / "statistics.json").read_text())
    statistics["tokenizer_sha256"] = sha256_file(folder / "decoder.jit")
    (newest / "statistics.json").write_text(json.dumps(statistics))
    seal_again(newest)
    return run


def seal_again(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    seal(folder)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_strangers_run_runs_no_program(
    compression_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = hostile_run(tmp_path / "run", compression_run)

    def load(*_: object, **__: object) -> object:
        raise AssertionError("a program was loaded")

    monkeypatch.setattr(torch.jit, "load", load)
    digest = sha256_file(run / "tok" / "decoder.jit")
    for arguments in (["evaluate", str(run)], ["export", str(run), "--out", str(tmp_path / "copy")]):
        assert cli.run(arguments) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith(f"foreframe: {run / 'tok' / 'decoder.jit'}: is TorchScript, a program")
        assert said.endswith(f"--trust-sha256 {digest}")
        assert "SHA256SUMS" not in said
    assert cli.run(["evaluate", str(run), "--trust-sha256", "0" * 64]) == 2
    assert not (run / "scores.json").exists()
    # Vouched for from outside it is opened; the option may be given several times.
    trusted = ["--trust-sha256", "0" * 64, "--trust-sha256", digest]
    assert cli.run(["export", str(run), "--out", str(tmp_path / "copy"), *trusted]) == 0


# -- network -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """A hub that gives an empty snapshot, and an empty cache; what was asked of it, repository and revision."""
    asked: list[tuple[str, str | None]] = []

    def fetch(repository: str, *, revision: str | None = None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision))
        folder = tmp_path / "snapshots" / (revision or COMMIT)
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return asked


@pytest.fixture
def sampling_config(raw_root: Path) -> Any:
    return tiny_sampling_config(raw_root, Path("autoencoder_tiny"))


def test_nothing_is_fetched_unasked(hub: list[tuple[str, str | None]]) -> None:
    said = refusal(lambda: diffusers_folder("someone/x", "transformer", revision=COMMIT), UsageError)
    assert said.startswith("someone/x: no such folder here")
    assert f"--download fetches its transformer at revision {COMMIT}" in said
    assert hub == []
    diffusers_folder("someone/x", "transformer", revision=COMMIT, permissions=Permissions(download=True))
    assert hub == [("someone/x", COMMIT)]


@pytest.mark.parametrize("field", ["autoencoder", "base"])
def test_a_strangers_run_reaches_no_network(
    sampling_config: Any, raw_root: Path, tmp_path: Path, hub: list[tuple[str, str | None]],
    capsys: pytest.CaptureFixture[str], field: str,
) -> None:  # fmt: skip
    run = tmp_path / "run"
    (run / "checkpoints" / "step_00000001").mkdir(parents=True)
    track = sampling_config.track
    model = replace(track.model, base="someone/x") if field == "base" else track.model
    named = {"autoencoder": "someone/x"} if field == "autoencoder" else {"autoencoder": None}
    save_config(run, replace(sampling_config, track=replace(track, model=model, **named)))
    for arguments in (
        ["evaluate", str(run), "--data", str(raw_root)],
        ["export", str(run), "--out", str(tmp_path / "copy")],
        ["data", "encode", str(raw_root), "--out", str(tmp_path / "out"), "--encoder", "someone/x"],
    ):
        assert cli.run(arguments) == 2
        said = capsys.readouterr().err
        assert "someone/x: no such folder here" in said
        assert "--download" in said
        assert len(said.splitlines()) == 1
    assert hub == []
    assert cli.run(["export", str(run), "--out", str(tmp_path / "copy"), "--download"]) == 1
    assert hub[0] == ("someone/x", None)
    assert {revision for _, revision in hub[1:]} <= {COMMIT}


def test_a_new_run_keeps_the_revision(
    sampling_config: Any, tmp_path: Path, hub: list[tuple[str, str | None]], raw_root: Path
) -> None:
    config = replace(sampling_config, data=raw_root, track=replace(sampling_config.track, autoencoder="someone/x"))
    with pytest.raises(InputError, match="has no vae"):
        # The stand-in for a hub holds nothing, so it ends where the autoencoder is read.
        (tmp_path / "snapshots" / COMMIT).mkdir(parents=True)
        (tmp_path / "snapshots" / COMMIT / "model_index.json").write_text("{}")
        train_run(tmp_path / "run", config, permissions=Permissions(download=True))
    track: Any = load_config(tmp_path / "run").track
    assert track.autoencoder_revision == COMMIT
    assert hub == [("someone/x", None), ("someone/x", COMMIT)]
    hub.clear()
    with pytest.raises(UsageError, match=f"--download fetches its vae at revision {COMMIT}"):
        train_run(tmp_path / "run", config)
    assert hub == []


def test_what_was_fetched_before_is_used_without_the_network(hub: list[tuple[str, str | None]], tmp_path: Path) -> None:
    there = tmp_path / "hub" / "models--someone--x" / "snapshots" / COMMIT
    (there / "vae").mkdir(parents=True)
    assert diffusers_folder("someone/x", "vae", revision=COMMIT) == there
    refusal(lambda: diffusers_folder("someone/x", "vae", "transformer", revision=COMMIT), UsageError)
    refusal(lambda: diffusers_folder("someone/x", "vae", revision="f" * 40), UsageError)
    assert hub == []


def test_a_revision_is_a_commit() -> None:
    for wrong in ("main", "../../x", "A" * 40, ""):
        with pytest.raises(ValueError, match="must be a commit"):
            WanConfig(base_revision=wrong)
        with pytest.raises(ValueError, match="must be a commit"):
            SamplingConfig(autoencoder_revision=wrong)


@pytest.mark.parametrize("name", ["Wan-AI/Wan2.2-TI2V-5B", "Wan-AI/Wan2.1-T2V-1.3B"])
def test_the_original_form_is_named(name: str, tmp_path: Path, hub: list[tuple[str, str | None]]) -> None:
    may = Permissions(download=True)
    assert "Wan-AI/Wan2.2-TI2V-5B-Diffusers" in refusal(lambda: diffusers_folder(name, "vae", permissions=may))
    (tmp_path / "orig").mkdir()
    (tmp_path / "orig" / "models_t5_umt5-xxl-enc-bf16.pth").write_bytes(b"")
    said = refusal(lambda: diffusers_folder(str(tmp_path / "orig"), "vae"))
    assert "original form" in said
    assert "Wan-AI/Wan2.2-TI2V-5B-Diffusers" in said
    assert hub == []


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    for action in (lambda: diffusers_folder(str(tmp_path), "transformer"), lambda: open_run(tmp_path)):
        assert "is a PEFT adapter" in refusal(action)


# -- names ---------------------------------------------------------------------------------------------------------


def test_the_shipped_name_wins(tokenizer: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tokenizer.parent)
    monkeypatch.setattr(weights, "_told", set())
    tokenizer.rename("tokenizer_tiny")
    shipped = weights.shipped_runs()["tokenizer_tiny"]
    assert named_folder("tokenizer_tiny") == shipped
    assert named_folder("tokenizer_tiny") == shipped
    said = capsys.readouterr().err.splitlines()
    assert said == ["foreframe: tokenizer_tiny: the shipped model is meant; for the folder here write ./tokenizer_tiny"]
    assert named_folder("./tokenizer_tiny") == Path("tokenizer_tiny")
    assert find_weights("tokenizer_tiny").parent.parent == shipped
    assert find_weights("./tokenizer_tiny") == Path("tokenizer_tiny")


def test_a_folder_of_a_shipped_name_is_not_taken_by_commands(
    tokenizer: Path, raw_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tokenizer.parent)
    (tokenizer.parent / "compression_tiny").mkdir()
    tokenizer.rename("tokenizer_tiny")
    config: Any = _with_absolute_paths(tiny_compression_config(raw_root, Path("tokenizer_tiny")))
    assert config.track.tokenizer == "tokenizer_tiny"
    config = _with_absolute_paths(replace(config, track=replace(config.track, tokenizer="./tokenizer_tiny")))
    assert config.track.tokenizer == str(tokenizer.parent / "tokenizer_tiny")
    assert cli.run(["export", "compression_tiny", "--out", "copy"]) == 0
    assert "the shipped model is meant" in capsys.readouterr().err
    assert cli.run(["export", "./compression_tiny", "--out", "copy2"]) == 1
    assert f"{tokenizer.parent / 'compression_tiny'}: is not a run folder" in capsys.readouterr().err


# -- models --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_one_bit_beside_a_manifest_is_seen(tokenizer: Path, name: str) -> None:
    assert find_weights(tokenizer) == tokenizer
    content = bytearray((tokenizer / name).read_bytes())
    content[-3] ^= 1
    (tokenizer / name).write_bytes(content)
    assert f"{tokenizer / name}: is not what the manifest says" in refusal(lambda: find_weights(tokenizer))


def test_a_checkpoint_without_its_manifest_is_refused(
    compression_run: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tokenizer_run, run)
    (checkpoint_folders(run)[-1] / "manifest.json").unlink()
    assert "manifest.json: is missing" in refusal(lambda: find_weights(run))


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    tensors = weights.read_tensors(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


HEAD = "decoder.head.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.update({HEAD: t[HEAD].to(torch.float8_e4m3fn)}), "is of type F8_E4M3, which is not read"),
        (lambda t: t.update({HEAD: t[HEAD].to(torch.complex64)}), "is of type C64, which is not read"),
        (lambda t: t.update({HEAD: t[HEAD].to(torch.int8)}), "is int8 "),
        (
            lambda t: t.update({f"{HEAD}.scale": torch.ones(1, 1, 1, 1)}),
            "but scales are float32 [432, 1, 1, 1] of int8",
        ),
        (lambda t: t.update({f"{HEAD}.scale": torch.ones(5)}), "but scales are float32"),
        (lambda t: t.update({HEAD: t[HEAD][:3].clone()}), "1 of another shape: decoder.head.weight"),
        (lambda t: t.update({"other.scale": torch.ones(5)}), "1 unexpected: other.scale"),
        (lambda t: t.pop(HEAD), "1 missing: decoder.head.weight"),
    ],
)
def test_odd_tensors_are_one_line(tokenizer: Path, change: Any, says: str) -> None:
    rewritten(tokenizer, change)
    said = refusal(lambda: load_model(tokenizer, VideoTokenizer))
    assert said.startswith(f"{tokenizer / 'model.safetensors'}: ")
    assert says in said


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_blocks", 10**9),
        ("num_blocks", 500),
        ("fine_width", 20_000_000),
        ("fine_width", 16_000),
        ("levels", [1000] * 5),
        ("levels", [3] * 10_000),
        ("levels", "x"),
        ("num_blocks", "many"),
        ("num_blocks", None),
        ("num_blocks", [[1]]),
    ],
)
def test_sizes_beyond_the_file_are_refused_at_once(tokenizer: Path, field: str, value: object) -> None:
    description = json.loads((tokenizer / "model.json").read_text())
    description["config"][field] = value
    (tokenizer / "model.json").write_text(json.dumps(description))
    started = time.monotonic()
    refusal(lambda: load_model(tokenizer, VideoTokenizer))
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "content",
    ["[" * 10_000, "[]", '{"class": []}', '{"class": "VideoTokenizer", "config": 3}', '{"class": "os.system"}', "\xff"],
)
def test_odd_descriptions_are_one_line(tokenizer: Path, content: str) -> None:
    (tokenizer / "model.json").write_text(content, encoding="latin-1")
    refusal(lambda: load_model(tokenizer, VideoTokenizer))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: STTransformerConfig(num_layers=10**9),
        lambda: STTransformerConfig(width=20_000_000),
        lambda: STTransformerConfig(vocab_size=2**40),
        lambda: WanConfig(num_layers=10**9),
        lambda: WanConfig(num_attention_heads=60_000),
        lambda: WanConfig(rope_max_seq_len=10**9),
        lambda: WanConfig(attention_head_dim=3),
        lambda: WanConfig(patch_size=(1, 10**6, 1)),
        lambda: AutoencoderConfig(num_res_blocks=10**9),
        lambda: AutoencoderConfig(base_dim=20_000_000),
        lambda: AutoencoderConfig(dim_mult=(1,) * 1000, temperal_downsample=(False,) * 999),
        lambda: TokenizerConfig(coarse_width=20_000_000),
    ],
)
def test_configurations_have_bounds(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        wrong()


def test_a_run_is_compared_with_its_weights_before_it_is_built(compression_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(compression_run, run)
    content = json.loads((run / CONFIG_FILE).read_text())
    content["track"]["model"] |= {"num_layers": 300, "width": 65_536}
    (run / CONFIG_FILE).write_text(json.dumps(content))
    started = time.monotonic()
    said = refusal(lambda: open_run(run))
    assert "config.json: track.model.num_layers is 300, but the model in step_" in said
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "manifest.json"])
def test_a_pipe_in_a_models_place_is_refused_unread(tokenizer: Path, name: str) -> None:
    (tokenizer / name).unlink()
    os.mkfifo(tokenizer / name)
    said = refusal(lambda: load_model(find_weights(tokenizer), VideoTokenizer))
    assert said.startswith(f"{tokenizer / name}: is a pipe, a device or a socket")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_res_blocks", 10**9),
        ("base_dim", 20_000_000),
        ("z_dim", "x"),
        ("dim_mult", 3),
        ("latents_mean", [0.0]),
        ("latents_std", ["a"] * 4),
        ("latents_std", [0.0] * 4),
        ("scale_factor_spatial", {}),
        ("in_channels", 10**7),
    ],
)
def test_a_strangers_autoencoder_is_one_line(tmp_path: Path, field: str, value: object) -> None:
    config = AutoencoderConfig(
        base_dim=8, decoder_base_dim=8, z_dim=4, dim_mult=(1, 1), num_res_blocks=0, temperal_downsample=(True,)
    )
    VideoAutoencoder(config).save(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, field: value}))
    if field == "scale_factor_spatial":  # read by nobody
        VideoAutoencoder.load(tmp_path)
    else:
        refusal(lambda: VideoAutoencoder.load(tmp_path))


def test_diffusers_loaders_refuse(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = StateConditionedWan(WanConfig(num_layers=1, num_attention_heads=2, lora_rank=0))
    for action in (
        lambda: StateConditionedWan.from_pretrained(str(tmp_path)),
        lambda: StateConditionedWan.from_config({}),
        lambda: StateConditionedWan.from_single_file("x.safetensors"),
        lambda: model.save_pretrained(str(tmp_path / "out")),
        lambda: model.load_lora_adapter(str(tmp_path)),
        lambda: model.save_lora_adapter(str(tmp_path)),
        lambda: model.push_to_hub("someone/x"),
    ):
        assert "leave out what this model adds" in refusal(action, UsageError)
    assert not (tmp_path / "out").exists()


# -- no paths ------------------------------------------------------------------------------------------------------


def test_an_export_names_no_place_of_this_machine(compression_run: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli.run(["export", str(compression_run), "--out", str(tmp_path / "copy")]) == 0
    config = load_config(compression_run)
    tokenizer: Any = config.track
    said = capsys.readouterr().err
    assert f"still names {tokenizer.tokenizer}; whoever gets it needs that too" in said
    for path in (tmp_path / "copy").rglob("*.json"):
        if path.name != CONFIG_FILE:
            assert str(tmp_path.parent) not in path.read_text(), path
    assert load_config(tmp_path / "copy").data is None


# -- saved clips and pages -----------------------------------------------------------------------------------------


def frames(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.zeros(shape, np.uint8)


def arrays() -> dict[str, Any]:
    meta = np.array(json.dumps({"fps": 30}))
    return {"context": frames(1, 8, 8, 3), "truth": frames(2, 8, 8, 3), "prediction": frames(2, 8, 8, 3), "meta": meta}


def header(shape: str, descr: str = "'|u1'") -> bytes:
    """A `.npy` file that claims a shape and holds nothing."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def write_zip(path: Path, members: dict[str, bytes], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


def as_members(values: dict[str, Any]) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for name, value in values.items():
        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=True)
        members[f"{name}.npy"] = buffer.getvalue()
    return members


def encrypted(path: Path) -> None:
    write_zip(path, as_members(arrays()))
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = -1
        while (place := content.find(mark, place + 1)) >= 0:
            content[place + offset] |= 1
    path.write_bytes(content)


def twice(path: Path) -> None:
    members = as_members(arrays())
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
        with pytest.warns(UserWarning, match="Duplicate"):
            packed.writestr("truth.npy", members["truth.npy"])


HOSTILE: dict[str, Callable[[Path], object]] = {
    "encrypted": encrypted,
    "two of one name": twice,
    "packed by method 12": lambda p: write_zip(p, as_members(arrays()), compression=zipfile.ZIP_BZIP2),
    "packed by method 14": lambda p: write_zip(p, as_members(arrays()), compression=zipfile.ZIP_LZMA),
    "truth is object": lambda p: write_zip(p, as_members({**arrays(), "truth": np.array([{}], object)})),
    "truth claims 300,000,000,000,000": lambda p: write_zip(
        p, {**as_members(arrays()), "truth.npy": header("(100000, 1000000, 1000, 3)")}
    ),
    "claims 9,0": lambda p: write_zip(
        p, {**as_members(arrays()), "truth.npy": bytes(9_000_000)}, compression=zipfile.ZIP_DEFLATED
    ),
    "truth claims 10": lambda p: write_zip(p, {**as_members(arrays()), "truth.npy": header("(10,)")}),
    "truth is float64": lambda p: write_zip(p, as_members({**arrays(), "truth": np.zeros((2, 8, 8, 3))})),
    "cannot be read": lambda p: write_zip(p, {**as_members(arrays()), "truth.npy": header("[" * 100)}),
    "is a pipe": lambda p: os.mkfifo(p),
    "has 2000 frames": lambda p: write_zip(
        p, as_members({**arrays(), "truth": frames(2000, 1, 1, 3), "prediction": frames(2000, 1, 1, 3)})
    ),
    "meta cannot be read as JSON": lambda p: write_zip(p, as_members({**arrays(), "meta": np.array("[" * 10_000)})),
    "not a zip": lambda p: p.write_bytes(b"no"),
}


@pytest.mark.parametrize("says", HOSTILE)
def test_a_hostile_clip_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 8_000_000)
    path = tmp_path / "clip.npz"
    HOSTILE[says](path)
    said = refusal(lambda: read_clip(path))
    assert said.startswith(f"{path}: ")
    assert says in said


def test_arrays_that_nobody_draws_are_not_unpacked(tmp_path: Path) -> None:
    members = {**as_members(arrays()), "other.npy": header("(100000, 1000000, 1000, 3)")}
    clip = read_clip(write_zip(tmp_path / "clip.npz", members))
    assert clip.truth.shape == (2, 8, 8, 3)


def test_fortran_order_is_read(tmp_path: Path) -> None:
    truth = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    write_zip(tmp_path / "clip.npz", as_members({**arrays(), "truth": np.asfortranarray(truth)}))
    assert np.array_equal(read_clip(tmp_path / "clip.npz").truth, truth)


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def test_half_a_character_is_drawn_as_a_question_mark(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"recipe": "half \\ud800", "track": {"kind": "compression"}}')
    write_report([run], tmp_path / "page.html")
    assert "half ?" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_words_of_a_strangers_run_are_no_markup(tmp_path: Path) -> None:
    run = tmp_path / f"run{EVIL.replace('/', '-')}"
    (run / "predictions").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"recipe": EVIL, "track": {"kind": EVIL, EVIL: EVIL}}))
    line = {"step": 1, "split": EVIL, EVIL: 0.5, "loss": 1.0}
    (run / "metrics.jsonl").write_text("".join(json.dumps({**line, "step": step}) + "\n" for step in (1, 2)))
    scores = {
        "version": 1,
        "track": EVIL,
        "receipt": {"recipe": EVIL, EVIL: EVIL, "simulated": EVIL, "num_clips": EVIL, "split": EVIL},
        "metrics": {EVIL: {"title": EVIL, "unit": EVIL, "higher_is_better": True, "description": EVIL}},
        "scores": [
            {"metric": EVIL, "predictor": name, "mean": 1.0, "low": 0.5, "high": 1.5, "margin": margin}
            for name, margin in (("model", None), (EVIL, {"mean": 1.0, "low": 0.5, "high": 1.5}))
        ],
        "predictors": {EVIL: EVIL},
        "references": [],
    }
    (run / "scores.json").write_text(json.dumps(scores))
    evil = {f"what_if_{'x<script>x'}": frames(2, 8, 8, 3), f"baseline_{'y<script>y'}": frames(2, 8, 8, 3)}
    meta = {"shard": EVIL, "start": EVIL, "segment": EVIL, "chosen": EVIL, "labels": {"prediction": EVIL}}
    named = {**arrays(), **evil, "meta": np.array(json.dumps(meta))}
    write_zip(run / "predictions" / "clip_0.npz", as_members(named))
    page = render([read_run(run)], title=EVIL)
    assert "alert(1)" in page
    for wrong in ("<script>alert", "<img src=x", "<script>x", "<script>y"):
        assert wrong not in page
    scripts = page.split("<script")[1:]
    for script in scripts:
        assert "onerror" not in script.split("</script>")[0].replace("\\u003cimg src=x onerror", "")


@pytest.mark.parametrize(
    "content", ["[" * 10_000, '{"version": ' + "9" * 400 + "}", "[]", '{"version": NaN}', '{"version": 1e999}', "\xff"]
)
def test_odd_scores_and_configurations_are_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content, encoding="latin-1")
    refusal(lambda: read_run(tmp_path))
    refusal(lambda: read_scores(tmp_path / "config.json"))


def test_odd_lines_of_a_journal_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = ["[" * 100_000, '{"step": 1, "loss": ' + "9" * 400 + "}", '{"step": ' + "9" * 5000 + "}", '{"step": 2}', ""]
    path.write_text("\n".join(lines))
    journal = read_journal(path)
    assert (journal.num_unreadable, journal.num_not_finite) == (2, 1)
    path.unlink()
    os.mkfifo(path)
    assert "is a pipe" in refusal(lambda: read_journal(path))


# -- statistics ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        {"states": [], "tokens": {}, "tokenizer_sha256": None},
        {"states": {"version": 1, "channels": None}, "tokens": {}, "tokenizer_sha256": None},
        {"states": {"version": [1] * 5000}, "tokens": {}, "tokenizer_sha256": None},
        {"states": "NUM_ROWS", "tokens": {}, "tokenizer_sha256": None},
        {"states": "MEAN", "tokens": {}, "tokenizer_sha256": None},
        {"states": "GOOD", "tokens": {"version": 2, "vocab_size": 10**9, "num_pairs": 1}, "tokenizer_sha256": None},
        {"states": "GOOD", "tokens": "COUNTS", "tokenizer_sha256": None},
        {"states": "GOOD", "tokens": "GRIDS", "tokenizer_sha256": None},
        {"states": "GOOD", "tokens": "RATES", "tokenizer_sha256": None},
        {"states": "GOOD", "tokenizer_sha256": None},
        {"states": "GOOD", "tokens": {}, "tokenizer_sha256": [1]},
    ],
)
def test_odd_statistics_are_one_line(compression_run: Path, tmp_path: Path, content: dict[str, Any]) -> None:
    run = tmp_path / "run"
    shutil.copytree(compression_run, run)
    newest = checkpoint_folders(run)[-1]
    good = json.loads((newest / "statistics.json").read_text())
    content = dict(content)
    if content["tokenizer_sha256"] is None:
        content["tokenizer_sha256"] = good["tokenizer_sha256"]
    match content["states"]:
        case "GOOD":
            content["states"] = good["states"]
        case "NUM_ROWS":
            content["states"] = {**good["states"], "num_rows": [3]}
        case "MEAN":
            content["states"] = {**good["states"], "mean": [1e300] * 25}
    match content.get("tokens"):
        case "COUNTS":
            content["tokens"] = {**good["tokens"], "counts": [10**30] * good["tokens"]["vocab_size"]}
        case "GRIDS":
            content["tokens"] = {**good["tokens"], "copy_grids": {"teacher_forced": 3, "autoregressive": [[], {}, ""]}}
        case "RATES":
            content["tokens"] = {**good["tokens"], "copy_rates": {"teacher_forced": [None] * 3, "autoregressive": 0}}
    (newest / "statistics.json").write_text(json.dumps(content))
    seal_again(newest)
    refusal(lambda: open_run(run))
