"""The table of tracks: which class carries out which configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foreframe.permissions import NONE, Permissions
from foreframe.tracks.compression import CompressionTrack
from foreframe.tracks.config import CompressionConfig, ReconstructionConfig, SamplingConfig
from foreframe.tracks.reconstruction import ReconstructionTrack
from foreframe.tracks.sampling import SamplingTrack

if TYPE_CHECKING:
    from foreframe.tracks.track import Track

TrackConfig = CompressionConfig | ReconstructionConfig | SamplingConfig


def build_track(config: TrackConfig, *, permissions: Permissions = NONE) -> Track[Any]:
    """The track that the configuration describes, with what may be fetched and run for it."""
    match config:
        case CompressionConfig():
            return CompressionTrack(config, permissions=permissions)
        case ReconstructionConfig():
            return ReconstructionTrack(config)
        case SamplingConfig():
            return SamplingTrack(config, permissions=permissions)
