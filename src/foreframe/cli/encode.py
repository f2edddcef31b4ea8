"""`foreframe data encode`: raw folders into tokens or latents."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from foreframe.cli.options import GivenPermissions, from_environment, parse
from foreframe.cli.output import progress_bar
from foreframe.errors import InputError, UsageError
from foreframe.permissions import NONE


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """Turn raw folders into tokens or latents. Stopped or killed, the same command goes on.

    Under `torchrun` the shards are shared over the processes.
    """

    folder: Positional[Path]
    """Raw dataset folder, or a folder that holds `train`, `val` or `test`."""
    out: Path
    """Folder to make; split folders keep their names in it."""
    encoder: str = "tokenizer_tiny"
    """For tokens a shipped tokenizer, the run folder of one, or a folder with NVIDIA's Cosmos files `encoder.jit` and
    `decoder.jit`; for latents a folder with a Wan autoencoder in diffusers' form."""
    size: int | None = None
    """Side of the frames in pixels when encoded, the video's own divided by a whole number; default: 128 for tokens
    (Cosmos: 256), the video's own for latents."""
    frames: Literal["stride4_dup_last", "uniform21", "stride2", "all"] = "stride4_dup_last"
    """Latents: which frames of a 77-frame clip are encoded."""
    stride: int = 8
    """Latents: frames from the start of one clip to the next."""
    legacy_segment_check: bool = False
    """Latents: list clips as the entry's loader did, without the one that ends just where its recording does."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Latents: precision on disk."""
    on_bad_shard: Literal["raise", "skip"] = "raise"
    """A broken shard: an error, or left out, named, and recorded in `encoding.json`."""
    permissions: GivenPermissions = NONE


def encode_command(arguments: list[str]) -> int:
    """Turn raw folders into tokens or latents; under `torchrun` this process does its share."""
    options = parse(EncodeOptions, arguments, prog="foreframe data encode")
    from foreframe.data.encoding import read_encoding
    from foreframe.data.folders import remove_leftovers
    from foreframe.data.layout import find_split
    from foreframe.data.places import without_split
    from foreframe.encode import Share, encode_folder, is_encoding_of
    from foreframe.runs import tell_skipped

    splits: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")
    found = {root for split in splits if (root := find_split(options.folder, split, kind="raw"))}
    if not found:
        said = "holds no dataset folder, nor any named train, val or test; name one in 1X's v2.0 layout"
        raise InputError(without_split(options.folder, said))
    share = Share(rank=from_environment("RANK", 0), num_ranks=from_environment("WORLD_SIZE", 1))
    if not 0 <= share.rank < share.num_ranks:
        raise UsageError(f"RANK {share.rank} is not below WORLD_SIZE {share.num_ranks}; start it with torchrun")
    for root in sorted(found):
        encoder = _encoder(options, root)
        out = options.out if root == options.folder else options.out / root.name
        if out.exists() and is_encoding_of(out, root, encoder=encoder, on_bad_shard=options.on_bad_shard):
            remove_leftovers(out)
            print(f"{out}: is made already")
            continue
        with progress_bar(f"encode {root.name}", "frames") as progress:
            whole = encode_folder(
                root, out, encoder=encoder, share=share, on_bad_shard=options.on_bad_shard, progress=progress
            )
        if whole:
            skipped = (read_encoding(out) or {}).get("skipped", {})
            tell_skipped(root, skipped)
            print(f"wrote {out}")
        else:
            print(f"{out}: share {share.rank} of {share.num_ranks} is done; the folder appears when the others are")
    return 0


def _encoder(options: EncodeOptions, raw: Path) -> Any:
    """What `--encoder` names, ready to use on this process's device."""
    from foreframe.encode import LatentEncoder, TokenEncoder, holds_autoencoder, load_autoencoder, load_tokenizer
    from foreframe.models.cosmos import CosmosTokenizer
    from foreframe.train.processes import local_device

    device = local_device()
    if holds_autoencoder(options.encoder):
        from foreframe.data.raw import RawDataset

        autoencoder, weights = load_autoencoder(options.encoder, permissions=options.permissions)
        size = RawDataset(raw, on_bad_shard=options.on_bad_shard).frame_size if options.size is None else options.size
        return LatentEncoder(
            autoencoder=autoencoder.to(device),
            weights=weights,
            size=size,
            frames=options.frames,
            stride=options.stride,
            legacy_segment_check=options.legacy_segment_check,
            dtype=options.dtype,
        )
    tokenizer, weights = load_tokenizer(options.encoder, permissions=options.permissions)
    if isinstance(tokenizer, CosmosTokenizer):
        tokenizer.require_trusted(encoder=True)
    # NVIDIA's makes 1X's own grids of 32x32 cells.
    size = (256 if isinstance(tokenizer, CosmosTokenizer) else 128) if options.size is None else options.size
    return TokenEncoder(tokenizer=tokenizer.to(device), weights=weights, size=size)
