"""Options that mean the same in every command, defined once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from recontour.recipe import Recipe

DEFAULT = Recipe()

REFINING, READING, RUNNING = "What is found", "How files are read", "How it runs"


class Format(StrEnum):
    """How a result is printed."""

    table = "table"
    json = "json"


class PostProcess(StrEnum):
    """Sets of post-processing rules."""

    default = "default"
    published = "published"
    none = "none"


SlidePath: TypeAlias = Annotated[Path, typer.Argument(metavar="SLIDE", help="Whole-slide image.")]

Method: TypeAlias = Annotated[
    str,
    typer.Option(
        "--method",
        help="Refiner: em, lc_mil, logistic, prototype, deep_knn, pencil, identity; with --encoder "
        "vgg16 also lc_mil_vgg16, deep_knn_vgg16.",
        rich_help_panel=REFINING,
    ),
]
MethodOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--method-option",
        metavar="NAME=VALUE",
        help="Option of the refiner, e.g. bags=500; may be repeated.",
        rich_help_panel=REFINING,
    ),
]
EncoderName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--encoder", help="Encoder: efficientnet_lite0, colour or vgg16.", rich_help_panel=REFINING
    ),
]
Classes: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--class",
        metavar="NAME",
        help="Class to refine; may be repeated. Default: the only one there is.",
        rich_help_panel=REFINING,
    ),
]
ExcludeClasses: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude-class",
        metavar="PATTERN",
        help="Class whose regions are left out; may be repeated. "
        f"Default: {', '.join(DEFAULT.exclude_classes)}.",
        rich_help_panel=REFINING,
    ),
]
Mpp: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--mpp",
        metavar="UM",
        help="µm/px of the full-resolution image, where the file does not say or lies.",
        rich_help_panel=READING,
    ),
]
Origin: TypeAlias = Annotated[
    str,
    typer.Option(
        "--origin",
        help="Where the file's coordinates start: bounds (as QuPath), level0, or auto.",
        rich_help_panel=READING,
    ),
]
Entry: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--entry",
        metavar="NAME",
        help="Which outlines of a .sav file: SLIDE, VARIANT or SLIDE/VARIANT.",
        rich_help_panel=READING,
    ),
]
Reader: TypeAlias = Annotated[
    str,
    typer.Option(
        "--reader",
        metavar="auto|NAME",
        help="Slide reader: jpeg_tiff, openslide, image; auto: the fastest that reads the file.",
        rich_help_panel=READING,
    ),
]
MppEmbed: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--mpp-embed",
        metavar="UM",
        help="µm/px at which the encoder sees the slide. Default: chosen from the slide.",
        rich_help_panel=REFINING,
    ),
]
PatchUm: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--patch-um",
        metavar="UM",
        help="Side of what the encoder sees of a cell, in µm. Default: the cell.",
        rich_help_panel=REFINING,
    ),
]
CellUm: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--cell-um",
        metavar="UM",
        help="Side of a cell in µm. Default: chosen from the slide.",
        rich_help_panel=REFINING,
    ),
]
CellPx: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--cell-px",
        min=1,
        metavar="PX",
        help="Side of a cell in level-0 px, instead of --cell-um.",
        rich_help_panel=REFINING,
    ),
]
PatchPx: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--patch-px",
        min=1,
        metavar="PX",
        help="Side of what the encoder sees in level-0 px, instead of --patch-um.",
        rich_help_panel=REFINING,
    ),
]
TissueDownsample: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--tissue-downsample",
        min=1,
        metavar="N",
        help="Apply the tissue rule to the slide shrunk N times, pixel by pixel (the papers: 256).",
        rich_help_panel=READING,
    ),
]
PresetName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="Settings of a paper: see `recontour presets`. Options given beside it win.",
        rich_help_panel=REFINING,
    ),
]
LabelRule: TypeAlias = Annotated[
    str,
    typer.Option(
        "--label-rule",
        help="How a polygon labels a cell: centre, or published (as the LC-MIL code).",
        rich_help_panel=REFINING,
    ),
]
Tissue: TypeAlias = Annotated[
    str,
    typer.Option(
        "--tissue",
        metavar="RULE|FILE",
        help="Tissue rule (robust, hsv_otsu, rgb, grey_otsu), or a mask or GeoJSON of the tissue.",
        rich_help_panel=READING,
    ),
]
Threshold: TypeAlias = Annotated[
    float,
    typer.Option(
        "--threshold",
        help="Probability from which a cell belongs to a class.",
        rich_help_panel=REFINING,
    ),
]
MinArea: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--min-area-um2",
        metavar="UM2",
        help="Smallest object and hole kept. Default: those with enough evidence.",
        rich_help_panel=REFINING,
    ),
]
Band: TypeAlias = Annotated[
    int,
    typer.Option(
        "--band",
        metavar="N",
        help="Look again at the border with cells 2 or 4 times finer; 1: do not.",
        rich_help_panel=REFINING,
    ),
]
Reviewed: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--reviewed",
        metavar="FILE",
        help="Regions (or brush strokes, lines, points) whose class you are certain of; other "
        "classes than the refined ones mean background.",
        rich_help_panel=REFINING,
    ),
]
ReviewedSample: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--reviewed-sample",
        help="The reviewed regions were chosen without regard to the result: they also calibrate "
        "its confidence.",
        rich_help_panel=REFINING,
    ),
]
Also: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--also",
        metavar="FILE",
        help="Another annotator's outline of the same slide; may be repeated. Cells get the class "
        "that most outlines give them.",
        rich_help_panel=REFINING,
    ),
]
ErrorTarget: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--error-target",
        metavar="SHARE",
        help="List as uncertain what must be left out for no more than this share of the rest to "
        "be wrong, e.g. 0.05.",
        rich_help_panel=REFINING,
    ),
]
Seed: TypeAlias = Annotated[
    int, typer.Option("--seed", min=0, help="The same seed gives the same result.")
]
Device: TypeAlias = Annotated[
    str,
    typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=RUNNING),
]
Threads: TypeAlias = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads. Default: all.", rich_help_panel=RUNNING),
]
Engine: TypeAlias = Annotated[
    str,
    typer.Option(
        "--engine",
        help="What the encoder computes with: eager, compile (torch.compile) or openvino (faster "
        "on most CPUs; pip install 'recontour\\[openvino]').",
        rich_help_panel=RUNNING,
    ),
]
Precision: TypeAlias = Annotated[
    str,
    typer.Option(
        "--precision",
        help="Numbers of the encoder: fp32, bf16, or auto (bf16 where the hardware computes in "
        "it).",
        rich_help_panel=RUNNING,
    ),
]
CacheDir: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        help="Where features are kept. Default: $RECONTOUR_CACHE_DIR, else the user's cache.",
        rich_help_panel=RUNNING,
    ),
]
Overwrite: TypeAlias = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is there.", rich_help_panel=RUNNING)
]
Quiet: TypeAlias = Annotated[
    bool, typer.Option("--quiet", "-q", help="Only warnings and errors.", rich_help_panel=RUNNING)
]
Verbose: TypeAlias = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say more.", rich_help_panel=RUNNING)
]
OutputFormat: TypeAlias = Annotated[
    Format, typer.Option("--format", help="How the result is printed.")
]


def reader_named(given: str) -> str | None:
    """The reader of a recipe: None for `auto`."""
    return None if given == "auto" else given


def excluded(given: list[str] | None) -> tuple[str, ...]:
    """The patterns of classes to leave out: those given, else the default ones."""
    return DEFAULT.exclude_classes if given is None else tuple(given)
