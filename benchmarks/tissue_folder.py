"""Write the eleven regions of real tissue as a data set that `recontour benchmark folder` reads.

    python benchmarks/tissue_folder.py --data ../shared/data --out benchmarks/results/tissue
    recontour benchmark folder --data benchmarks/results/tissue -o benchmarks/results/tissue_runs \
        --methods all --coarse missed,generous,tight,shifted,wobbly --seeds 3 --all

Each region becomes a pyramidal TIFF with the µm/px its README gives, the experts' outline GeoJSON,
and a line of `manifest.csv`. Gleason 3 and 4 are one class, Tumor, and the lung has no other one;
`--classes` keeps all classes apart. `--sites` writes some regions only.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from real_tissue import Case, cases, write_case

from recontour.annotations import write_annotation
from recontour.annotations.raster import outline
from recontour.geometry import polygonal, repair, union
from recontour.types import Annotation, Region

COLUMNS = ("id", "slide", "fine", "mpp", "patient")
CLASSES = {
    "prostate": {0: "Gleason 3", 1: "Gleason 4"},
    "lung": {0: "Tumor", 1: "Stroma", 2: "Normal lung"},
}


def of_classes(data: Path, case: Case, merged: Annotation) -> Annotation:
    """Every class of the mask; `merged` as it is where there is one."""
    if case.group not in CLASSES:
        return merged
    mask = np.asarray(Image.open(data / case.mask))
    tumour = union(region.geometry for region in merged.regions)
    regions = []
    for value, name in CLASSES[case.group].items():
        area = repair(union(outline(mask == value)).simplify(1.0))[0]
        # The tumour's outline is smoothed as a whole, so that its classes fit together.
        within = area.intersection(tumour) if value in case.tumour else area.difference(tumour)
        area = polygonal(within)
        if area.area:
            regions.append(Region(f"{case.name}-{value}", union([area]), name))
    return Annotation(merged.slide_id, tuple(regions), merged.source)


def write_folder(
    data: Path, out: Path, *, classes: bool = False, sites: Sequence[str] = ()
) -> None:
    """Write the regions of some sites, or of all, and their manifest."""
    rows = []
    for case in cases(data):
        if sites and case.group not in sites:
            continue
        slide, truth = write_case(data, case, out)
        slide.with_suffix(".png").unlink()  # the mask that the outline was read from
        if classes:
            truth = of_classes(data, case, truth)
        fine = slide.with_suffix(".fine.geojson")
        write_annotation(truth, fine)
        name = f"{case.group}_{case.name}"
        rows.append((name, slide.name, fine.name, case.mpp, name))
        print(f"{name}: {len(truth.regions)} regions", flush=True)
    with (out / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tissue"))
    parser.add_argument("--classes", action="store_true", help="keep the classes apart")
    parser.add_argument("--sites", nargs="+", default=[], help="some sites only")
    args = parser.parse_args()
    write_folder(args.data, args.out, classes=args.classes, sites=args.sites)


if __name__ == "__main__":
    main()
