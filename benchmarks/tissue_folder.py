"""Write the eleven regions of real tissue as a data set that `recontour benchmark folder` reads.

    python benchmarks/tissue_folder.py --data ../shared/data --out benchmarks/results/tissue
    recontour benchmark folder --data benchmarks/results/tissue -o benchmarks/results/tissue_runs \
        --methods all --coarse missed,generous,tight,shifted,wobbly --seeds 3 --all

Each region becomes a pyramidal TIFF with the µm/px its README gives, the experts' outline GeoJSON,
and a line of `manifest.csv`. Gleason 3 and 4 are one class, Tumor; `--classes` keeps them apart.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image
from real_tissue import Case, cases, write_case

from recontour.annotations import write_annotation
from recontour.annotations.raster import outline
from recontour.geometry import union
from recontour.types import Annotation, Region

COLUMNS = ("id", "slide", "fine", "mpp", "patient")
GLEASON = {0: "Gleason 3", 1: "Gleason 4"}


def of_classes(data: Path, case: Case, merged: Annotation) -> Annotation:
    """The tumour of `merged`, cut into the classes of the mask; as it is where there is one."""
    if case.group != "prostate":
        return merged
    mask = np.asarray(Image.open(data / case.mask))
    tumour = union(region.geometry for region in merged.regions)
    regions = []
    for value, name in GLEASON.items():
        area = union(outline(mask == value)).intersection(tumour)
        if area.area:
            regions.append(Region(f"{case.name}-{value}", union([area]), name))
    return Annotation(merged.slide_id, tuple(regions), merged.source)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tissue"))
    parser.add_argument("--classes", action="store_true", help="keep Gleason 3 and 4 apart")
    args = parser.parse_args()
    rows = []
    for case in cases(args.data):
        slide, truth = write_case(args.data, case, args.out)
        slide.with_suffix(".png").unlink()  # the mask that the outline was read from
        if args.classes:
            truth = of_classes(args.data, case, truth)
        fine = slide.with_suffix(".fine.geojson")
        write_annotation(truth, fine)
        name = f"{case.group}_{case.name}"
        rows.append((name, slide.name, fine.name, case.mpp, name))
        print(f"{name}: {len(truth.regions)} regions", flush=True)
    with (args.out / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
