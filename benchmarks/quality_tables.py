"""The tables of `default_refiner.py`, from the runs of the benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from quality import severity_of, site_of

from recontour.benchmark.loading import Data, Run
from recontour.benchmark.spec import COARSE, ORACLE
from recontour.benchmark.standing import (
    Key,
    Scores,
    by_slide,
    chosen_on_the_rest,
    macro,
    pairs,
    standing,
)
from recontour.benchmark.statistics import Spread, spread
from recontour.benchmark.tables import MEAN, REFERENCE, Column, Row, Table

ALL = "all"
REFERENCES = (COARSE, ORACLE)
Found = Mapping[str, Scores]
"""Method -> outline -> figure."""


def scores_of(
    runs: Iterable[Run], metric: str = "f1", *, encoder: str, severity: str = ALL
) -> dict[str, dict[Key, float]]:
    """A figure of every method on every valid outline of a severity."""
    found: dict[str, dict[Key, float]] = {}
    for run in runs:
        if not run.valid or run.encoder != encoder:
            continue
        if severity not in (ALL, severity_of(run.outline)):
            continue
        key = Key(run.case, run.outline, run.seed)
        found.setdefault(run.method, {})[key] = run.metrics[metric]
    return found


def prototype_variants(found: Found) -> list[str]:
    """Every variant of the prototype method that was run, best first."""
    names = [name for name in found if name.startswith("prototype")]
    return sorted(names, key=lambda name: -macro(found[name]))


def standing_table(data: Data, encoder: str, severity: str) -> Table:
    """Every method between outline and oracle."""
    found = scores_of(data.runs, encoder=encoder, severity=severity)
    rows = []
    for method in data.methods(encoder):
        if method not in found:
            continue
        s = standing(found[method], found[COARSE], found.get(ORACLE, {}))
        figures = (s.coarse, s.found, s.found - s.coarse, s.better, s.worst, s.median, s.way)
        if method == COARSE:
            figures = (s.coarse, s.found, None, None, None, None, None)
        kind = REFERENCE if method in REFERENCES else "own"
        rows.append(Row((method, s.cases, *figures), kind))
    return Table(
        f"standing_{encoder}_{severity}",
        f"{encoder}, {severity} outlines: F1, mean over the images",
        (
            Column("method"),
            Column("outlines", "whole"),
            Column("coarse", "share"),
            Column("F1", "share"),
            Column("change", "signed"),
            Column("better", "percent"),
            Column("5th percentile", "signed"),
            Column("median", "signed"),
            Column("way to the oracle", "percent"),
        ),
        tuple(rows),
        ("Better, 5th percentile and median are of the single outlines.",),
    )


def pairs_table(data: Data, encoder: str, severity: str, ours: str) -> Table | None:
    """Our method against every other, image by image; None where it was not run."""
    found = scores_of(data.runs, encoder=encoder, severity=severity)
    if ours not in found:
        return None
    best = prototype_variants(found)[:1]
    rows = []
    for method in data.methods(encoder):
        if method == ours or method not in found:
            continue
        p = pairs(found[ours], found[method])
        name = f"{method} (its best variant)" if method in best else method
        kind = REFERENCE if method in REFERENCES else "own"
        rows.append(Row((name, p.difference, f"{p.wins} of {len(p.slides)}", p.cases), kind))
    return Table(
        f"pairs_{encoder}_{severity}",
        f"{encoder}, {severity} outlines: {ours} against each, on the outlines both have",
        (
            Column("against"),
            Column("mean difference of F1", "signed"),
            Column("images better"),
            Column("outlines", "whole"),
        ),
        tuple(rows),
    )


def image_table(data: Data, encoder: str, severity: str) -> Table:
    """F1 of every image, mean over its outlines."""
    found = scores_of(data.runs, encoder=encoder, severity=severity)
    methods = [m for m in data.methods(encoder) if m in found]
    columns = {m: by_slide(found[m]) for m in methods}
    images = list(columns[COARSE])
    rows = [Row((image, *(columns[m].get(image) for m in methods))) for image in images]
    rows.append(Row(("mean of the images", *(macro(found[m]) for m in methods)), MEAN))
    return Table(
        f"images_{encoder}_{severity}",
        f"{encoder}, {severity} outlines: F1 of each image",
        (Column("image"), *(Column(m, "share") for m in methods)),
        tuple(rows),
    )


def kind_table(data: Data, encoder: str, severity: str) -> Table:
    """F1 by kind of outline, mean over the images."""
    found = scores_of(data.runs, encoder=encoder, severity=severity)
    methods = [m for m in data.methods(encoder) if m in found]
    kinds = list(dict.fromkeys(key.outline for key in found[COARSE]))
    rows = [
        Row(
            (
                kind,
                *(macro({k: v for k, v in found[m].items() if k.outline == kind}) for m in methods),
            )
        )
        for kind in kinds
    ]
    return Table(
        f"kinds_{encoder}_{severity}",
        f"{encoder}, {severity} outlines: F1 by kind of outline",
        (Column("kind"), *(Column(m, "share") for m in methods)),
        tuple(rows),
    )


def rotated_table(
    data: Data, encoder: str, severity: str, families: Mapping[str, Sequence[str]]
) -> Table | None:
    """For each site the option set that was best on all other sites, and what it gets here.

    Parameters
    ----------
    families : name -> labels of the methods among which to choose
    """
    found = scores_of(data.runs, encoder=encoder, severity=severity)
    held = {n: [m for m in labels if m in found] for n, labels in families.items()}
    held = {name: labels for name, labels in held.items() if labels}
    if not held:
        return None
    slides = {key.slide: site_of(key.slide) for key in found[COARSE]}
    chosen = {
        name: chosen_on_the_rest({label: found[label] for label in labels}, slides)
        for name, labels in held.items()
    }
    counts = {site: list(slides.values()).count(site) for site in dict.fromkeys(slides.values())}
    rows = []
    totals = dict.fromkeys([COARSE, *held, ORACLE], 0.0)
    for site, count in counts.items():

        def here(method: str, site: str = site) -> float:
            return macro({k: v for k, v in found[method].items() if slides[k.slide] == site})

        values = {
            COARSE: here(COARSE),
            **{name: chosen[name][site][1] for name in held},
            ORACLE: here(ORACLE),
        }
        for name, value in values.items():
            totals[name] += value * count
        named = [
            f"{values[name]:.3f} ({chosen[name][site][0]})"
            if len(held[name]) > 1
            else f"{values[name]:.3f}"
            for name in held
        ]
        rows.append(Row((site, count, values[COARSE], *named, values[ORACLE])))
    n = sum(counts.values())
    means = {name: total / n for name, total in totals.items()}
    rows.append(
        Row(
            (
                "mean of the images",
                n,
                means[COARSE],
                *(f"{means[name]:.3f}" for name in held),
                means[ORACLE],
            ),
            MEAN,
        )
    )
    alone = [name for name, labels in held.items() if len(labels) == 1]
    notes = []
    if alone:
        notes.append(
            f"Of {', '.join(alone)} there is one option set: nothing was chosen for a site, and "
            "the row says what it gets there. That the set was not made while looking at these "
            "regions this table cannot show."
        )
    return Table(
        f"rotated_{encoder}_{severity}",
        f"{encoder}, {severity} outlines: each site with the options that were best on the others",
        (
            Column("site held out"),
            Column("images", "whole"),
            Column(COARSE, "share"),
            *(Column(name) for name in held),
            Column(ORACLE, "share"),
        ),
        tuple(rows),
        tuple(notes),
    )


def class_table(data: Data, encoder: str, site: str) -> Table | None:
    """F1 of each class of a site, mean over its images; None where there is one class only."""
    runs = [r for r in data.runs if r.encoder == encoder and site_of(r.case) == site]
    names = list(dict.fromkeys(name for run in runs for name in run.per_class))
    if len(names) < 2:
        return None
    rows = []
    part = replace(data, runs=tuple(runs))
    for method in part.methods(encoder):
        own = [run for run in runs if run.method == method]
        figures: list[Spread | float] = []
        for name in names:
            scores = {
                Key(r.case, r.outline, r.seed): r.per_class[name]["f1"]
                for r in own
                if name in r.per_class
            }
            figures.append(spread(list(by_slide(scores).values())))
        for metric in ("f1", "accuracy", "f1_foreground"):
            every = {Key(r.case, r.outline, r.seed): r.metrics[metric] for r in own}
            figures.append(macro(every))
        kind = REFERENCE if method in REFERENCES else "own"
        rows.append(Row((method, len({r.case for r in own}), *figures), kind))
    return Table(
        f"classes_{site}_{encoder}",
        f"{encoder}, {site}: F1 of each class, mean ± s.d. over the images",
        (
            Column("method"),
            Column("images", "whole"),
            *(Column(name, "spread") for name in names),
            Column("mean of the classes", "share"),
            Column("accuracy", "share"),
            Column("any class", "share"),
        ),
        tuple(rows),
        (
            "Every outline counts, valid for each class or not; a class counts on the images that "
            "have it.",
        ),
    )
