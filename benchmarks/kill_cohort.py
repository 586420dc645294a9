"""Kill a cohort at random moments, resume it each time, and compare it with an undisturbed one.

    python benchmarks/kill_cohort.py --kills 20
    python benchmarks/kill_cohort.py --kills 20 --pooled

Generated slides, the colour encoder and the logistic refiner: what is tested is that nothing is
lost, doubled or half written, byte by byte; not what is found. Each kill is `kill -9` of the whole
client, at a moment drawn anew. Ends with exit code 1 when anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIMED = {"timings_s", "finished", "embedding"}
"""Of run.json: the only entries that may differ. The report shows them, and is not compared."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--slides", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--encoder", default="colour")
    parser.add_argument("--pooled", action="store_true", help="learn from all slides together")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kill-cohort-"))
    folder.mkdir(parents=True, exist_ok=True)
    table = make_slides(folder, options.slides)
    command = [
        sys.executable, "-m", "recontour", "cohort", str(table), "--jobs", str(options.jobs),
        "--encoder", options.encoder, "--method", "logistic", "--quiet", "--skip-errors",
        *(["--pooled"] if options.pooled else []),
    ]  # fmt: skip
    calm, killed = folder / "calm", folder / "killed"
    start = time.monotonic()
    undisturbed = [*command, "-o", str(calm), "--cache-dir", str(folder / "cache_calm")]
    subprocess.run(undisturbed, check=True)
    whole = time.monotonic() - start
    disturbed = [*command, "-o", str(killed), "--cache-dir", str(folder / "cache_killed")]
    done = kill_and_resume(disturbed, killed, options.kills, whole, random.Random(options.seed))
    subprocess.run(disturbed, check=True)
    wrong = sorted(differences(calm, killed))
    states = [json.loads(p.read_text()) for p in sorted((killed / "state").glob("*.json"))]
    report = {
        "kills": done,
        "slides": options.slides,
        "seconds_undisturbed": whole,
        "attempts": [state["attempts"] for state in states],
        "done": sum(state["outcome"] == "done" for state in states),
        "compared": len(contents(calm)),
        "different": wrong,
        "leases_left": [p.name for p in (killed / "state").rglob("*.lease*")],
    }
    print(json.dumps(report, indent=2))
    if options.folder is None:
        shutil.rmtree(folder)
    sys.exit(bool(wrong or report["leases_left"] or done < options.kills))


def make_slides(folder: Path, count: int) -> Path:
    from recontour import generate_slide, simulate_coarse, write_annotation

    rows = ["id,slide,coarse"]
    for i in range(count):
        made = generate_slide(folder / f"{i}.tif", size=(512, 512), seed=i)
        coarse = simulate_coarse(made.truth, kind="generous", seed=1, mpp=0.5, size=made.size)
        write_annotation(coarse, folder / f"{i}.geojson")
        rows.append(f"s{i},{i}.tif,{i}.geojson")
    table = folder / "slides.csv"
    table.write_text("\n".join(rows) + "\n")
    return table


def kill_and_resume(
    command: list[str], out: Path, kills: int, whole: float, moments: random.Random
) -> int:
    """Start and kill again and again; all finished slides but one are taken away, so that there
    is always something to kill. Returns how many kills met a living client."""
    done = 0
    for _ in range(3 * kills):
        if done == kills:
            break
        client = subprocess.Popen(command)
        try:
            client.wait(whole * moments.uniform(0.1, 1.0))
        except subprocess.TimeoutExpired:
            client.kill()
            client.wait()
            done += 1
            print(f"kill {done}: {finished(out)} slides finished", file=sys.stderr, flush=True)
        for place, left in (("*", 1), ("pool/samples/*", 1), ("pool/fits/*", 0)):
            for path in sorted(out.glob(f"{place}/run.json"))[left:]:
                shutil.rmtree(path.parent)
    return done


def finished(out: Path) -> int:
    return len(list(out.glob("*/run.json")))


def contents(out: Path) -> dict[str, str]:
    """Digest of every output file of every slide; of run.json without times."""
    found = {}
    for path in sorted(out.glob("*/**/*")):
        if "state" in path.parts or not path.is_file() or path.name == "report.html":
            continue
        data = path.read_bytes()
        if path.name == "run.json":
            run = {k: v for k, v in json.loads(data).items() if k not in TIMED}
            data = json.dumps(run).encode()
        found[str(path.relative_to(out))] = hashlib.sha256(data).hexdigest()
    return found


def differences(one: Path, other: Path) -> set[str]:
    """Files that differ, or that only one of two cohorts has."""
    first, second = contents(one), contents(other)
    return {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}


if __name__ == "__main__":
    main()
