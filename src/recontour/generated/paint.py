"""Paint any rectangle of a slide from its layout; neighbours fit without a seam."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.generated.layout import PAD, Layout, Nuclei
from recontour.generated.noise import Field, fibres, repeating
from recontour.generated.sprites import TURNS, VARIANTS, paint_sprites, stamp

SIDE = 1024  # px, the repeating textures
MARGIN = 6  # px painted around a block, for the blur
BUCKET = 256  # px, squares by which nuclei are looked up


class Painter:
    """Paints a layout. Safe to use from several threads.

    A pixel's colour is light through two stains: exp(-(haematoxylin h + eosin e)) with the stains'
    optical densities h, e for red, green and blue, each slide with its own.
    """

    def __init__(self, layout: Layout, nuclei: Nuclei, seed: int) -> None:
        rng = np.random.default_rng([seed, 3])
        self.layout = layout
        self.nuclei = nuclei
        self.seed = seed
        h = np.array([0.62, 0.80, 0.30]) + rng.normal(0, 0.03, 3)
        e = np.array([0.10, 0.92, 0.18]) + rng.normal(0, 0.03, 3)
        self.stains = np.stack([h, e]).clip(0.02).astype(np.float32)
        self.stains *= rng.uniform(0.9, 1.15, (2, 1)).astype(np.float32)
        self.glass = (np.array([244.0, 243.0, 245.0]) + rng.normal(0, 2, 3)).astype(np.float32)
        self.focus = max(0.25 / layout.mpp, 0.3) + rng.uniform(0, 0.15)  # px
        um = 1.0 / layout.mpp
        self.fibre = fibres(rng, SIDE, 1.3 * um)
        self.fine = repeating(rng, SIDE, 0.5 * um)
        self.medium = repeating(rng, SIDE, 2.2 * um)
        self.blotch = repeating(rng, SIDE, 7.0 * um)
        self.sprites = paint_sprites(seed, layout.mpp)
        self.reach = 1 + max(s.cover.shape[0] for k in self.sprites.values() for s in k) // 2
        self.buckets = self._sort_nuclei()

    def _sort_nuclei(self) -> dict[tuple[int, int], NDArray[np.int64]]:
        nuclei = self.nuclei
        row = (nuclei.y // BUCKET).astype(np.int64)
        col = (nuclei.x // BUCKET).astype(np.int64)
        key = row * (1 << 20) + col
        order = np.argsort(key, kind="stable")
        cuts = np.flatnonzero(np.diff(key[order])) + 1
        buckets: dict[tuple[int, int], NDArray[np.int64]] = {}
        for part in np.split(order, cuts):
            if len(part):
                buckets[int(row[part[0]]), int(col[part[0]])] = part
        return buckets

    def paint(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """RGB uint8 (height, width, 3); (x, y) is the corner, level-0 px."""
        from scipy.ndimage import gaussian_filter

        left, top = x - MARGIN, y - MARGIN
        shape = (height + 2 * MARGIN, width + 2 * MARGIN)
        maps = _Maps(self.layout, left, top, shape)
        inner = slice(MARGIN, -MARGIN)
        tissue = maps("tissue")
        if (tissue <= -0.02).all():
            density = np.zeros((*shape, 3), np.float32)
        else:
            ink, eosin = self._background(maps, tissue, left, top)
            self._stamp_nuclei(ink, eosin, left, top)
            thickness = maps("strength") * (1 + 0.8 * maps("fold"))
            tint = 0.07 * maps("tint")
            ink *= thickness * (1 + tint)
            eosin *= thickness * (1 - tint)
            off = tissue <= 0
            ink[off] = 0
            eosin[off] = 0
            density = ink[..., None] * self.stains[0] + eosin[..., None] * self.stains[1]
        self._draw_pens(density, left, top)
        light = self.glass * np.exp(-density)
        for channel in range(3):
            light[..., channel] = gaussian_filter(light[..., channel], self.focus, truncate=3)
        light = light[inner, inner]
        noise = np.random.default_rng([self.seed, 4, x, y]).standard_normal(
            light.shape, dtype=np.float32
        )
        light += 1.6 * noise
        return light.clip(0, 255).astype(np.uint8)

    def _background(self, maps: _Maps, tissue: Field, left: int, top: int) -> tuple[Field, Field]:
        """Haematoxylin and eosin of everything but nuclei."""
        medium = _repeat(self.medium, left, top, tissue.shape)
        blotch = _repeat(self.blotch, left + 371, top + 113, tissue.shape)
        fine = _repeat(self.fine, left + 17, top + 911, tissue.shape)
        fibre = self._fibres(maps, left, top)
        cellular = maps("cellular")

        # Stroma: strands of collagen, pale clefts between.
        eosin = 0.50 + 0.17 * fibre + 0.05 * blotch - 0.04 * cellular
        eosin *= 1 - 0.9 * np.clip((-fibre - 1.1) * 1.4, 0, 1)
        ink = 0.07 + 0.05 * np.clip(cellular + 0.5 * blotch, 0, 2) + 0.02 * fine
        ink *= np.clip(eosin * 3, 0, 1)

        lymph = np.clip(maps("lymph") / 0.15, 0, 1)
        _blend(ink, lymph, 0.16 + 0.05 * medium)
        _blend(eosin, lymph, 0.30 + 0.08 * medium)

        # Tumour and benign epithelium share their cytoplasm, from pink to blue.
        grade = maps("grade")
        cytoplasm_ink = 0.20 + 0.05 * grade + 0.07 * medium + 0.05 * blotch + 0.03 * fine
        cytoplasm_eosin = 0.42 - 0.05 * grade + 0.08 * medium + 0.06 * blotch
        gland = maps("gland")
        if (gland > -8).any():
            pixel = self.layout.mpp
            epithelium = np.clip(gland / pixel + 0.5, 0, 1)
            _blend(ink, epithelium, cytoplasm_ink)
            _blend(eosin, epithelium, cytoplasm_eosin)
            lumen = np.clip((maps("lumen") - 1.5 * medium) / pixel, 0, 1)
            lumen *= epithelium
            _blend(ink, lumen, 0.01)
            _blend(eosin, lumen, 0.03 + 0.12 * np.clip(blotch, 0, 1))

        tumor = maps("tumor")
        if (tumor > -0.1).any():
            # Nests shrink a little away from their stroma.
            cleft = np.clip(1 - np.abs(tumor + 0.03) / 0.03, 0, 1) * np.clip(blotch - 0.2, 0, 1)
            nest = np.clip(tumor / 0.01 + 0.5, 0, 1)
            _blend(ink, nest, cytoplasm_ink)
            _blend(eosin, nest, cytoplasm_eosin)
            gaps = np.clip(-1.0 - medium - 0.4 * blotch, 0, 1) * nest
            pale = 1 - np.clip(0.9 * cleft + 0.8 * gaps, 0, 1)
            ink *= pale
            eosin *= pale

        fat = maps("fat")
        if (fat > 0).any():
            walls = self._fat_walls(left, top, fat.shape)
            lobule = np.clip(fat / 0.02, 0, 1)
            _blend(ink, lobule, 0.04 * walls)
            _blend(eosin, lobule, 0.01 + 0.45 * walls)
        np.maximum(ink, 0, out=ink)
        np.maximum(eosin, 0, out=eosin)
        return ink, eosin

    def _fibres(self, maps: _Maps, left: int, top: int) -> Field:
        from scipy.ndimage import map_coordinates

        layout = self.layout
        x, y = maps.x, maps.y
        cos, sin = np.cos(layout.fibre_angle), np.sin(layout.fibre_angle)
        along = x * cos + y * sin + maps("warp_x") / layout.mpp
        across = -x * sin + y * cos + maps("warp_y") / layout.mpp
        picked = map_coordinates(
            self.fibre, [across, along], order=1, mode="grid-wrap", output=np.float32
        )
        return np.asarray(picked)

    def _fat_walls(self, left: int, top: int, shape: tuple[int, int]) -> Field:
        """1 on the thin walls between fat cells, which are the cells of a jittered lattice."""
        from PIL import Image
        from scipy.spatial import cKDTree

        pitch = 70.0 / self.layout.mpp
        rows = range(int(top // pitch) - 2, int((top + shape[0]) // pitch) + 3)
        cols = range(int(left // pitch) - 2, int((left + shape[1]) // pitch) + 3)
        centres = []
        for row in rows:
            for col in cols:
                shift = np.random.default_rng([self.seed, 5, row + 4096, col + 4096]).random(2)
                centres.append((np.array([col, row]) + 0.9 * shift) * pitch)
        # Sampled on multiples of `step` of the slide, so that neighbouring blocks agree.
        step = max(1, round(1.5 / self.layout.mpp))
        x0, y0 = left // step - 1, top // step - 1
        x1, y1 = (left + shape[1]) // step + 2, (top + shape[0]) // step + 2
        ys, xs = np.mgrid[y0:y1, x0:x1]
        points = (np.stack([xs.ravel(), ys.ravel()], axis=1) + 0.5) * step
        near = cKDTree(np.array(centres)).query(points, k=2)[0]
        gap = ((near[:, 1] - near[:, 0]) * self.layout.mpp).reshape(xs.shape).astype(np.float32)
        x, y = left / step - x0, top / step - y0
        box = (x, y, x + shape[1] / step, y + shape[0] / step)
        full = Image.fromarray(gap).resize(shape[::-1], Image.Resampling.BILINEAR, box=box)
        return np.clip(2.6 - np.asarray(full), 0, 1)

    def _stamp_nuclei(self, ink: Field, eosin: Field, left: int, top: int) -> None:
        nuclei = self.nuclei
        reach = self.reach
        rows = range((top - reach) // BUCKET, (top + ink.shape[0] + reach) // BUCKET + 1)
        cols = range((left - reach) // BUCKET, (left + ink.shape[1] + reach) // BUCKET + 1)
        for bucket in ((row, col) for row in rows for col in cols):
            for i in self.buckets.get(bucket, ()):
                variant = int(nuclei.variant[i] * VARIANTS)
                turn = round(float(nuclei.angle[i]) / np.pi * TURNS) % TURNS
                sprite = self.sprites[int(nuclei.kind[i])][variant * TURNS + turn]
                row, col = round(float(nuclei.y[i])) - top, round(float(nuclei.x[i])) - left
                stamp(ink, eosin, sprite, row, col)

    def _draw_pens(self, density: NDArray[np.float32], left: int, top: int) -> None:
        from PIL import Image, ImageDraw

        for points, width, ink in self.layout.pens:
            local = points - (left, top)
            if (local.max(0) < -width).any() or (local.min(0) - width > density.shape[1::-1]).any():
                continue
            canvas = Image.new("L", density.shape[1::-1])
            draw = ImageDraw.Draw(canvas)
            draw.line([tuple(p) for p in local], fill=255, width=round(width), joint="curve")
            cover = np.asarray(canvas, np.float32)[..., None] / 255
            density += cover * np.array(ink, np.float32)


def _blend(plane: Field, cover: NDArray[Any], value: NDArray[Any] | float) -> None:
    plane += cover * (value - plane)


def _repeat(texture: Field, left: int, top: int, shape: tuple[int, ...]) -> Field:
    rows = np.arange(top, top + shape[0]) % SIDE
    cols = np.arange(left, left + shape[1]) % SIDE
    return np.asarray(texture[rows[:, None], cols])


class _Maps:
    """The layout's maps, magnified to the pixels of one piece of slide."""

    def __init__(self, layout: Layout, left: int, top: int, shape: tuple[int, int]) -> None:
        self.layout, self.left, self.top, self.shape = layout, left, top, shape
        self.x = np.arange(left, left + shape[1], dtype=np.float32)[None, :] + np.float32(0.5)
        self.y = np.arange(top, top + shape[0], dtype=np.float32)[:, None] + np.float32(0.5)

    def __call__(self, name: str) -> Field:
        from PIL import Image

        field: Field = getattr(self.layout, name)
        pitch = self.layout.pitch
        # Map pixel i covers [i, i + 1) in Pillow's frame, its value at i + 0.5.
        x0, y0 = self.left / pitch + PAD, self.top / pitch + PAD
        x1, y1 = x0 + self.shape[1] / pitch, y0 + self.shape[0] / pitch
        col, row = max(int(x0) - 2, 0), max(int(y0) - 2, 0)
        part = field[row : int(y1) + 3, col : int(x1) + 3]
        box = (
            max(x0 - col, 0.0),
            max(y0 - row, 0.0),
            min(x1 - col, part.shape[1]),
            min(y1 - row, part.shape[0]),
        )
        image = Image.fromarray(np.ascontiguousarray(part))
        scaled = image.resize(self.shape[::-1], Image.Resampling.BILINEAR, box=box)
        return np.asarray(scaled, np.float32)
