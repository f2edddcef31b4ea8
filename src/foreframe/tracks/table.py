"""The table of tracks: which class carries out which configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foreframe.tracks.compression import CompressionTrack
from foreframe.tracks.config import CompressionConfig, ReconstructionConfig, SamplingConfig
from foreframe.tracks.reconstruction import ReconstructionTrack
from foreframe.tracks.sampling import SamplingTrack

if TYPE_CHECKING:
    from foreframe.tracks.track import Track

TrackConfig = CompressionConfig | ReconstructionConfig | SamplingConfig
TRACKS: dict[type[Any], type[Any]] = {
    CompressionConfig: CompressionTrack,
    ReconstructionConfig: ReconstructionTrack,
    SamplingConfig: SamplingTrack,
}


def build_track(config: TrackConfig) -> Track[Any]:
    """The track that the configuration describes."""
    return TRACKS[type(config)](config)
