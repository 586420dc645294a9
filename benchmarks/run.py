"""Every speed and memory target, measured beside what one would do otherwise.

    python benchmarks/run.py [--only R1 R5 …] [--out FOLDER] [--rounds N]

Within 20 minutes on two cores, with the core install alone and no data of anybody's: slides and
features are made up. What is compared runs in turn, round by round, in one process; a ratio is the
median of the rounds' ratios, with the lowest and the highest. On a machine that is busy with other
things the CPU-seconds, printed too where they say something, hold better than the seconds.
Originals that take hours are extrapolated from a few steps; the line says so.

Writes results.json, table.md and targets.png to FOLDER (default: benchmarks/results/run). With
--only, the other lines of a results.json that is there stay as they were.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from timing import Ratio, interleaved, ratio

ROUNDS = 3


@dataclass(frozen=True)
class Line:
    """One target and what was measured.

    `share` is the figure over its target (the other way round where less is better): 1 and more
    is met. None where a target does not apply to this machine.
    """

    id: str
    what: str
    target: str
    figure: str
    share: float | None
    note: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> str:
        return "–" if self.share is None else "met" if self.share >= 1 else "NOT met"


def at_least(id: str, what: str, found: Ratio, target: float, note: str = "", **data: Any) -> Line:
    """A line whose ratio is to be at least `target`."""
    return Line(
        id, what, f"≥ {target:g}x", str(found), found.median / target, note,
        {"ratio": found._asdict(), "target": target, **data},
    )  # fmt: skip


def at_most(
    id: str, what: str, found: float, target: float, unit: str, note: str = "", **data: Any
) -> Line:
    """A line whose figure is to be at most `target`."""
    return Line(
        id, what, f"≤ {target:g} {unit}", f"{found:.3g} {unit}", target / found, note,
        {"figure": found, "target": target, "unit": unit, **data},
    )  # fmt: skip


READING = {
    "R1 of the limit": "reading aligned tiles, two threads, of the decode limit's speed",
    "R1 openslide": "reading aligned tiles ÷ openslide + PIL, two threads",
    "R1 DataLoader": "reading aligned tiles ÷ a DataLoader with two workers",
    "R2 of the limit": "reading misaligned tiles, of the decode limit's speed",
    "R2 openslide": "reading misaligned tiles ÷ openslide + PIL",
    "R3 openslide": "reading 20x from 40x ÷ openslide + PIL, bilinear",
}


def reading(rounds: int) -> Iterator[Line]:
    """The fast reader beside what one would use otherwise."""
    from reading import TARGETS, measure

    found = measure(max(rounds, 5))
    for name, what in READING.items():
        note = f"{name}: {found.cpu[name]} in CPU-seconds"
        yield at_least(
            name[:2], what, found.seconds[name], TARGETS[name], note, cpu=found.cpu[name]._asdict(),
            per_second=found.per_second,
        )  # fmt: skip
    decibel = found.psnr[2]
    yield Line(
        "R3", "the same, PSNR to the exact mean of 2 x 2", "≥ 41 dB", f"{decibel:.1f} dB",
        decibel / 41, data={"psnr": found.psnr},
    )  # fmt: skip


def r4(rounds: int) -> Iterator[Line]:
    """The default encoder against the same network in torch, fp32 and eager."""
    from embed import TORCH, measure_encoder, target

    precision, found = measure_encoder(rounds, 1536)
    slow, fast = found[TORCH], found["eager"]
    bf16 = "with bf16: ≥ 4x" if precision == "fp32" else "without bf16: ≥ 2.5x"
    yield at_least(
        "R4", f"embedding, {precision}, ÷ torch fp32 eager", ratio(slow, fast), target(precision),
        f"{ratio(slow, fast, cpu=True)} in CPU-seconds; {bf16}",
    )  # fmt: skip


def r5(rounds: int) -> Iterator[Line]:
    """Reading and embedding together against embedding what is in memory."""
    from embed import ALONE, measure_reading

    found = measure_reading(rounds, 4096)
    for reader, least in (("jpeg_tiff", 0.9), ("openslide", 0.85)):
        kept = ratio(found[ALONE], found[reader])
        yield at_least(
            "R5", f"read + embed ({reader}), of the rate of embedding alone", kept, least
        )


def r6(rounds: int) -> Iterator[Line]:
    """LC-MIL on VGG16 against the published loop; a rerun on the default encoder."""
    from refine import make_patches
    from vgg16 import measure

    from recontour.refiners import make_refiner

    cells, bags = 10_000, 1000
    found = measure(steps=1, rounds=rounds)
    minutes = {run: found.minutes(run, cells, bags) for run in ("original", "first run", "rerun")}
    patches, _ = make_patches(cells, 424)
    again = interleaved(
        {"rerun": lambda: make_refiner("lc_mil").fit([patches]).predict_proba(patches)}, rounds
    )["rerun"]
    note = (
        f"{cells:,} patches and {bags:,} bags, extrapolated from {rounds} rounds of one step; "
        "random weights"
    )
    for run, target in (("first run", 5.0), ("rerun", 15.0)):
        each = minutes["original"][0] / minutes[run][0]
        cpu = minutes["original"][1] / minutes[run][1]
        yield at_least(
            "R6", f"LC-MIL on VGG16, {run} ÷ the loop as published",
            Ratio(each, min(each, cpu), max(each, cpu)), target, note,
            minutes=dict(minutes), cpu_ratio=cpu,
        )  # fmt: skip
    originals = minutes["original"][0] * 60
    yield at_least(
        "R6", "LC-MIL again on the default encoder's features ÷ that loop",
        Ratio(*(originals / s for s in (again.median, max(again.seconds), min(again.seconds)))),
        1000.0, note, seconds=list(again.seconds),
    )  # fmt: skip


def r7(rounds: int) -> Iterator[Line]:
    """Exact neighbours against a matrix product of all pairs."""
    from methods import measure_knn

    found = measure_knn(10_000, 424, rounds)
    share = found["ratios"]["one slide, of the limit"]
    yield Line(
        "R7", "exact neighbours, 10,000 × 424, of the speed of the matrix product",
        "≥ 0.9", f"{share:.2f}", share / 0.9,
        "half of the products are enough within one slide; CPU-seconds; "
        f"{found['ratios']['one slide, times scikit-learn' + chr(39) + 's speed']:.1f} times "
        "scikit-learn's speed",
        found,
    )  # fmt: skip


def r8(rounds: int) -> Iterator[Line]:
    """The whole refinement of another outline, features cached."""
    from rerun import TARGETS, measure

    for cells, most in TARGETS.items():
        found = measure(cells, rounds)
        again, alone = found.timings["session"], found.timings["refine_slide"]
        warm = found.timings["warm"]
        yield at_most(
            "R8", f"another outline, {found.cells:,} cells, em", again.median, most, "s",
            f"{found.cells:,} cells: {again.cpu_median:.2f} CPU-s; {warm.median:.2f} s started "
            f"warm; {alone.median:.2f} s by refine_slide, which reads the features again",
            seconds=list(again.seconds), stages=found.stages,
        )  # fmt: skip


def r9(rounds: int) -> Iterator[Line]:
    """Peak memory of the command on a slide of 100,000 x 100,000 px."""
    from memory import measure

    found = measure(100_000, 35_000)
    yield at_most(
        "R9", f"peak memory, 100,000² px, {found.run['grid']['n_cells']:,} cells",
        found.gib * 2**30 / 1e9, 2.0, "GB",
        f"`recontour refine` from the slide to the report in {found.seconds:.0f} s, once",
        seconds=found.seconds,
    )  # fmt: skip


def r11(rounds: int) -> Iterator[Line]:
    """How cost grows with the number of cells."""
    from growth import EXACT_NEIGHBOURS, LINEAR, measure

    found = measure(rounds=1)
    for name, growth in found.items():
        pairs = zip(growth.cpu, growth.cells, strict=True)
        cpu = ", ".join(f"{s:.2f} s for {n:,}" for s, n in pairs)
        exact = name in EXACT_NEIGHBOURS
        yield Line(
            "R11", f"{name}, CPU-seconds as cells to the power of",
            "–" if exact else f"≤ {LINEAR:g}", f"{growth.power:.2f}",
            None if exact else LINEAR / max(growth.power, 0.01),
            f"{name}: {cpu}" + ("; exact neighbours compare all with all" if exact else ""),
            growth._asdict(),
        )  # fmt: skip


def r10(rounds: int) -> Iterator[Line]:
    """Starting up."""
    import recontour

    environment = {**os.environ, "PYTHONPATH": str(Path(recontour.__file__).parents[1])}

    def python(*arguments: str) -> Callable[[], object]:
        command = [sys.executable, *arguments]
        return lambda: subprocess.run(command, check=True, capture_output=True, env=environment)

    found = interleaved(
        {
            "recontour --help": python("-m", "recontour", "--help"),
            "import recontour": python("-c", "import recontour"),
            "an empty program": python("-c", "pass"),
        },
        max(rounds, 5),
    )
    empty = found.pop("an empty program").median
    for name, timing in found.items():
        yield at_most(
            "R10", f"`{name}`", min(timing.seconds), 0.3, "s",
            f"best of {len(timing.seconds)}; an empty program takes {empty:.2f} s",
            seconds=list(timing.seconds),
        )  # fmt: skip


PARTS: dict[str, Callable[[int], Iterator[Line]]] = {
    "R1-R3": reading,
    "R4": r4,
    "R5": r5,
    "R8": r8,
    "R10": r10,
    "R6": r6,
    "R7": r7,
    "R9": r9,
    "R11": r11,
}
"""What is told by the clock comes first, while the machine is as quiet as it was at the start."""


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    from recontour.devices import has_native_bf16

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = named[0].split(":", 1)[1].strip() if named else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bf16": has_native_bf16(),
        "gpu": torch.cuda.is_available(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
    }


def describe(found: dict[str, Any]) -> str:
    """The machine in a sentence."""
    bf16 = "with" if found["bf16"] else "without"
    gpu = "a GPU" if found["gpu"] else "no GPU"
    return (
        f"{found['cores']} cores ({found['cpu']}, {found['capability']}, {bf16} bf16), {gpu}, "
        f"Python {found['python']}, torch {found['torch']}; load {found['load']:.1f} at the start"
    )


def table(lines: Sequence[Line]) -> str:
    """The lines in Markdown."""
    rows = [
        "| # | what | target | measured | |",
        "|---|---|---:|---:|---|",
        *(f"| {v.id} | {v.what} | {v.target} | {v.figure} | {v.met} |" for v in lines),
    ]
    notes = dict.fromkeys(f"{v.id}: {v.note}." for v in lines if v.note)
    return "\n".join([*rows, "", *(f"- {note}" for note in notes)]) + "\n"


def draw(lines: Sequence[Line], path: Path, caption: str) -> None:
    """How far each line is from its target, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [v for v in lines if v.share is not None]
    figure, axes = pyplot.subplots(figsize=(9, 0.34 * len(shown) + 1.2), layout="constrained")
    shares = [v.share or np.nan for v in shown]
    colours = ["#2a7f62" if share >= 1 else "#c0504d" for share in shares]
    at = np.arange(len(shown))
    axes.barh(at, np.array(shares) - 1, left=1, color=colours, height=0.65)
    for y, v, share in zip(at, shown, shares, strict=True):
        axes.annotate(
            v.figure,
            (max(share, 1), y),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.axvline(1, color="#444", linewidth=1)
    axes.set_yticks(at, [f"{v.id}  {v.what}" for v in shown], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(min(0.4, *shares) * 0.9, max(shares) * 4)
    axes.set_xlabel("measured ÷ target (right of the line: met)")
    axes.set_title(caption, fontsize=7)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def kept_lines(path: Path, again: Sequence[str]) -> list[Line]:
    """Lines that an earlier run left for the targets that are not measured `again`."""
    if not path.exists():
        return []
    ids = {id for name in again for id in ids_of(name)}
    found = json.loads(path.read_text())["lines"]
    names = {f.name for f in fields(Line)}
    kept = [{k: v for k, v in line.items() if k in names} for line in found]
    return [Line(**line) for line in kept if line["id"] not in ids]


def ids_of(part: str) -> list[str]:
    """`R1-R3` -> R1, R2, R3."""
    first, _, last = part.replace("R", "").partition("-")
    return [f"R{i}" for i in range(int(first), int(last or first) + 1)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="R", default=list(PARTS), choices=PARTS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/run"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args(argv)
    found = machine()
    print(describe(found), flush=True)
    start = time.perf_counter()
    lines: list[Line] = []
    for name in PARTS:
        if name not in arguments.only:
            continue
        began = time.perf_counter()
        for line in PARTS[name](arguments.rounds):
            lines.append(line)
            print(
                f"{line.id:4}{line.what:74} {line.target:>10} {line.figure:>24}  {line.met}",
                flush=True,
            )
        print(f"    ({time.perf_counter() - began:.0f} s)", flush=True)
    minutes = (time.perf_counter() - start) / 60
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines += kept_lines(arguments.out / "results.json", arguments.only)
    lines.sort(key=lambda line: int(line.id[1:]))
    results = {
        "schema": "recontour.targets/1",
        "machine": found,
        "minutes": minutes,
        "lines": [{**asdict(line), "met": line.met} for line in lines],
    }
    (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (arguments.out / "table.md").write_text(table(lines))
    draw(lines, arguments.out / "targets.png", describe(found))
    unmet = sum(line.met == "NOT met" for line in lines)
    print(f"{minutes:.1f} minutes; {unmet} of {len(lines)} not met; {arguments.out}/targets.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
