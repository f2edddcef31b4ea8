"""Raw folders to tokens or latents: each video decoded once, over several processes, resumable after a kill."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from foreframe.batch import Batch, ClipId, collate, to_video
from foreframe.data.clips import clip_ids, require_rate, state_window
from foreframe.data.encoding import (
    ENCODING_FILE,
    describe_files,
    describe_source,
    read_encoding,
    require_encoding,
    sealed,
    verify_encoded,
)
from foreframe.data.folders import discard_unfinished, last_written, one_at_a_time, resumable_folder
from foreframe.data.integrity import check_rows
from foreframe.data.latents import LatentClips, LatentShardWriter, record_type, shard_file
from foreframe.data.layout import TOKEN_SAMPLE_STATES, find_layout
from foreframe.data.raw import RawDataset
from foreframe.data.video import iterate_windows
from foreframe.data.windows import CLIP_FRAMES, frame_indices
from foreframe.data.writer import metadata_json, write_token_samples, write_token_shard
from foreframe.errors import InputError, UsageError
from foreframe.files import locked, make_folder, naming, write_whole
from foreframe.models.autoencoder import (
    VideoAutoencoder,
    autoencoder_folder,
    autoencoder_hash,
)
from foreframe.models.config import BLOCK_FRAMES, CELL
from foreframe.models.cosmos import CosmosTokenizer, cosmos_hash, is_cosmos
from foreframe.models.hub import diffusers_folder, is_on_hub, refuse_other_forms
from foreframe.models.tokenizer import VideoTokenizer
from foreframe.models.weights import (
    find_weights,
    load_model,
    locate_weights,
    model_class,
    named_folder,
    weights_hash,
)
from foreframe.permissions import NONE, Permissions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from foreframe.data.folders import Unfinished
    from foreframe.data.latents import LatentDtype
    from foreframe.data.layout import OnBadShard, Shard
    from foreframe.data.windows import FrameMode

_BLOCKS_AT_ONCE = 8
_CLIPS_AT_ONCE = 4
_PATIENCE = 60.0
"""Seconds without a change in what another process makes, before it is made here as well."""


AnyTokenizer = VideoTokenizer | CosmosTokenizer
"""Ours or NVIDIA's: blocks of 17 frames to three token grids and back."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which shards are this process's, of several that fill one folder."""

    rank: int = 0
    """Number of this process."""
    num_ranks: int = 1
    """How many there are; shard i is for rank i modulo this."""


@dataclass(frozen=True, kw_only=True)
class TokenEncoder:
    """How blocks of 17 frames become three grids of tokens."""

    tokenizer: AnyTokenizer
    weights: str
    """SHA-256 of what makes the tokens: `VideoTokenizer.encoder_hash`, or of Cosmos' files."""
    size: int
    """Side of the frames in pixels when tokenised: the video's own divided by a whole number."""

    def describe(self) -> dict[str, object]:
        """What decides the tokens, for `encoding.json`."""
        if self.size < CELL or self.size % CELL:
            raise UsageError(
                f"frames of {self.size} pixels do not divide into cells of {CELL}; choose a multiple of {CELL}"
            )
        return {
            "kind": "tokens",
            "weights_sha256": self.weights,
            "vocab_size": self.tokenizer.vocab_size,
            "frame_size": self.size,
            # In another precision Cosmos gives other tokens.
            **({"dtype": self.tokenizer.precision} if isinstance(self.tokenizer, CosmosTokenizer) else {}),
        }


