"""Seal the checkpoints of runs anew that were sealed before manifests named their run and step (version 1).

    python scripts/reseal.py RUN ...

Every file is compared with the old manifest first; only `config.json`, which gets the run's name, and `manifest.json`
are written. Nothing that was trained changes. The shipped runs were sealed by it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from foreframe.config import CONFIG_FILE, load_config, run_name
from foreframe.files import sha256_file
from foreframe.manifest import MANIFEST_FILE, seal, verify
from foreframe.models.weights import checkpoint_folders, weights_hash


def reseal(run: Path) -> None:
    """Compare, then seal, every checkpoint of a run."""
    folders = checkpoint_folders(run)
    for folder in folders:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        if manifest["version"] != 1:
            sys.exit(f"{folder}: is sealed anew already")
        damaged = [name for name, entry in manifest["files"].items() if sha256_file(folder / name) != entry["sha256"]]
        if damaged:
            sys.exit(f"{folder / damaged[0]}: is not what its manifest says; nothing was changed")
    path = run / CONFIG_FILE
    content = {**json.loads(path.read_text()), "run": run_name(load_config(run), weights_hash(folders[-1]))}
    path.write_text(json.dumps(content, indent=1) + "\n")
    for folder in folders:
        seal(folder)
        verify(folder)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        reseal(Path(name))
