"""What a command may do because whoever started it said so, whatever a file asks for: download, run a program."""

from __future__ import annotations

import re
from dataclasses import dataclass

from foreframe.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Permissions:
    """Given on the command line, each time; never read from a file, which travels and could vouch for itself."""

    download: bool = False
    """Fetch what a configuration names on the Hugging Face hub. Without it nothing reaches the network."""
    trust_sha256: tuple[str, ...] = ()
    """SHA-256 of a TorchScript file that may be run, as `sha256sum` prints it; repeat the option for several."""

    def __post_init__(self) -> None:
        for digest in self.trust_sha256:
            if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
                raise UsageError(f"--trust-sha256 {digest[:80]}: is no SHA-256, which has 64 hexadecimal digits")

    def trusts(self, sha256: str) -> bool:
        """Whether a program with this hash may be run."""
        return sha256.lower() in {digest.lower() for digest in self.trust_sha256}


NONE = Permissions()
"""Neither network nor any program that is not known here."""