@dataclass(frozen=True, kw_only=True)
class LatentEncoder:
    """How clips become latents."""

    autoencoder: VideoAutoencoder
    weights: str
    """SHA-256 of its configuration and weights."""
    size: int
    """Side of the frames in pixels when encoded: the video's own divided by a whole number."""
    frames: FrameMode = "stride4_dup_last"
    """Which of a clip's 77 frames are encoded (challenge-facts 5.2)."""
    stride: int = 8
    """Frames from the start of one clip to the next (challenge-facts 5.7)."""
    legacy_segment_check: bool = False
    """Whether clips are listed as the entry's loader did (`clip_ids`)."""
    dtype: LatentDtype = "bfloat16"
    """Precision in which latents are kept; they are computed in float32."""

    def describe(self) -> dict[str, object]:
        """What decides the latents, for `encoding.json`."""
        if self.stride < 1 or self.size < 1:
            raise UsageError(f"stride {self.stride} and size {self.size} must be at least 1")
        indices = frame_indices(self.frames).tolist()
        return {
            "kind": "latents",
            "weights_sha256": self.weights,
            "frame_size": self.size,
            "frame_indices": indices,
            "clip_stride": self.stride,
            "legacy_segment_check": self.legacy_segment_check,
            "dtype": self.dtype,
            "num_states": CLIP_FRAMES,
            "latent_shape": list(self.autoencoder.latent_shape(num_frames=len(indices), size=self.size)),
        }


def load_tokenizer(name: str, *, permissions: Permissions = NONE) -> tuple[AnyTokenizer, str]:
    """The tokenizer of a shipped model, a run folder or a folder with Cosmos' TorchScript files, and a SHA-256.

    Of ours it is the encoder's: another decoder draws the same tokens. Raises `UsageError` if it is TorchScript that
    nobody vouches for.
    """
    folder = named_folder(name)
    if is_cosmos(folder):
        cosmos = CosmosTokenizer(folder, permissions=permissions)
        cosmos.require_trusted()
        return cosmos, cosmos_hash(folder)
    tokenizer = load_model(find_weights(name), VideoTokenizer)
    return tokenizer, tokenizer.encoder_hash


def holds_autoencoder(name: str) -> bool:
    """Whether a name or path stands for an autoencoder, rather than for a tokenizer; the hub has no others."""
    if is_on_hub(name) or autoencoder_folder(named_folder(name)) is not None:
        return True
    if is_cosmos(named_folder(name)):
        return False
    _require_ours(named_folder(name))
    return model_class(locate_weights(name)) == VideoAutoencoder.__name__


def _require_ours(folder: Path) -> None:
    """Raise `InputError` for a diffusers model without its autoencoder, and for forms that are not read.

    Whoever looks for a run would only advise to train it.
    """
    if any((folder / part).exists() for part in ("model_index.json", "transformer")):
        raise InputError(f"{folder}: has no vae with a Wan autoencoder in it; fetch that part of the model as well")
    refuse_other_forms(folder)


def load_autoencoder(
    name: str, *, revision: str | None = None, permissions: Permissions = NONE
) -> tuple[VideoAutoencoder, str]:
    """The frozen autoencoder of a shipped model, a run, or a folder or hub id in diffusers' form, and its SHA-256.

    A hub id's `revision` is its newest if it is None. Raises `UsageError` if it would have to be fetched without
    permission.
    """
    root = named_folder(name)
    if not root.exists() and "/" in name:
        root = diffusers_folder(name, "vae", revision=revision, permissions=permissions)
    if folder := autoencoder_folder(root):
        return VideoAutoencoder.load(folder), autoencoder_hash(folder)
    _require_ours(root)
    folder = find_weights(name)
    return load_model(folder, VideoAutoencoder).requires_grad_(False), weights_hash(folder)


