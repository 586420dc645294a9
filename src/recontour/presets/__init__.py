"""Settings of published experiments by name, one TOML file each."""

from recontour.presets.loading import Preset, load, names

__all__ = ["Preset", "load", "names"]
