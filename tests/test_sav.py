"""`.sav` files of the LC-MIL authors: pickles, read as data and as nothing else."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import Polygon

from recontour.annotations import read_annotation, write_annotation
from recontour.annotations.restricted import load_plain_pickle
from recontour.annotations.sav import sav_entries
from recontour.errors import AnnotationError, UsageError
from recontour.types import Annotation, Frame

OUTER = [(0, 0), (100, 0), (100, 100), (0, 100)]
INNER = [(20, 20), (40, 20), (40, 40), (20, 40)]
FAR = [(300, 300), (400, 300), (400, 500), (300, 500)]
PROTOCOLS = range(6)


def outlines(outer=(OUTER,), inner=(), number=float):
    def rings(given):
        return [[(number(x), number(y)) for x, y in ring] for ring in given]

    return {"annotations_outer": rings(outer), "annotations_inner": rings(inner)}


def save(path, data, protocol=4):
    path.write_bytes(pickle.dumps(data, protocol))
    return path


def several():
    return {
        "test_001": {
            "coarse_top1": outlines(),
            "coarse_pathologist_1": outlines([FAR]),
            "coarse_pathologist_2": outlines([OUTER, FAR], [INNER]),
        },
        "tumor_016": {"coarse_top1": outlines([FAR])},
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("number", [int, float, np.int64, np.float32, np.float64, np.uint16])
def test_a_slide_is_read_whatever_wrote_its_numbers(tmp_path, protocol, number):
    data = {"test_001": outlines([OUTER, FAR], [INNER], number)}
    found = read_annotation(save(tmp_path / "coarse.sav", data, protocol))
    first, second = found.regions
    assert first.geometry.equals(Polygon(OUTER, [INNER]))
    assert second.geometry.equals(Polygon(FAR))
    assert {r.label for r in found.regions} == {"Tumor"}
    assert (found.slide_id, found.source) == ("test_001", "coarse.sav")
    assert [(r.inside, len(r.coordinates)) for r in found.rings] == [
        (True, 4), (True, 4), (False, 4)
    ]  # fmt: skip
    assert all(type(v) is float for r in found.rings for point in r.coordinates for v in point)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numbers_come_out_exactly_in_any_byte_order(tmp_path, protocol):
    values = [np.float64(0.1), np.dtype(">f4").type(2.5), np.array(7, ">i4")[()], np.bool_(True)]
    assert load_plain_pickle(save(tmp_path / "a.sav", values, protocol)) == [0.1, 2.5, 7, True]


def test_files_written_by_old_numpy_are_read(tmp_path):
    data = pickle.dumps({"s": outlines(number=np.float64)}, 2)
    assert b"numpy._core.multiarray" in data
    old = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "a.sav").write_bytes(old)
    assert read_annotation(tmp_path / "a.sav").regions[0].geometry.area == 10_000


def test_one_of_several_is_chosen_by_name(tmp_path):
    path = save(tmp_path / "coarse.sav", several())
    assert sav_entries(path) == (
        ("test_001", "coarse_top1"),
        ("test_001", "coarse_pathologist_1"),
        ("test_001", "coarse_pathologist_2"),
        ("tumor_016", "coarse_top1"),
    )

    def area(**where):
        return sum(r.geometry.area for r in read_annotation(path, Frame(**where)).regions)

    assert area(entry="test_001/coarse_pathologist_1") == 20_000
    assert area(entry="coarse_pathologist_2") == 30_000 - 400
    assert area(entry="tumor_016") == 20_000
    assert area(slide_id="tumor_016") == area(slide_id="TUMOR_016.tif") == 20_000
    assert area(slide_id="test_001", entry="coarse_top1") == 10_000
    assert area(slide_id="other", entry="tumor_016") == 20_000  # the entry names the slide


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"entry": "coarse_top1"},
        {"entry": "test_001"},
        {"entry": "nobody"},
        {"slide_id": "test_001"},
        {"slide_id": "nobody"},
        {"slide_id": "nobody", "entry": "coarse_top1"},
    ],
)
def test_an_unclear_choice_is_refused_with_what_there_is(tmp_path, where):
    path = save(tmp_path / "coarse.sav", several())
    with pytest.raises(UsageError, match="test_001/coarse_top1") as refused:
        read_annotation(path, Frame(**where))
    assert "coarse.sav" in str(refused.value)


def test_the_only_slide_needs_no_name_and_another_name_is_noted(tmp_path):
    path = save(tmp_path / "a.sav", {"test_001": {"coarse_top1": outlines()}})
    assert read_annotation(path).notes == ()
    found = read_annotation(path, Frame(slide_id="mine"))
    assert found.notes == ("the outlines are of slide test_001, the only one in the file",)


def test_rings_are_repaired_and_bad_points_said(tmp_path):
    bow = [(0, 0), (100, 100), (100, 0), (0, 100)]
    nans = [(0, 0), (50, float("nan")), (50, 0), (50, 50), (float("inf"), 2), ("x", None)]
    data = {"s": outlines([OUTER], [FAR])}
    data["s"]["annotations_outer"] += [bow, nans, [(1, 1), (2, 2)], [7, "?", None], []]
    found = read_annotation(save(tmp_path / "a.sav", data), Frame(origin=(10.0, 0.0)))
    assert [r.geometry.area for r in found.regions] == [10_000, 5_000, 1_250]
    assert found.regions[0].geometry.bounds == (0, 0, 100, 100)
    said = "\n".join(found.notes)
    for words in ("outer ring 2: a ring crossed itself", "outer ring 3: points that were not",
                  "outer ring 4: a ring had too few points", "outer ring 5", "outer ring 6",
                  "inner ring 1 is to be cut out, but touches no outline"):  # fmt: skip
        assert words in said, said


def test_one_ring_without_a_list_around_it_and_no_inner_ones(tmp_path):
    data = {"s": {"annotations_outer": OUTER}}
    assert read_annotation(save(tmp_path / "a.sav", data)).regions[0].geometry.area == 10_000


class Evil:
    def __init__(self, function, *args):
        self.what = (function, args)

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, r"(posix|nt)\.system"),
        (eval, r"(builtins|__builtin__)\.eval"),
        (subprocess.Popen, r"(subprocess|commands)\.Popen"),
        (np.fromfile, r"numpy\.(core|_core)?.*fromfile"),
    ],
)
def test_code_is_refused_by_name_and_not_run(tmp_path, protocol, function, name):
    trace = tmp_path / "trace"
    data = {"s": {**outlines(), "extra": Evil(function, f"touch {trace}")}}
    path = save(tmp_path / "evil.sav", data, protocol)
    with pytest.raises(AnnotationError, match=rf"evil\.sav asks for {name}.*nothing of it was run"):
        read_annotation(path)
    assert not trace.exists()


def test_arrays_and_objects_are_refused_too(tmp_path):
    for value in (np.zeros(3), Frame(), os.PathLike, np.float64):
        with pytest.raises(AnnotationError, match="is not data"):
            read_annotation(save(tmp_path / "a.sav", {"s": {"annotations_outer": value}}))


@pytest.mark.parametrize("code", ["O", "V1000000000", "U4", "i3", "O8", "f4,f4"])
def test_a_dtype_that_is_no_number_is_refused(tmp_path, code):
    # dtype(code), built by hand: no writer makes it.
    text = b"(" + struct.pack("<BI", ord("X"), len(code)) + code.encode() + b"tR."
    (tmp_path / "a.sav").write_bytes(b"\x80\x02cnumpy\ndtype\n" + text)
    with pytest.raises(AnnotationError, match="is no number"):
        read_annotation(tmp_path / "a.sav")


def test_a_pickle_cannot_change_what_reads_the_next_one(tmp_path):
    # BUILD with a slot state: setattr(numpy.dtype, "__call__", 1).
    evil = b"\x80\x02cnumpy\ndtype\n(N}X\x08\x00\x00\x00__call__K\x01stb."
    (tmp_path / "evil.sav").write_bytes(evil)
    with pytest.raises(AnnotationError):
        read_annotation(tmp_path / "evil.sav")
    good = save(tmp_path / "good.sav", {"s": outlines(number=np.float64)})
    assert read_annotation(good).regions


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"hello", "not a pickle, or cut off"),
        (pickle.dumps(several())[:-40], "cut off or damaged"),
        (b"\x80\x63.", "cut off or damaged"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", "cut off or damaged"),
        (b"$FL2@(#) SPSS DATA FILE", "SPSS"),
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps({}), "an empty dictionary"),
        (pickle.dumps({"s": {"v": {"w": outlines()}}}), "not one of outlines"),
        (pickle.dumps({1: outlines()}), "not one of outlines"),
        (pickle.dumps({"s": {"annotations_outer": 5}}), "a list of lists"),
        (pickle.dumps({"s": {"annotations_outer": [1, 2, 3]}}), "a list of lists"),
        (pickle.dumps({"s": {"annotations_outer": []}}), "holds no outline"),
        (b"\x80\x02" + b"(" * 5000 + b"l" * 5000 + b".", "a list"),
    ],
)
def test_other_pickles_and_damaged_files_are_refused_in_a_sentence(tmp_path, content, words):
    (tmp_path / "a.sav").write_bytes(content)
    with pytest.raises(AnnotationError, match=words) as refused:
        read_annotation(tmp_path / "a.sav")
    assert "a.sav" in str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_file_that_holds_itself_is_no_danger(tmp_path):
    data = {"s": {}}
    data["s"]["annotations_outer"] = ring = [OUTER]
    ring.append(ring)
    found = read_annotation(save(tmp_path / "a.sav", data))
    assert len(found.regions) == 1


@given(data=st.binary(max_size=60))
@settings(max_examples=150)
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.sav"
    path.write_bytes(b"\x80\x04" + data)
    with pytest.raises((AnnotationError, UsageError)):
        read_annotation(path)


def test_writing_is_refused_and_geojson_named(tmp_path):
    with pytest.raises(UsageError, match="GeoJSON"):
        write_annotation(Annotation("s", ()), tmp_path / "a.sav")


def test_the_command_line_takes_an_entry(cli, scene, tmp_path):
    rings = [list(r.geometry.exterior.coords)[:-1] for r in read_annotation(scene.coarse).regions]
    path = save(tmp_path / "c.sav", {"case": {"one": outlines(rings), "two": outlines([OUTER])}})
    quick = ("--encoder", "colour", "--method", "logistic", "-q")
    unclear = cli("refine", scene.slide, path, "-o", tmp_path / "out", *quick)
    assert unclear.code == 2
    assert "case/one, case/two" in unclear.err
    done = cli("refine", scene.slide, path, "-o", tmp_path / "out", *quick, "--entry", "one")
    assert done.code == 0, done.err
    # Another entry is another run.
    other = cli("refine", scene.slide, path, "-o", tmp_path / "out", *quick, "--entry", "two")
    assert other.code == 2
    assert "another run" in other.err or "--overwrite" in other.err
    made = cli("simulate", path, "-o", tmp_path / "s.geojson", "--mpp", 0.5, "--kind", "shifted",
               "--entry", "case/one")  # fmt: skip
    assert made.code == 0, made.err
    judged = cli("evaluate", "--truth", scene.truth, "--prediction", path, "--entry", "one",
                 "--cell-px", 32)  # fmt: skip
    assert judged.code == 0, judged.err
