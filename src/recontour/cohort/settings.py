"""Checking settings before there is a slide to try them on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from recontour.errors import RecontourError, UnknownNameError, UsageError
from recontour.recipe import Recipe, Runtime


def settings_problems(recipe: Recipe) -> list[str]:
    """Everything that no slide could be refined with, in sentences."""
    problems: list[str] = []
    for check in _checks(recipe):
        try:
            check()
        except RecontourError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))


def check_runtime(recipe: Recipe, runtime: Runtime, *, here: bool = True) -> None:
    """Refuse a device, an engine or a precision that every slide would fail with.

    Parameters
    ----------
    here : this machine does the work; other machines may have devices and packages that it lacks

    Raises
    ------
    UnknownNameError, MissingExtraError, UsageError
    """
    if (runtime.device, runtime.engine, runtime.precision) == ("auto", "eager", "auto"):
        return  # without torch, which takes a second to import
    from recontour.devices import check_engine, pick_device, pick_device_of, pick_precision
    from recontour.encoders import chosen_options

    check_engine(runtime.engine)
    pick_precision(runtime.precision, pick_device("cpu"))
    _check_name("encoder", recipe.encoder)
    chosen_options(recipe.encoder, runtime.engine, runtime.precision)
    try:
        pick_device_of(runtime.engine, runtime.device)
    except UnknownNameError:
        raise
    except UsageError:
        if here:
            raise
    if here and runtime.engine == "openvino":
        from recontour.encoders.openvino import import_silently

        import_silently()


def _checks(recipe: Recipe) -> Iterator[Callable[[], object]]:
    from recontour.calibration import check_target
    from recontour.constraints import check_limits
    from recontour.grid import LABEL_RULES, check_sides
    from recontour.slides.opening import ORIGINS

    yield lambda: _check_name("reader", getattr(recipe, "reader", None))
    yield lambda: _check_name("encoder", recipe.encoder)
    yield lambda: _check_method(recipe)
    yield lambda: _check_choice("origin", recipe.origin, ORIGINS)
    yield lambda: _check_choice("label rule", recipe.label_rule, LABEL_RULES)
    yield lambda: _check_tissue(recipe)
    yield lambda: _check_pixel_sizes(recipe)
    yield lambda: check_sides(
        cell_um=recipe.cell_um,
        cell_px=recipe.cell_px,
        patch_um=recipe.patch_um,
        patch_px=recipe.patch_px,
    )
    yield lambda: check_limits(recipe.only, recipe.within_um)
    yield lambda: check_target(recipe.error_target)
    yield lambda: _check_rules(recipe)
    yield lambda: _check_band(recipe.band)


def _check_name(kind: str, name: str | None) -> None:
    from recontour import registry

    if name is not None and name not in registry.names(kind):
        raise UnknownNameError.of(kind, name, registry.names(kind))


def _check_choice(kind: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise UnknownNameError.of(kind, name, known)


def _check_method(recipe: Recipe) -> None:
    from recontour.refiners import make_refiner

    make_refiner(recipe.method, seed=recipe.seed, **recipe.method_options)


def _check_tissue(recipe: Recipe) -> None:
    from recontour.preparation import tissue_file

    path = tissue_file(recipe)
    if recipe.tissue_downsample is None:
        return
    if recipe.tissue_downsample < 1:
        raise UsageError(f"--tissue-downsample {recipe.tissue_downsample} must be 1 or more")
    if path is not None:
        raise UsageError(
            f"--tissue-downsample {recipe.tissue_downsample} is for a tissue rule, and {path.name} "
            "outlines the tissue itself; pass one of the two"
        )


def _check_pixel_sizes(recipe: Recipe) -> None:
    from recontour.slides.mpp import MAX_MPP, MIN_MPP

    for name, value in (("mpp", recipe.mpp), ("mpp_embed", recipe.mpp_embed)):
        if value is not None and not MIN_MPP <= value <= MAX_MPP:
            raise UsageError(f"{name} {value:g} is outside {MIN_MPP:g}–{MAX_MPP:g} µm/px")


def _check_rules(recipe: Recipe) -> None:
    import numpy as np

    from recontour.postprocess import rules_for
    from recontour.types import PatchGrid

    none = np.zeros(0, np.int32)
    rules_for(recipe, PatchGrid((0, 0), (0, 0), none, none, 1, 1, 1, 1.0, 1.0))


def _check_band(band: int) -> None:
    from recontour.preparation import BANDS

    if band not in BANDS:
        raise UsageError(f"--band {band} must be {BANDS[0]} (off), {BANDS[1]} or {BANDS[2]}")
