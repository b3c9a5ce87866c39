"""Run notebooks from top to bottom and keep their outputs: `python scripts/run_notebooks.py notebooks/*.ipynb`."""

from __future__ import annotations

import argparse
from pathlib import Path

from centernet.command import run_command
from centernet.errors import InputError
from centernet.folders import require_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", type=Path, nargs="+", metavar="NOTEBOOK")
    paths = parser.parse_args().notebooks
    for path in paths:
        require_file(path, f"{path} is not a file; give notebooks (.ipynb)")
    for path in paths:
        print(path, flush=True)
        run(path)


def run(path: Path) -> None:
    """Run a notebook in its folder and write it back. A cell that fails is an ``InputError``; the file then stays."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    content = nbformat.read(path, as_version=4)
    # Without times, so that the same outputs are the same file.
    client = NotebookClient(content, resources={"metadata": {"path": str(path.parent)}}, record_timing=False)
    try:
        client.execute()
    except CellExecutionError as error:
        raise InputError(f"{path} stopped at a cell: {error.ename}: {error.evalue}") from None
    nbformat.write(content, path)


if __name__ == "__main__":
    run_command(main)
