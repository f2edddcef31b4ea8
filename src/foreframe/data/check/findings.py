"""What `data check` can find, and the list that its parts write to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from foreframe.errors import require

KINDS: dict[str, str] = {
    "not-a-dataset": "the folder holds nothing of a 1X v2.0 data set",
    "unreadable": "a file or folder cannot be read",
    "not-a-file": "a folder, pipe, NumPy file or the like stands where a plain file should",
    "file-missing": "a shard has some of its files but not this one",
    "file-empty": "a file of zero bytes",
    "file-extra": "a file or folder that is not part of the layout",
    "file-duplicated": "two shards have the very same video or token file",
    "git-lfs-pointer": "a Git LFS pointer in place of the file that it stands for",
    "shard-numbers": "shards that are not numbered from 0 on",
    "shard-missing": "metadata.json counts a shard that has no file, or the numbers have a gap",
    "shard-extra": "files of a shard that metadata.json does not count",
    "folder-ambiguous": "raw and tokenised data, or two folders for the same thing, in one place",
    "metadata-invalid": "a JSON file that cannot be read, or a value of the wrong type or range",
    "metadata-mismatch": "metadata that disagrees with the files or with itself",
    "states-size": "states whose bytes are not 25 float32 for each frame",
    "states-channels": "states with another number of channels than EVE's 25: another robot's",
    "states-dtype": "states of another number type, by size: float64 or float16",
    "states-not-finite": "NaN or infinity among the states",
    "states-units": "states outside what radians, closures 0 to 1, m/s and rad/s allow",
    "states-constant": "a channel that never changes",
    "states-identical": "two channels with the same values throughout",
    "states-duplicated": "the same state rows twice, under different pictures",
    "segments-size": "segment ids whose bytes are not one int32 for each frame",
    "segments-dtype": "segment ids of another number type: int64, int16, uint8 or float32",
    "segments-negative": "a segment id below zero",
    "segments-decreasing": "a segment id below the one before it",
    "tokens-size": "tokens whose bytes are not 3 square int32 grids for each 17 frames",
    "tokens-dtype": "tokens of another number type: int64, uint16 or float32",
    "tokens-order": "tokens with their axes in another order (by their values)",
    "tokens-range": "a token below 0 or not below the vocabulary's size",
    "byte-order": "big-endian numbers where little-endian ones are wanted",
    "video-not-mp4": "a video file that is something else",
    "video-truncated": "an mp4 that ends too early",
    "video-container": "an mp4 whose structure is damaged, or that cannot be opened",
    "video-no-stream": "an mp4 without pictures, such as sound only",
    "video-several": "an mp4 that holds more than one film",
    "video-rotated": "an mp4 that asks players to turn or mirror its pictures, which readers of the data do not",
    "video-undecodable": "pictures that cannot be decoded or are damaged",
    "video-timestamps": "pictures that are not evenly spaced in time",
    "video-resolution": "pictures that are not square with an even side, or not of the same size throughout",
    "video-rate": "a picture rate that is not the one metadata.json states, or not the expected one",
    "video-black": "black pictures",
    "video-frozen": "a picture that stands still while the states say that the camera moves",
    "frames-mismatch": "a video that has not as many pictures as there are state rows",
    "clip-duplicated": "the same states and pictures (or tokens) in two places",
    "latents-size": "latents whose bytes are not one record for each clip that encoding.json counts",
    "latents-address": "a clip of latents whose start or recording is negative or not after the clip before",
    "latents-valid": "a states_valid of latents that is neither 0 nor 1",
    "latents-not-finite": "NaN or infinity among the latents",
    "states-unrelated": "states and pictures that are not of the same recordings (statistical)",
    "states-lag": "states that come after or before the pictures they belong to (statistical)",
    "arms-swapped": "the left and the right arm exchanged (statistical)",
    "video-mirrored": "pictures mirrored left to right (statistical)",
    "turning-reversed": "pictures that move against the robot's turning (statistical)",
}
"""Every kind of finding and what it means."""

MOST_OF_A_KIND = 20
"""Findings of one kind that are listed for one file; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault of a data set."""

    kind: str
    """Key of `KINDS`: stable, for machines."""
    file: str
    """Path inside the checked folder, with forward slashes; "." is the folder itself."""
    where: str
    """Row, frame, block, key or byte; empty if it is the whole file."""
    message: str
    """One sentence: what is wrong and what to do."""
    confidence: float | None = None
    """How sure it is, in [0, 1], where it rests on statistics."""


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """What is looked at, and what is expected."""

    decode: bool = True
    """Decode every frame; without it videos are checked by their packets only and motion is not looked at."""
    vocab_size: int = 64000
    """Tokens must be below it (challenge-facts 1.5); `vocab_size` in an `encoding.json` beside them goes before it."""
    hz: float = 30
    """Frames per second that the data should have (challenge-facts 1.1)."""
    motion_minutes: float = 10.0
    """Minutes of each shard's video in which lag and swapped sides are looked for (*assumed* to be enough)."""

    def __post_init__(self) -> None:
        require(self, vocab_size=(1, 2**31 - 1), hz=(0.001, 10_000), motion_minutes=(0, math.inf))


@dataclass
class Report:
    """Findings of one data set, in the order in which they came up."""

    found: list[Finding] = field(default_factory=lambda: list[Finding]())
    counts: dict[tuple[str, str], int] = field(default_factory=lambda: dict[tuple[str, str], int]())

    def add(self, kind: str, file: str, where: str, message: str, *, confidence: float | None = None) -> None:
        """Note a finding; past `MOST_OF_A_KIND` for one file they are only counted."""
        assert kind in KINDS, kind
        count = self.counts[kind, file] = self.counts.get((kind, file), 0) + 1
        if count <= MOST_OF_A_KIND:
            self.found.append(Finding(kind=kind, file=file, where=where, message=message, confidence=confidence))

    def findings(self, prefix: str = "") -> list[Finding]:
        """All of them, with `prefix` before the files' names and a line for what was only counted."""
        more = [
            Finding(
                kind=kind,
                file=file,
                where=f"{count - MOST_OF_A_KIND} more places",
                message=f"the same in {count - MOST_OF_A_KIND} more places that are not listed; mend these and check "
                "again",
            )
            for (kind, file), count in self.counts.items()
            if count > MOST_OF_A_KIND
        ]
        if not prefix:
            return self.found + more
        return [
            Finding(
                kind=one.kind,
                file=prefix if one.file == "." else f"{prefix}/{one.file}",
                where=one.where,
                message=one.message,
                confidence=one.confidence,
            )
            for one in self.found + more
        ]
