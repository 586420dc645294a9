"""`recontour`: the command line, and how every failure becomes a sentence and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from recontour import __version__
from recontour.cli import (
    benchmark,
    cache,
    cohort,
    dataset,
    demo,
    doctor,
    embed,
    evaluate,
    info,
    manifest,
    presets,
    refine,
    report,
    simulate,
    tune,
)
from recontour.errors import RecontourError

INTERRUPTED = 130


class _Interrupted(BaseException):
    """Ctrl-C, or a polite kill. Not a KeyboardInterrupt: typer ends on those without a word."""


class _Plain(TyperGroup):
    """Lists the commands as plain text: loading rich takes longer than all the rest of it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "rich_markup_mode": None})


app = typer.Typer(
    name="recontour",
    cls=_Plain,
    help="Turns quick, coarse outlines on whole-slide images into precise annotations.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done; 1 the run failed; 2 the command must change; 130 interrupted.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"recontour {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command("refine", short_help="Refine a coarse outline on a slide: the main job.")(refine.refine)
app.command("cohort", short_help="Refine the outlines of many slides, resumable.")(cohort.cohort)
app.command("manifest", short_help="Write the manifest of a folder of slides.")(manifest.manifest)
app.command("evaluate", short_help="Compare an outline with the truth.")(evaluate.evaluate)
app.command("simulate", short_help="Make coarse outlines from fine ones.")(simulate.simulate)
app.command("tune", short_help="Choose a method's options without the truth.")(tune.tune)
app.command("info", short_help="Show what a slide's file says.")(info.info)
app.command("embed", short_help="Embed a slide ahead of time, into the cache.")(embed.embed)
app.command("doctor", short_help="Check the installation, and its speed.")(doctor.doctor)
app.command("demo", short_help="Refine a generated slide whose truth is known.")(demo.demo)
app.command("dataset", short_help="Look at the files of a data set.")(dataset.dataset)
app.command("benchmark", short_help="Compare methods on many slides and outlines.")(
    benchmark.benchmark
)
app.command("report", short_help="Make the report of a benchmark again.")(report.report)
app.command("presets", short_help="Show the settings of the papers.")(presets.presets)
app.add_typer(cache.app, name="cache")


def main() -> None:
    """Run the command line; never ends in a traceback."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except RecontourError as error:
        _fail(str(error), error.exit_code)
    except (_Interrupted, KeyboardInterrupt):
        _fail("interrupted; the same command resumes where it stopped", INTERRUPTED)
    except MemoryError:
        _fail("out of memory; pass a larger --cell-um or --mpp-embed, or use a larger machine", 1)
    except BrokenPipeError:
        # The reader of our output went away (`| head`): not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        hint = "free some space and run the same command" if error.errno == errno.ENOSPC else ""
        what = f"{error.filename}: " if error.filename else ""
        _fail(f"{what}{error.strerror or error}{'; ' + hint if hint else ''}", 1)
    except Exception as error:
        if os.environ.get("RECONTOUR_TRACEBACK"):
            traceback.print_exc()
        _fail(
            f"this is a fault in recontour ({type(error).__name__}: {error}); please report it, "
            "with the traceback that RECONTOUR_TRACEBACK=1 shows",
            1,
        )


def _interrupt(signum: int, frame: object) -> None:
    raise _Interrupted


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
