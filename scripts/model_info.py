"""Parameters, multiply-accumulates and stride: `python scripts/model_info.py [NAME ...] [--resolution H W]`.

Without names: every published network. A name may be any timm backbone. Nothing is downloaded or computed, so the table
takes seconds.
"""

from __future__ import annotations

import argparse

from centernet.architectures import ARCHITECTURES
from centernet.command import imports, run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(ARCHITECTURES), help="networks (default: all published ones)")
    parser.add_argument("--neck", help="deconv or dla_up, for timm backbones (default: the network's own)")
    parser.add_argument("--classes", type=int, default=80, help="number of classes (default: 80)")
    parser.add_argument(
        "--resolution",
        type=int,
        nargs="+",
        action="append",
        metavar="H [W]",
        help="input size in pixels, may be repeated (default: 512)",
    )
    args = parser.parse_args()
    sizes = [(given[0], given[-1]) for given in args.resolution or [[512]]]
    rows = [describe(name, args.neck, args.classes, sizes) for name in args.names]
    titles = ["network", "parameters", *(f"GMACs {h}x{w}" for h, w in sizes), "stride", "divisor", "stacks"]
    widths = [max(len(row[column]) for row in [titles, *rows]) for column in range(len(titles))]
    for row in [titles, *rows]:
        first, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join([row[0].ljust(len(first)), *rest]))
    print(
        f"\n{args.classes} classes; heads: heatmap, size, offset (HarDNet: heatmap, size with offset).\nGMACs: "
        "convolutions only, a multiply-accumulate counts 1; -: the size is not a multiple of the divisor."
    )


def describe(name: str, neck: str | None, classes: int, sizes: list[tuple[int, int]]) -> list[str]:
    """The row of one network."""
    with imports():
        from centernet.models.originals import published_task
        from centernet.models.summary import build_counted, count_macs, count_parameters
        from centernet.tasks import build_task
    heads = build_task(published_task(name), classes).heads
    network = build_counted({"name": name, "neck": neck}, heads)
    fits = [all(side % network.divisor == 0 for side in size) for size in sizes]
    return [
        name,
        f"{count_parameters(network) / 1e6:.2f} M",
        *(f"{count_macs(network, size) / 1e9:.1f}" if fit else "-" for size, fit in zip(sizes, fits, strict=True)),
        str(network.stride),
        str(network.divisor),
        str(len(network.head.stacks)),
    ]


if __name__ == "__main__":
    run_command(main)
