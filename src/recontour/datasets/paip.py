"""PAIP2019 (liver) and PAIP2020 (bowel): Aperio slides with ImageScope XML."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from recontour.annotations.imagescope import PAIP_VIABLE_TUMOUR, layer_names
from recontour.datasets.base import Case, Listing, Outlines
from recontour.datasets.files import Drawn, drawn_of, files_below, nothing_found, read_drawn
from recontour.errors import AnnotationError

SWAPPED_MASKS = frozenset(("01_01_0107",))
"""Of PAIP2019: participants report that the viable and the whole mask of this slide are swapped."""

_ID_2019 = re.compile(r"(\d{2}_\d{2}_\d{4})(?!\d)", re.IGNORECASE)
_ID_2020 = re.compile(r"((?:training|validation|test)_data_\d+)", re.IGNORECASE)


@dataclass
class _Found:
    """What there is of one slide."""

    slide: Path | None = None
    xml: Path | None = None
    mask: Path | None = None


@dataclass
class _Lists:
    """A listing in the making."""

    cases: list[Case] = field(default_factory=list)
    without_slide: list[Case] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, case: Case, has_slide: bool) -> None:
        if has_slide:
            self.cases.append(case)
        else:
            self.without_slide.append(case)
            self.missing.append(f"{case.id}: no slide {case.slide.name}")

    def done(self) -> Listing:
        return Listing(
            tuple(self.cases),
            tuple(self.missing),
            tuple(self.left_out),
            tuple(self.without_slide),
        )


class Paip2019:
    """Lists the liver slides with an annotation; the truth is the viable tumour."""

    name = "paip2019"

    def list_cases(self, root: Path, *, coarse: Path | None = None) -> Listing:
        """List the annotated slides; see `recontour.datasets.DataSet.list_cases`.

        The truth is layer 2 (viable tumour, less its negative regions) of the XML, or the mask
        `ID_viable.tif` where there is no XML.
        """
        drawn = read_drawn(coarse)
        found = _sort(root, _ID_2019, _is_viable_mask)
        if not found:
            raise nothing_found("PAIP2019", root, "01_01_0083.svs or .xml, in any subfolder")
        lists = _Lists()
        for id, files in found.items():
            classes: tuple[str, ...] = ()
            if files.xml is not None:
                try:
                    layer = layer_names(files.xml).get(PAIP_VIABLE_TUMOUR)
                except AnnotationError as error:
                    lists.missing.append(f"{id}: {error}")
                    continue
                if layer is None:
                    lists.missing.append(
                        f"{id}: {files.xml.name} has no layer {PAIP_VIABLE_TUMOUR}, viable tumour"
                    )
                    continue
                classes = (layer,)
            elif files.mask is not None and id in SWAPPED_MASKS:
                lists.left_out.append(
                    f"{id}: its masks are reported to be swapped; its XML is needed"
                )
                continue
            fine = files.xml or files.mask
            if fine is None:
                _without_truth(root, id, files, lists)
                continue
            lists.add(_case(root, id, files, fine, drawn, classes), files.slide is not None)
        return lists.done()


class Paip2020:
    """Lists the bowel slides with an annotation; the truth is the whole tumour."""

    name = "paip2020"

    def list_cases(self, root: Path, *, coarse: Path | None = None) -> Listing:
        """List the annotated slides; see `recontour.datasets.DataSet.list_cases`.

        The truth is the one layer of the XML, less its negative regions, or the mask
        `ID_l2_annotation_tumor.tif` that the challenge's script makes of it.
        """
        drawn = read_drawn(coarse)
        found = _sort(root, _ID_2020, _is_tumour_mask)
        if not found:
            raise nothing_found("PAIP2020", root, "training_data_01.svs or .xml, in any subfolder")
        lists = _Lists()
        for id, files in found.items():
            fine = files.xml or files.mask
            if fine is None:
                _without_truth(root, id, files, lists)
                continue
            lists.add(_case(root, id, files, fine, drawn, ()), files.slide is not None)
        return lists.done()


def _is_viable_mask(stem: str) -> bool:
    return stem.lower().endswith("_viable")


def _is_tumour_mask(stem: str) -> bool:
    return stem.lower().endswith("annotation_tumor")


def _sort(root: Path, id_in: re.Pattern[str], is_mask: Callable[[str], bool]) -> dict[str, _Found]:
    """The files of each slide, by id, in order of id. Names may go on after the id."""
    found: dict[str, _Found] = {}
    for path in files_below(root):
        suffix = path.suffix.lower()
        name = id_in.match(path.stem)
        if name is None:
            continue
        files = found.setdefault(name[1].lower(), _Found())
        if suffix == ".svs":
            files.slide = files.slide or path
        elif suffix == ".xml":
            files.xml = files.xml or path
        elif suffix in (".tif", ".tiff") and is_mask(path.stem):
            files.mask = files.mask or path
    useful = {id: f for id, f in found.items() if f.slide or f.xml or f.mask}
    return dict(sorted(useful.items()))


def _case(
    root: Path, id: str, files: _Found, fine: Path, drawn: Drawn, classes: tuple[str, ...]
) -> Case:
    slide = files.slide or root / f"{id}.svs"
    return Case(
        id=id,
        slide=slide,
        fine=Outlines(fine),
        coarse=drawn_of(drawn, id, slide.stem, slide.parent.name),
        classes=classes,
        patient=id,  # one slide a patient
        split=_split(root, files.slide or fine),
    )


def _split(root: Path, path: Path) -> str:
    """What the names of the file and its folders say, the nearest first."""
    for part in reversed((root.name, *path.relative_to(root).parts)):
        for word, split in (("training", "train"), ("validation", "validation"), ("test", "test")):
            if re.match(rf"{word}(?![a-z])", part.lower()):
                return split
    return ""


def _without_truth(root: Path, id: str, files: _Found, lists: _Lists) -> None:
    """A slide without annotation: incomplete in the training set, elsewhere as it should be."""
    assert files.slide is not None
    if _split(root, files.slide) == "train":
        lists.missing.append(f"{id}: no annotation {id}.xml")
    else:
        lists.left_out.append(f"{id}: no annotation; the challenge keeps that of its test slides")
