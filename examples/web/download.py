"""Download onnxruntime-web once, for the page beside this script: `python examples/web/download.py`.

Puts the three files that the page needs (15 MB) into `runtime/`; afterward the page works offline. Python's standard
library is enough.
"""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import tarfile
import urllib.request
from pathlib import Path

VERSION = "1.30.0"
ADDRESS = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
TARGET = Path(__file__).resolve().parent / "runtime"


def main() -> None:
    if all((TARGET / name).is_file() for name in FILES):
        print(f"onnxruntime-web is in {TARGET} already")
        return
    print(f"downloading {ADDRESS} (33 MB)")
    try:
        with urllib.request.urlopen(ADDRESS, timeout=60) as answer:
            content = answer.read()
    except OSError as error:
        sys.exit(f"error: {ADDRESS} cannot be read ({error}); download it elsewhere and unpack dist/ into {TARGET}")
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != SHA512:
        sys.exit(f"error: {ADDRESS} is not the file that was published; run this again")
    TARGET.mkdir(exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for name in FILES:
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None
            (TARGET / name).write_bytes(member.read())
    print(f"{', '.join(FILES)} are in {TARGET}")


if __name__ == "__main__":
    main()