def encode_folder(
    raw: Path,
    out: Path,
    *,
    encoder: TokenEncoder | LatentEncoder,
    share: Share | None = None,
    on_bad_shard: OnBadShard = "raise",
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Encode the raw folder `raw` into `out`, which appears when it is whole.

    A stopped or killed call goes on where it was. Several processes may fill one folder, each its `share` of the
    shards; whoever comes last makes it appear.

    Args:
        raw: Raw dataset folder; each file is decoded once, in order.
        out: Folder to make: tokens in 1X's format and the style of `raw`, or latents (see `data.latents`).
        encoder: What is computed.
        share: This process's part; all of it by default.
        on_bad_shard: `skip` leaves out shards that cannot be read and says so in `encoding.json`.
        progress: Called with frames done and frames in all, of this share.

    Returns:
        Whether the folder is whole now; False while other processes still work on it.
    """
    share = share or Share()
    dataset = RawDataset(raw, on_bad_shard=on_bad_shard)
    require_rate(dataset.layout.hz, raw / "metadata.json")
    if dataset.layout.contents == "samples" and isinstance(encoder, LatentEncoder):
        raise InputError(f"{raw}: is a test split, whose samples have no 77 frames; latents are made of recordings")
    identity = {**encoder.describe(), **describe_source(raw, on_bad_shard=on_bad_shard)}
    if on_bad_shard == "raise":
        dataset.check_size(encoder.size)
    try:
        with resumable_folder(out, identity=identity, rank=share.rank) as unfinished:
            work = _Work(dataset, unfinished, on_bad_shard=on_bad_shard)
            mine = [shard for shard in dataset.layout.shards if shard.index % share.num_ranks == share.rank]
            ticks = _Ticks(sum(shard.num_frames for shard in mine), progress)
            for shard in mine:
                work.encode(shard, encoder, ticks)
            if not work.is_whole(encoder):
                return False
            with one_at_a_time(unfinished) as mine_to_finish:
                if mine_to_finish:
                    work.finish(encoder, identity)
    except UsageError:
        # Another rank may have been quicker, and `out` is whole: that is no wrong use.
        if share.num_ranks == 1 or not is_encoding_of(out, raw, encoder=encoder, on_bad_shard=on_bad_shard):
            raise
    return True


def tokens_of(raw: Path, *, cache: Path, encoder: TokenEncoder, on_bad_shard: OnBadShard = "raise") -> Path:
    """The tokenised copy of `raw` under `cache`, made now unless it is there; never another data's or tokenizer's.

    One that is damaged is made again, which is said. Every byte of it is hashed (`verify_encoded`), as every byte of
    `raw` is.
    """
    wanted = {**encoder.describe(), **describe_source(raw, on_bad_shard=on_bad_shard)}
    source = str(wanted["source_fingerprint"])
    out = cache / f"tokens-{source[:12]}-{encoder.weights[:12]}-{encoder.size}"
    _cache(raw, out, encoder=encoder, wanted=wanted, on_bad_shard=on_bad_shard)
    skipped = require_encoding(out, wanted)["skipped"]
    if on_bad_shard == "raise" and skipped:
        raise InputError(next(iter(skipped.values())))
    return out


def latents_of(raw: Path, *, cache: Path, encoder: LatentEncoder, on_bad_shard: OnBadShard = "raise") -> LatentClips:
    """The latents of `raw` under `cache`, made now unless they are there; never another data's or autoencoder's.

    See `tokens_of`.
    """
    wanted = {**encoder.describe(), **describe_source(raw, on_bad_shard=on_bad_shard)}
    source, weights = str(wanted["source_fingerprint"])[:12], encoder.weights[:12]
    stride = f"{encoder.stride}{'-legacy' if encoder.legacy_segment_check else ''}"
    out = cache / f"latents-{source}-{weights}-{encoder.size}-{encoder.frames}-{stride}"
    _cache(raw, out, encoder=encoder, wanted=wanted, on_bad_shard=on_bad_shard)
    clips = LatentClips(out, expected=wanted)
    if on_bad_shard == "raise" and clips.skipped:
        raise InputError(next(iter(clips.skipped.values())))
    return clips


def _cache(
    raw: Path,
    out: Path,
    *,
    encoder: TokenEncoder | LatentEncoder,
    wanted: Mapping[str, object],
    on_bad_shard: OnBadShard,
) -> None:
    """Make `out` unless it is there, is what is wanted and is undamaged.

    One process makes it and others wait, but not for one that has come to a stand: an evaluation that was stopped must
    not hold up a training.
    """
    if out.exists() and _fault(out, encoder, wanted) is None:
        discard_unfinished(out)
        return
    make_folder(out.parent, advice="what is made of the data is kept there; mend that, or use a copy of the run")
    with ExitStack() as stack:
        place = out if _is_sole_maker(stack, out) else out.with_name(f"{out.name}-again")
        if place != out:
            stack.enter_context(locked(place.with_name(f".{place.name}.lock"), waiting="waiting for {pid}, too"))
        if os.path.lexists(out) and _fault(out, encoder, wanted) is None:
            return
        _remove_faulty(out, encoder, wanted)
        _remove_faulty(place, encoder, wanted)
        try:
            if not place.exists():
                encode_folder(raw, place, encoder=encoder, on_bad_shard=on_bad_shard)
            if place != out:
                place.rename(out)
        except (UsageError, OSError):
            # Another process, which went on after all, may have been quicker.
            if _fault(out, encoder, wanted) is not None:
                raise
            discard_unfinished(place)
            if place != out:
                shutil.rmtree(place, ignore_errors=True)


def _is_sole_maker(stack: ExitStack, out: Path) -> bool:
    """Take the lock on making `out` until `stack` closes; False if who has it does not come on."""
    told, written, since = False, -1, time.monotonic()
    while True:
        try:
            stack.enter_context(locked(out.with_name(f".{out.name}.lock"), taken="{pid}"))
            return True
        except UsageError as error:
            if not told:
                print(f"foreframe: waiting for another process ({error}), which is making {out}", file=sys.stderr)
                told = True
        if (now := last_written(out)) != written:
            written, since = now, time.monotonic()
        if time.monotonic() - since > _PATIENCE:
            print(f"foreframe: it has come to a stand; {out} is made here", file=sys.stderr)
            return False
        time.sleep(0.2)


def _remove_faulty(out: Path, encoder: TokenEncoder | LatentEncoder, wanted: Mapping[str, object]) -> None:
    """Remove a cached folder that is damaged or another's, and say so."""
    if not os.path.lexists(out) or (fault := _fault(out, encoder, wanted)) is None:
        return
    what = str(fault).rpartition(";")[0] or str(fault)
    print(f"foreframe: {what}; this cache is made again", file=sys.stderr)
    shutil.rmtree(out) if out.is_dir() and not out.is_symlink() else out.unlink()


def _fault(out: Path, encoder: TokenEncoder | LatentEncoder, wanted: Mapping[str, object]) -> InputError | None:
    """What is wrong with an encoded folder, if anything."""
    try:
        require_encoding(out, wanted)
        verify_encoded(out)
        if isinstance(encoder, LatentEncoder):
            LatentClips(out, expected=wanted)
        else:
            find_layout(out)
    except InputError as error:
        return error
    return None


def is_encoding_of(
    out: Path, raw: Path, *, encoder: TokenEncoder | LatentEncoder, on_bad_shard: OnBadShard = "raise"
) -> bool:
    """Whether `out` holds just that data as that encoder gives it; `InputError` if a file of it was changed."""
    encoding = read_encoding(out) or {}
    expected = json.loads(json.dumps({**encoder.describe(), **describe_source(raw, on_bad_shard=on_bad_shard)}))
    if any(encoding.get(key) != value for key, value in expected.items()):
        return False
    if isinstance(encoder, LatentEncoder):
        LatentClips(out, expected=expected)
    else:
        find_layout(out)
    verify_encoded(out)
    return on_bad_shard == "skip" or not encoding["skipped"]


def check_encoding(root: Path, *, weights: str | None) -> None:
    """Raise `InputError` if the folder says its tokens are another tokenizer's (None: any), or were changed since."""
    encoding = read_encoding(root)
    if encoding is not None and weights is not None and encoding["weights_sha256"] != weights:
        raise InputError(
            f"{root / ENCODING_FILE}: these tokens were made by another tokenizer than track.tokenizer names; encode "
            "the video again, or name the tokenizer that made them"
        )
    verify_encoded(root)


class _Ticks:
    """Counts the frames of a share."""

    def __init__(self, total: int, show: Callable[[int, int], None] | None) -> None:
        self._done, self._total, self._show = 0, total, show

    def add(self, frames: int) -> None:
        self._done += frames
        if self._show is not None:
            self._show(min(self._done, self._total), self._total)


class _Work:
    """One unfinished folder: what is in it, and what is still to do."""

    def __init__(self, dataset: RawDataset, unfinished: Unfinished, *, on_bad_shard: OnBadShard) -> None:
        self.dataset, self.on_bad_shard = dataset, on_bad_shard
        self.root, self.scratch = unfinished.folder, unfinished.scratch
        self.layout = dataset.layout

    def encode(self, shard: Shard, encoder: TokenEncoder | LatentEncoder, ticks: _Ticks) -> None:
        """Make one shard unless it is there."""
        # Processes that count themselves differently must still never write one shard together.
        with locked(self.scratch / f".shard-{shard.index}.lock"):
            if self._is_done(shard, encoder):
                ticks.add(shard.num_frames)
                return
            try:
                check_rows(shard)
                if isinstance(encoder, TokenEncoder):
                    self._tokens(shard, encoder, ticks)
                else:
                    self._latents(shard, encoder, ticks)
            except InputError as error:
                if self.on_bad_shard == "raise":
                    raise
                write_whole(self._mark(shard), str(error).encode())

    def is_whole(self, encoder: TokenEncoder | LatentEncoder) -> bool:
        """Whether every shard of every rank is made or known to be broken."""
        return all(self._is_done(shard, encoder) for shard in self.layout.shards)

    def finish(self, encoder: TokenEncoder | LatentEncoder, identity: Mapping[str, object]) -> None:
        """Write what describes the whole folder; `metadata.json` comes last."""
        broken = {shard.index: self._mark(shard).read_text() for shard in self.layout.shards if self._is_bad(shard)}
        skipped = {**self.layout.skipped, **broken}
        good = [shard for shard in self.layout.shards if shard.index not in broken]
        if not good:
            raise InputError(next(iter(broken.values())))
        facts: dict[str, Any] = {"skipped": {str(index): skipped[index] for index in sorted(skipped)}}
        if isinstance(encoder, LatentEncoder):
            facts["clips"] = {str(shard.index): len(self._clips(shard, encoder)) for shard in good}
        else:
            facts["source_shards"] = [shard.index for shard in good]
            for number, shard in enumerate(good):
                self._write_tokens(number, shard, encoder)
        num_images = sum(shard.num_frames for shard in good)
        metadata = metadata_json(num_shards=len(good), num_images=num_images, hz=self.layout.hz)
        facts["files"] = describe_files(self.root, also={"metadata.json": metadata})
        write_whole(self.root / ENCODING_FILE, sealed({**identity, **facts}))
        write_whole(self.root / "metadata.json", metadata)

    def _mark(self, shard: Shard) -> Path:
        return self.scratch / f".skipped-{shard.index}.partial"

    def _tokens_file(self, shard: Shard) -> Path:
        return self.scratch / f".tokens-{shard.index}.whole.partial"

    def _is_bad(self, shard: Shard) -> bool:
        return self.on_bad_shard == "skip" and self._mark(shard).is_file()

    def _is_done(self, shard: Shard, encoder: TokenEncoder | LatentEncoder) -> bool:
        if self._is_bad(shard):
            return True
        if isinstance(encoder, LatentEncoder):
            return shard_file(self.root, shard.index).is_file()
        return self._tokens_file(shard).is_file()

    # -- tokens ------------------------------------------------------------------------------------------------------

    def _tokens(self, shard: Shard, encoder: TokenEncoder, ticks: _Ticks) -> None:
        """Append blocks, records of fixed size, to a hidden file; a killed process leaves what is done so far."""
        record = 4 * 3 * (encoder.size // CELL) ** 2
        path = self.scratch / f".tokens-{shard.index}.partial"
        with naming(path), path.open("ab") as file:
            done = path.stat().st_size // record
            done -= done % _BLOCKS_AT_ONCE  # the same batches as in one go, so the same bits
            file.truncate(done * record)
            ticks.add(min(done * BLOCK_FRAMES, shard.num_frames))
            for blocks in self._blocks(shard, first=done, size=encoder.size):
                file.write(_encode_tokens(encoder.tokenizer, blocks).astype("<i4").tobytes())
                file.flush()
                ticks.add(min(len(blocks) * BLOCK_FRAMES, shard.num_frames - done * BLOCK_FRAMES))
                done += len(blocks)
            os.fsync(file.fileno())
        path.replace(self._tokens_file(shard))

    def _write_tokens(self, number: int, shard: Shard, encoder: TokenEncoder) -> None:
        """The shard in 1X's format, under its number among those that are whole."""
        side = encoder.size // CELL
        tokens = np.memmap(self._tokens_file(shard), dtype="<i4", mode="r").reshape(-1, 3, side, side)
        states = np.asarray(self.dataset.states(shard.index))
        if shard.num_samples is not None:
            seen = states[:, :TOKEN_SAMPLE_STATES]
            write_token_samples(self.root, number, style=self.layout.style, tokens=tokens, states=seen)
            return
        segments = np.asarray(self.dataset.segments(shard.index))
        write_token_shard(self.root, number, style=self.layout.style, tokens=tokens, states=states, segments=segments)

    def _blocks(self, shard: Shard, *, first: int, size: int) -> Iterator[npt.NDArray[np.uint8]]:
        """Frames (b, 17, H, W, 3) of consecutive blocks from number `first` on; the last one is padded to 17.

        A short block is padded as Cosmos does: first and last frame repeated, half in front and half behind.
        """
        step = BLOCK_FRAMES * _BLOCKS_AT_ONCE
        for start in range(first * BLOCK_FRAMES, shard.num_frames, step):
            frames = self.dataset.frames(shard.index, range(start, min(start + step, shard.num_frames)), size=size)
            missing = -len(frames) % BLOCK_FRAMES
            if missing:
                tail = frames[-(BLOCK_FRAMES - missing) :]
                front = missing // 2
                padded = np.concatenate([tail[:1]] * front + [tail] + [tail[-1:]] * (missing - front))
                frames = np.concatenate([frames[: len(frames) - len(tail)], padded])
            yield frames.reshape(-1, BLOCK_FRAMES, *frames.shape[1:])

    # -- latents -----------------------------------------------------------------------------------------------------

    def _clips(self, shard: Shard, encoder: LatentEncoder) -> tuple[ClipId, ...]:
        segments = {shard.index: self.dataset.segments(shard.index)}
        return clip_ids(segments, stride=encoder.stride, legacy_segment_check=encoder.legacy_segment_check)[:]

    def _latents(self, shard: Shard, encoder: LatentEncoder, ticks: _Ticks) -> None:
        clips = self._clips(shard, encoder)
        shape = encoder.autoencoder.latent_shape(num_frames=len(frame_indices(encoder.frames)), size=encoder.size)
        record = record_type(shape, num_states=CLIP_FRAMES, dtype=encoder.dtype)
        writer = LatentShardWriter(self.root, shard.index, scratch=self.scratch, record=record, multiple=_CLIPS_AT_ONCE)
        try:
            todo = clips[writer.num_written :]
            shown = todo[0].start if todo else shard.num_frames
            ticks.add(shown)
            for batch in self._windows(shard, todo, encoder):
                writer.append(batch, encoder.autoencoder.encode(_on_device(batch, encoder)), dtype=encoder.dtype)
                ticks.add(batch.clips[-1].start - shown)
                shown = batch.clips[-1].start
            ticks.add(shard.num_frames - shown)
            writer.finish()
        finally:
            writer.close()

    def _windows(self, shard: Shard, clips: tuple[ClipId, ...], encoder: LatentEncoder) -> Iterator[Batch]:
        """The clips in batches, with their frames as video and their states."""
        states, segments = self.dataset.states(shard.index), self.dataset.segments(shard.index)
        windows = iterate_windows(
            shard.video,
            [clip.start for clip in clips],
            frame_indices(encoder.frames),
            size=encoder.size,
            index=self.dataset.video_index(shard.index),
        )
        items: list[Batch] = []
        for clip, frames in zip(clips, windows, strict=True):
            rows, valid = state_window(states, segments, clip.start, CLIP_FRAMES)
            items.append(
                Batch(
                    clips=(clip,),
                    video=to_video(torch.from_numpy(frames)[None]),
                    states=torch.from_numpy(rows)[None],
                    states_valid=torch.from_numpy(valid)[None],
                )
            )
            if len(items) == _CLIPS_AT_ONCE or clip == clips[-1]:
                yield collate(items)
                items = []


def _on_device(batch: Batch, encoder: LatentEncoder) -> torch.Tensor:
    assert batch.video is not None
    return batch.video.to(next(encoder.autoencoder.vae.parameters()).device)


@torch.no_grad()
def _encode_tokens(tokenizer: AnyTokenizer, blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    device = next(tokenizer.parameters()).device
    return tokenizer.encode(to_video(torch.from_numpy(blocks)).to(device)).cpu().numpy()
