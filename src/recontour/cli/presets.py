"""`recontour presets`: settings of the papers; and what `--preset` means beside other options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer

from recontour.cli import console
from recontour.cli import options as o
from recontour.errors import UsageError
from recontour.recipe import Recipe

PARAMETERS = {"exclude_class": "exclude_classes", "method_option": "method_options"}
"""Parameters of a command that go by another name in a recipe."""

INSTEAD = {
    "cell_um": "cell_px",
    "cell_px": "cell_um",
    "patch_um": "patch_px",
    "patch_px": "patch_um",
}
"""An option that is given takes the place of what the preset says in another unit."""

REPLACED = {
    "published": ("threshold", "smooth_cells", "min_area_um2"),
    "none": ("smooth_cells", "min_area_um2"),
}
"""Settings without effect under a kind of post-processing."""


def presets(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Preset to show; all are listed without.")
    ] = None,
    format: o.OutputFormat = o.Format.table,
) -> None:
    """List the settings of the papers that can be had by name, or show one of them."""
    from recontour.presets import load, names

    if name is None:
        found = [load(known) for known in names()]
        if format is o.Format.json:
            listed = [{"name": p.name, "title": p.title, "dataset": p.dataset} for p in found]
            console.print_json({"schema": "recontour.presets/1", "presets": listed})
            return
        console.print_table("Presets", [(p.name, f"{p.title} ({p.dataset})") for p in found])
        return
    preset = load(name)
    if format is o.Format.json:
        console.print_json(
            {
                "schema": "recontour.preset/1",
                "name": preset.name,
                "title": preset.title,
                "paper": preset.paper,
                "dataset": preset.dataset,
                "recipe": preset.recipe.to_dict(),
                "simulation": dict(preset.simulation),
                "pooled": preset.pooled,
                "notes": list(preset.notes),
            }
        )
        return
    rows = [("title", preset.title), ("paper", preset.paper), ("data set", preset.dataset)]
    rows += [(key, _written(value)) for key, value in preset.settings().items()]
    rows += [(f"simulation {key}", _written(value)) for key, value in preset.simulation.items()]
    if preset.pooled:
        rows.append(("pooled", "true (in the benchmark)"))
    console.print_table(preset.name, rows)
    print("everything else as by default")
    for note in preset.notes:
        print(f"- {note}")


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={inner}" for key, inner in value.items())
    return str(value)


def with_preset(context: typer.Context, recipe: Recipe, name: str | None) -> Recipe:
    """The preset's settings, with those that were given on the command line in their place.

    Parameters
    ----------
    context : of the command; tells what was given from what is a default
    recipe : as the options say, defaults included
    name : of the preset; None: `recipe` stays as it is

    Raises
    ------
    UsageError : an option was given that has no effect under the post-processing
    """
    given = {
        PARAMETERS.get(parameter, parameter)
        for parameter in context.params
        if _was_given(context, parameter)
    } & set(Recipe.__dataclass_fields__)
    if name is not None:
        from recontour.presets import load

        recipe = _laid_over(load(name).recipe, {key: getattr(recipe, key) for key in given})
    for key in REPLACED.get(recipe.postprocess, ()):
        if key in given:
            raise UsageError(
                f"--{key.replace('_', '-')} has no effect with --postprocess {recipe.postprocess}"
                f"{f' of the preset {name}' if name else ''}; leave it out, or pass --postprocess "
                "default"
            )
    return recipe


def _laid_over(preset: Recipe, given: dict[str, Any]) -> Recipe:
    """What was given replaces what the preset says, and what goes with that."""
    gone: dict[str, Any] = {INSTEAD[key]: None for key in given if key in INSTEAD}
    if given.get("method", preset.method) != preset.method:
        gone["method_options"] = {}  # they are options of another method
    elif "method_options" in given:
        given["method_options"] = {**preset.method_options, **given["method_options"]}
    if "tissue" in given and "." in str(given["tissue"]):
        gone["tissue_downsample"] = None  # a file outlines the tissue itself
    return replace(preset, **{**gone, **given})


def _was_given(context: typer.Context, parameter: str) -> bool:
    source = context.get_parameter_source(parameter)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")
