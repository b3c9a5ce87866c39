"""Download onnxruntime-web once, for the page beside this script: `python examples/web/download.py [PACKAGE.tgz]`.

Puts the three files that the page needs (15 MB) into `runtime/`; afterward the page works offline. The package comes by
`npm pack`, or is one that you have downloaded. Python's standard library is enough otherwise.
"""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "onnxruntime-web@1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
TARGET = Path(__file__).resolve().parent / "runtime"


def main() -> None:
    if all((TARGET / name).is_file() for name in FILES):
        print(f"onnxruntime-web is in {TARGET} already")
        return
    content = Path(sys.argv[1]).read_bytes() if sys.argv[1:] and Path(sys.argv[1]).is_file() else packed()
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != SHA512:
        sys.exit(f"error: this is not {PACKAGE} as it was published; download it again")
    TARGET.mkdir(exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for name in FILES:
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None
            (TARGET / name).write_bytes(member.read())
    print(f"{', '.join(FILES)} are in {TARGET}")


def packed() -> bytes:
    """The package, by npm."""
    if sys.argv[1:]:
        sys.exit(f"error: {sys.argv[1]} does not exist; give the package {PACKAGE}, or nothing to get it by npm")
    if (npm := shutil.which("npm")) is None:
        sys.exit(
            f"error: npm is not installed; install Node.js, or download {PACKAGE} elsewhere and give the .tgz file"
        )
    print(f"npm pack {PACKAGE} (33 MB)")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=folder, capture_output=True, text=True)
        found = list(Path(folder).glob("*.tgz"))
        if done.returncode or not found:
            reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
            sys.exit(f"error: npm pack {PACKAGE} failed ({reason[0]}); check the network, or give the .tgz file")
        return found[0].read_bytes()


if __name__ == "__main__":
    main()
