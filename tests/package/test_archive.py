"""The file of a package: one form, and every way of not having it is an error that says what is wrong."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import packaged
import pytest

import fusecade
from fusecade.errors import InvalidPackage
from fusecade.runtime.package import archive
from fusecade.runtime.package.manifest import Package

MEMBERS = {"manifest.json": b"{}", "cpu/k.py": b"text", "sm_80/k.cubin": bytes(range(256))}


def zipped(edit: Callable[[zipfile.ZipFile], object], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of another tool."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as z:
        for name, data in MEMBERS.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o100644 << 16
            z.writestr(info, data, compression)
        edit(z)
        z.comment = archive.digest(MEMBERS["manifest.json"]).encode()
    return file.getvalue()


def link(z: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("cpu/link")
    info.external_attr, info.create_system = (stat.S_IFLNK | 0o777) << 16, 3
    z.writestr(info, "/etc/passwd")


def twice(z: zipfile.ZipFile) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        z.writestr("cpu/k.py", b"another")


def test_what_is_written_is_read_and_any_tool_can_open_it(tmp_path: Path):
    data = archive.write(MEMBERS)
    assert archive.read(data) == MEMBERS
    assert archive.write(dict(reversed(MEMBERS.items()))) == data
    with zipfile.ZipFile(io.BytesIO(data)) as z:
        assert z.testzip() is None
        assert {name: z.read(name) for name in z.namelist()} == MEMBERS
        assert all(i.compress_type == zipfile.ZIP_STORED and i.date_time == (1980, 1, 1, 0, 0, 0) for i in z.infolist())


def bomb(z: zipfile.ZipFile) -> None:
    z.writestr("cpu/bomb", bytes(10 << 20), zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (bomb, "cpu/bomb has a|compressed"),
        (link, "is a link or a folder"),
        (twice, r"two members cpu/k\.py"),
        (lambda z: z.writestr("../up", b""), "leaves the package"),
        (lambda z: z.writestr("/etc/passwd", b""), "leaves the package"),
        (lambda z: z.writestr("cpu/./k", b""), "leaves the package"),
        (lambda z: z.writestr("cpu\\k", b""), "characters that packages do not use|is a link"),
        (lambda z: z.writestr("k\u00e4", b""), "characters that packages do not use"),
        (lambda z: z.writestr("a" * 300, b""), "too long"),
        (lambda z: z.mkdir("cpu/folder"), "leaves the package"),
        (lambda z: [z.writestr(f"m{n}", b"") for n in range(archive.MOST_MEMBERS)], "at most 10000"),
        (lambda z: None, "packed again by another tool"),
    ],
)
def test_archives_of_other_tools(edit: Any, words: str):
    with pytest.raises(InvalidPackage, match=words):
        archive.read(zipped(edit))


def replaced(offset: int, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:offset] + new + data[offset + len(new) :]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: b"", "no zip archive ends here"),
        (lambda d: b"\x7fELF" + bytes(500), "no zip archive ends here"),
        (lambda d: d[:-1], "cut short"),
        (lambda d: d[: len(d) // 2], "cut short"),
        (lambda d: d + b"\0", "cut short, or a zip archive of another kind"),
        (lambda d: b"#!/bin/sh\n" + d, "does not fit the file"),
        (lambda d: d.replace(b"text", b"tixt"), "its check sum differs"),
        (lambda d: d[:-1] + (b"0" if d[-1:] != b"0" else b"1"), "another hash than the archive's comment says"),
        (replaced(10, b"\1"), "not in the form in which packages are written"),
    ],
)
def test_files_that_were_changed(change: Any, words: str):
    with pytest.raises(InvalidPackage, match=words):
        archive.read(change(archive.write(MEMBERS)))


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(InvalidPackage, match="cannot be read: No such file"):
        fusecade.load(tmp_path / "none.fcade")
    with pytest.raises(InvalidPackage, match="cannot be read: Is a directory"):
        fusecade.load(tmp_path)


def test_too_large_a_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "large").write_bytes(bytes(101))
    monkeypatch.setattr(archive, "MOST_BYTES", 100)
    with pytest.raises(InvalidPackage, match="more than the 100 bytes"):
        fusecade.load(tmp_path / "large")


def at(manifest: Any, *path: Any) -> Any:
    for key in path:
        manifest = manifest[key if not (isinstance(manifest, dict) and key == 0) else next(iter(manifest))]
    return manifest


STEPS = ("targets", 0, "buckets", 0, "steps")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: m.update(schema=2), "written in schema 2, and this version reads 1"),
        (lambda m: m.update(schema="1"), "manifest.schema is a text where an integer is needed"),
        (lambda m: m.update(format="zip"), "not that of a Fusecade package"),
        (lambda m: m.update(more=1), "has a field 'more', which this version does not know"),
        (lambda m: m.pop("signature"), "manifest has no signature"),
        (lambda m: at(m, "targets").append(at(m, "targets", 0)), "two targets cpu"),
        (lambda m: at(m, "targets", 0).update(buckets=[]), "has no bucket"),
        (lambda m: at(m, "targets", 0, "buckets", 0)["upto"].update(n=0), "upto is no table of sizes"),
        (lambda m: at(m, *STEPS, 0).update(kernel="cpu/other"), "there is none of that name for cpu"),
        (lambda m: at(m, *STEPS, 0).update(inputs=[99, 0]), "which is no number from 0"),
        (lambda m: at(m, *STEPS, 0).update(sizes=["n.__class__"]), "is not arithmetic over the sizes"),
        (lambda m: at(m, *STEPS, -2).update(operator="aten.from_file.default"), "cannot be run from a package"),
        (lambda m: at(m, *STEPS, -2).update(operator="aten.resize_.default"), "it changes its arguments"),
        (lambda m: at(m, *STEPS, -2).update(operator="os.system.default"), "is no operator that packages keep"),
        (lambda m: at(m, *STEPS, -2).update(operator="aten.__class__.default"), "is no operator that packages keep"),
        (lambda m: at(m, "signature", "leaves", 0).update(shape=["n", 1 << 70]), "something that is no size"),
        (lambda m: at(m, "signature", "leaves", 0).update(shape=["n", -1]), "something that is no size"),
        (lambda m: at(m, "signature", "leaves", 0).update(dtype="load"), "'load' is no dtype"),
        (lambda m: at(m, "signature").update(sizes=["n", "m"]), "the size m of mixed is no dimension"),
        (lambda m: at(m, "signature").update(arguments={"tuple": []}), "another number of leaves"),
        (lambda m: at(m, "kernels", 0)["artifact"].update(launch={"programs": "n // 0 +"}), "is not an expression"),
        (
            lambda m: at(m, "kernels", 0)["artifact"].update(function="other"),
            "not the kernel that its fingerprint says",
        ),
    ],
)
def test_manifests_that_were_edited_with_all_hashes_mended(edit: Any, words: str, small: Path):
    data = packaged.repacked(archive.read(small.read_bytes()), edit)
    with pytest.raises(InvalidPackage, match=words):
        fusecade.runtime.package.load.LoadedFunction(Package.of(data), "edited")


def test_members_and_their_hashes(small: Path):
    members = archive.read(small.read_bytes())
    name = next(n for n in members if n.endswith(".py"))
    for change, words in (
        (lambda m: m.update({name: m[name] + b"#"}), f"member {name} is not what was written"),
        (lambda m: m.pop(name), f"member {name} is missing"),
        (lambda m: m.update(more=b""), "does not list the member more"),
    ):
        found = dict(members)
        change(found)
        with pytest.raises(InvalidPackage, match=words):
            Package.of(archive.write(found))
    with_more = packaged.repacked({**members, "more": b""}, lambda m: m["members"].update(more={}))
    with pytest.raises(InvalidPackage, match="nothing refers to its member more"):
        Package.of(with_more)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", "is not JSON"), (b"\xff", "is not JSON"), (b'{"a": 1, "a": 2}', "a key comes twice"),
        (b'{"a": NaN}', "NaN is no number"), (b"[" * 100 + b"]" * 100, "nested too deep"),
        (b"[" * 100_000 + b"]" * 100_000, "too deep"), (b"9" * 5000, "is not JSON"), (b"[]", "a list where fields are needed"),
    ],
)  # fmt: skip
def test_manifests_that_are_no_json_of_ours(text: bytes, words: str):
    with pytest.raises(InvalidPackage, match=words):
        Package.of(archive.write({"manifest.json": text}))
