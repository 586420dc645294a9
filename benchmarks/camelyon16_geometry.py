"""Every coarse outline of CAMELYON16 beside its fine one: geometry only, 256-px cells.

    python benchmarks/camelyon16_geometry.py ../shared/data/camelyon16 [--json FILE]

Wants, for each slide, NAME.fine.geojson.gz and NAME.coarse_simulated, .coarse_drawn_1 and
.coarse_drawn_2 beside it; regions of the class Region* are cut out of the truth. There are no
pixels, so every cell of the outlines' bounding box and ten cells around it counts, tissue or not:
accuracy, TNR, NPV and with it "valid" hang on that. The last table makes the published simulation
anew from the fine outlines and compares it with the released one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from recontour.annotations import read_annotation
from recontour.evaluation import Evaluation, aggregate, evaluate
from recontour.files import write_text
from recontour.geometry import union
from recontour.metrics import polygon_iou
from recontour.simulation import simulate_coarse
from recontour.types import Annotation, Geometry

MPP = 0.243
CELL_PX = 256
KINDS = ("coarse_simulated", "coarse_drawn_1", "coarse_drawn_2")
METRICS = ("f1", "iou", "ppv", "tpr", "polygon_iou", "boundary_mean_um")


def read(folder: Path, slide: str, what: str) -> Annotation:
    return read_annotation(folder / f"{slide}.{what}.geojson.gz")


def compare(fine: Annotation, coarse: Annotation, rule: str) -> Evaluation:
    # Distances do not depend on the rule; once is enough.
    mpp = MPP if rule == "centre" else None
    return evaluate(fine, coarse, mpp=mpp, cell_px=CELL_PX, label_rule=rule, subtract=["Region*"])


def outline(annotation: Annotation) -> Geometry:
    return union([region.geometry for region in annotation.regions])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, help="write all figures, unrounded")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    slides = sorted(p.name.split(".")[0] for p in folder.glob("*.fine.geojson.gz"))
    if not slides:
        parser.error(f"{folder} holds no *.fine.geojson.gz")

    fine = {slide: read(folder, slide, "fine") for slide in slides}
    results: dict[str, dict[str, list[Evaluation]]] = {"centre": {}, "published": {}}
    print("label rule centre, but for the column F1 published; distances in µm")
    head = f"{'':<12}{'outline':<18}" + "".join(f"{m.split('_um')[0][:14]:>15}" for m in METRICS)
    print(head + f"{'F1 published':>15}  valid")
    for slide in slides:
        for kind in KINDS:
            coarse = read(folder, slide, kind)
            for rule, found in results.items():
                found.setdefault(kind, []).append(compare(fine[slide], coarse, rule))
            centre, published = (found[kind][-1] for found in results.values())
            figures = centre.prediction.overall
            row = f"{slide:<12}{kind:<18}" + "".join(f"{figures[m]:>15.3f}" for m in METRICS)
            row += f"{published.prediction.overall['f1']:>15.3f}"
            print(row + f"  {'yes' if centre.prediction.valid else 'no'}", flush=True)
    print("\nmean ± s.d. over slides (label rule: mean F1, IoU; micro F1; valid)")
    summary = {
        rule: {kind: aggregate(found) for kind, found in by_kind.items()}
        for rule, by_kind in results.items()
    }
    for rule, by_kind in summary.items():
        for kind, data in by_kind.items():
            mean = data["all"]["prediction"]["mean"]
            micro = data["all"]["prediction"]["micro"]["f1"]
            f1, iou = mean["f1"], mean["iou"]
            valid = sum(e.prediction.valid for e in results[rule][kind])
            print(
                f"{rule:<12}{kind:<18}F1 {f1['mean']:.3f} ± {f1['sd']:.3f}   "
                f"IoU {iou['mean']:.3f} ± {iou['sd']:.3f}   micro F1 {micro:.3f}   "
                f"valid {valid} of {data['slides']}"
            )

    print("\npublished simulation made anew, polygon IoU with the released outline")
    again = {}
    for slide in slides:
        made = simulate_coarse(fine[slide], kind="published", mpp=MPP)
        released = read(folder, slide, "coarse_simulated")
        again[slide] = polygon_iou(outline(released), outline(made))
        same = outline(made).normalize().equals_exact(outline(released).normalize(), 0.0)
        print(f"{slide:<12}{again[slide]:.4f}{'  every vertex the same' if same else ''}")
    print(f"{'mean':<12}{sum(again.values()) / len(again):.4f}")
    if arguments.json:
        data = {"summary": summary, "published_again_iou": again}
        write_text(arguments.json, json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
