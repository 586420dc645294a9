"""A lane whose slides are text files that say what happens to them: quick, and able to misbehave.

`ok …` gives files that depend on the text alone; `slow S`, `fail …`, `crash`, `hang`, `print`,
`memory` and `full` do what they say. A file `….once` beside a slide makes it happen once only.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import time
from pathlib import Path

from recontour.cohort import jobs, lane
from recontour.errors import OutputError, SlideError


def refine(task, work, runtime):
    slide = Path(task["row"]["slide"])
    text = slide.read_text() + Path(task["row"]["coarse"]).read_text()
    word, _, rest = text.partition(" ")
    once = slide.with_suffix(".once")
    if once.exists():
        once.unlink()
    elif slide.with_suffix(".was_once").exists():
        word = "ok"
    runtime.progress("embed", 1, 2)
    if word == "slow":
        for step in range(10):
            (work / "half.bin").write_bytes(bytes(1000 * step))
            time.sleep(float(rest.split()[0]) / 10)
        (work / "half.bin").unlink()
    elif word == "fail":
        raise SlideError(rest.strip())
    elif word == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif word == "hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        time.sleep(1000)
    elif word == "print":
        os.write(1, b"a library says hello\n")
        print("and again", flush=True)
    elif word == "memory":
        raise MemoryError
    elif word == "full":
        (work / "half.bin").write_bytes(b"half")
        raise OutputError(f"cannot write: {os.strerror(errno.ENOSPC)}")
    (work / "refined.geojson").write_text(text)
    (work / "probability.tif").write_bytes(hashlib.sha512(text.encode()).digest() * 100)
    (work / "run.json").write_text(json.dumps({"text": text, "recipe": task["recipe"]}))
    return {"cells": len(text), "pid": os.getpid()}


if __name__ == "__main__":
    jobs.JOBS["refine"] = "__main__:refine"
    lane.main()
