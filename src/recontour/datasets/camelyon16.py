"""CAMELYON16: lymph nodes with breast-cancer metastases, outlined in ASAP XML.

Two layouts are known, and files are found by their names in either: the challenge's own
(`training/tumor`, `training/lesion_annotations`, `testing/images`, `testing/lesion_annotations`)
and that of the public bucket (`images`, `annotations`, `masks`).
"""

from __future__ import annotations

import re
from pathlib import Path

from recontour.datasets.base import Case, Listing, Outlines
from recontour.datasets.files import drawn_of, files_below, nothing_found, read_drawn

NOT_EXHAUSTIVE = frozenset(
    (
        *(f"tumor_{n:03d}" for n in (15, 18, 20, 29, 33, 44, 46, 51, 54, 55, 79, 92, 95)),
        *(f"tumor_{n:03d}" for n in (10, 25, 34, 56, 67, 85, 110)),
        "test_114",
    )
)
"""Not exhaustively annotated. The first line was known from the start, the second was found with a
pathologist (both in arXiv 1703.02442); test_114 is named by the challenge's own notes."""

DUPLICATES = frozenset(("test_049",))
"""Taken out by the challenge; some mirrors still have it."""

_NAME = re.compile(r"(normal|tumor|test)_(\d{3})(_mask)?", re.IGNORECASE)
_SPLITS = {"tumor": "train", "test": "test"}


class Camelyon16:
    """Lists the slides with a metastasis."""

    name = "camelyon16"

    def list_cases(self, root: Path, *, coarse: Path | None = None) -> Listing:
        """List the annotated slides; see `recontour.datasets.DataSet.list_cases`.

        The truth is the XML, or the mask where there is none. Slides that are not exhaustively
        annotated are left out. Slides without annotation are normal ones in the test set, and
        incomplete in the training set.
        """
        drawn = read_drawn(coarse)
        slides, xmls, masks, archives = _sort(root)
        if not slides and not xmls:
            raise nothing_found(
                "CAMELYON16", root, "tumor_001.tif, test_001.tif or tumor_001.xml, in any subfolder"
            )
        cases, without_slide, missing, left_out = [], [], [], []
        normal = sum(id.startswith("normal") for id in slides)
        unlabelled = 0
        for id in sorted(slides.keys() | xmls.keys()):
            kind = id.partition("_")[0]
            fine = xmls.get(id) or masks.get(id)
            if id in NOT_EXHAUSTIVE:
                left_out.append(f"{id}: not exhaustively annotated")
            elif id in DUPLICATES:
                left_out.append(f"{id}: a duplicate of another slide, withdrawn by the challenge")
            elif kind == "normal":
                continue
            elif fine is None and kind == "test":
                unlabelled += 1
            elif fine is None:
                missing.append(f"{id}: no annotation {id}.xml")
            else:
                case = Case(
                    id=id,
                    slide=slides.get(id, root / f"{id}.tif"),
                    fine=Outlines(fine),
                    coarse=drawn_of(drawn, id),
                    split=_SPLITS[kind],
                )
                if id in slides:
                    cases.append(case)
                else:
                    without_slide.append(case)
                    missing.append(f"{id}: no slide {id}.tif")
        if normal:
            left_out.append(f"{normal} normal slides: no lesion")
        if unlabelled:
            left_out.append(f"{unlabelled} test slides without annotation: normal, or incomplete")
        if not xmls:
            missing += [
                f"{path.name} is not unpacked: no annotation was found" for path in archives
            ]
        return Listing(tuple(cases), tuple(missing), tuple(left_out), tuple(without_slide))


def _sort(
    root: Path,
) -> tuple[dict[str, Path], dict[str, Path], dict[str, Path], list[Path]]:
    """Slides, XML and masks by id, and archives of annotations."""
    slides: dict[str, Path] = {}
    xmls: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    archives = []
    for path in files_below(root):
        suffix = path.suffix.lower()
        if suffix == ".zip" and "annotation" in path.stem.lower():
            archives.append(path)
        name = _NAME.fullmatch(path.stem)
        if name is None or suffix not in (".tif", ".tiff", ".xml"):
            continue
        id = f"{name[1]}_{name[2]}".lower()
        kind = xmls if suffix == ".xml" else masks if name[3] else slides
        kind.setdefault(id, path)
    return slides, xmls, masks, archives
