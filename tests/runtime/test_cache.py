"""Entries on disk: whole, private, checked; a bad one costs a warning and the time to make it anew."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path

import pytest
from data.artifacts import double_and_sum, row_sum

from fusecade.errors import CacheWarning, UserError
from fusecade.runtime.cache import Store, read_artifact

BODY = {"kernels": {"a": 1}, "note": "ü"}


def test_what_is_written_is_read(tmp_path: Path):
    Store(tmp_path / "plans").write("key", BODY)
    store = Store(tmp_path / "plans")
    assert store.read("key") == BODY
    assert (store.hits, store.misses) == (1, 0)


def test_what_is_not_there_is_not_there(tmp_path: Path):
    store = Store(tmp_path / "plans")
    assert store.read("key") is None
    assert (store.hits, store.misses) == (0, 1)


def test_the_folder_is_private(tmp_path: Path):
    Store(tmp_path / "made" / "plans")
    for folder in (tmp_path / "made", tmp_path / "made" / "plans"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_of_others_is_refused(tmp_path: Path):
    (tmp_path / "plans").mkdir(mode=0o755)
    with pytest.raises(UserError, match=r"chmod 700"):
        Store(tmp_path / "plans")


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "plans").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="not a folder of your own"):
        Store(tmp_path / "plans")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path):
    (tmp_path / "plans").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        Store(tmp_path / "plans")


def _entry(folder: Path) -> Path:
    [path] = folder.glob("key.json")
    return path


def _bad_entries():
    yield "empty", lambda text: b""
    yield "cut short", lambda text: text[: len(text) // 2]
    yield "no JSON", lambda text: b"\xff\xfe nonsense"
    yield "a list", lambda text: b"[]"
    yield "deep", lambda text: b"[" * 100_000
    yield "one bit", lambda text: text.replace(b"kernels", b"kernelz")
    yield "another body", lambda text: _changed(text, "body", {"kernels": {}})
    yield "another format", lambda text: _changed(text, "format", 0)
    yield "another key", lambda text: _changed(text, "key", "other")
    yield "body of another kind", lambda text: _changed(text, "body", "text")


def _changed(text: bytes, name: str, value: object) -> bytes:
    return json.dumps({**json.loads(text), name: value}).encode()


@pytest.mark.parametrize("change", [c for _, c in _bad_entries()], ids=[n for n, _ in _bad_entries()])
def test_a_bad_entry_is_reported_once_and_made_anew(tmp_path: Path, change):
    store = Store(tmp_path / "plans")
    store.write("key", BODY)
    path = _entry(store.folder)
    path.write_bytes(change(path.read_bytes()))
    with pytest.warns(CacheWarning, match="is made anew") as caught:
        found = [store.read("key") for _ in range(2)]
    assert (found, len(caught)) == ([None, None], 1)
    store.write("key", BODY)
    assert Store(tmp_path / "plans").read("key") == BODY


def test_the_warning_says_what_to_do():
    text = str(CacheWarning("the cache entry x is cut short, and is made anew", Path("/cache")))
    assert text.splitlines() == [
        "fusecade: the cache entry x is cut short, and is made anew",
        "next: nothing has to be done, the result is the same; if it happens again, delete /cache, or set "
        "FUSECADE_CACHE_DIR to a folder of your own",
    ]


def test_a_folder_that_is_gone_is_made_again(tmp_path: Path):
    store = Store(tmp_path / "plans")
    store.folder.rmdir()
    assert store.read("key") is None
    store.write("key", BODY)
    assert store.read("key") == BODY


def test_a_file_where_the_folder_was_costs_a_warning(tmp_path: Path):
    store = Store(tmp_path / "plans")
    store.folder.rmdir()
    store.folder.touch()
    with pytest.warns(CacheWarning, match="cannot be written to"):
        store.write("key", BODY)


def test_writers_at_the_same_time_leave_whole_entries(tmp_path: Path):
    bodies = [{"kernels": {str(n): "x" * 10_000}} for n in range(4)]

    def work(body):
        for _ in range(20):
            Store(tmp_path / "plans").write("key", body)
            assert Store(tmp_path / "plans").read("key") in bodies

    threads = [threading.Thread(target=work, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.name for p in (tmp_path / "plans").iterdir()] == ["key.json"]


class TestArtifacts:
    @pytest.mark.parametrize("make", [row_sum, double_and_sum])
    def test_they_come_back(self, make):
        artifact = make()
        again = read_artifact(json.loads(json.dumps(artifact.to_json())))
        assert again.fingerprint == artifact.fingerprint
        assert again == artifact

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("kind", "c"), ("source", 3), ("function", "os.system('x')"), ("function", "a b"), ("sizes", ["n", "m;"]),
            ("launch", {"programs": "__import__('os')"}), ("launch", []), ("launch", {}), ("params", None),
            ("inputs", [{"shape": ["q"], "strides": [1], "dtype": "f32"}]),
            ("inputs", [{"shape": [4], "strides": [1, 1], "dtype": "f32"}]),
            ("outputs", [{"shape": [4], "strides": [1], "dtype": "f7"}]),
            ("outputs", [{"shape": [4]}]), ("outputs", None),
        ],
    )  # fmt: skip
    def test_what_no_printer_writes_is_refused(self, name, value):
        with pytest.raises(ValueError, match=r"\w"):
            read_artifact({**row_sum().to_json(), name: value})

    @pytest.mark.parametrize("data", [None, [], "text", {}, {"name": "k"}])
    def test_what_is_no_kernel_is_refused(self, data):
        with pytest.raises(ValueError, match="not a kernel"):
            read_artifact(data)
