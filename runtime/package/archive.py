"""The file of a package: a zip archive in one fixed form, so that the same contents are the same bytes.

    data = write(members)                       # {"manifest.json": b"...", "cpu/attend-3fa9.py": b"...", ...}
    members = read(data)

Every member is stored as it is, in the order of its name, without dates, owners or extra fields; the archive's comment is
the SHA-256 of the manifest.  `read` rebuilds the archive from what it has read and compares: there is no byte in a package
that means nothing, and none that two readers could understand in two ways.  Any tool that knows zip can unpack one.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

from ...errors import InvalidPackage

MANIFEST = "manifest.json"
MOST_MEMBERS = 10_000
MOST_BYTES = 1 << 31  # of a package; 4-byte offsets have room for twice that
LONGEST_NAME = 200

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCAL_MARK, _CENTRAL_MARK, _END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_MADE_BY, _NEEDS = 3 << 8 | 20, 20  # Unix, version 2.0
_DATE = 33  # 1 January 1980, the first day that there is
_MODE = 0o100644 << 16  # a plain file
_COMMENT = 64  # hexadecimal digits


def write(members: Mapping[str, bytes]) -> bytes:
    """The archive of these members.  Raises ValueError for names or sizes that `read` would refuse."""
    if len(members) > MOST_MEMBERS:
        raise ValueError(f"{len(members)} members are more than the {MOST_MEMBERS} that a package may have")
    body, directory, offset = [], [], 0
    for name in sorted(members):
        if (wrong := name_problem(name)) is not None:
            raise ValueError(f"the member {name!r} {wrong}")
        data, path = members[name], name.encode("ascii")
        check = (zlib.crc32(data), len(data), len(data))
        head = _LOCAL.pack(_LOCAL_MARK, _NEEDS, 0, 0, 0, _DATE, *check, len(path), 0) + path
        directory.append(
            _CENTRAL.pack(_CENTRAL_MARK, _MADE_BY, _NEEDS, 0, 0, 0, _DATE, *check, len(path), 0, 0, 0, 0, _MODE, offset)
            + path
        )
        body += [head, data]
        offset += len(head) + len(data)
        if offset > MOST_BYTES:
            raise ValueError(f"a package of more than {MOST_BYTES >> 20} MiB")
    listing = b"".join(directory)
    comment = digest(members[MANIFEST]).encode()
    count = len(members)
    end = _END.pack(_END_MARK, 0, 0, count, count, len(listing), offset, len(comment)) + comment
    return b"".join([*body, listing, end])


def read(data: bytes) -> dict[str, bytes]:
    """The members by name.  Raises InvalidPackage for anything but what `write` gives."""
    if len(data) > MOST_BYTES:
        raise InvalidPackage(f"it has {len(data)} bytes, and a package has at most {MOST_BYTES}")
    start, count = _directory(data)
    members: dict[str, bytes] = {}
    at = start
    for n in range(count):
        at = _member(data, at, n, members)
    if MANIFEST not in members:
        raise InvalidPackage(f"it has no member {MANIFEST}")
    if data[-_COMMENT:] != digest(members[MANIFEST]).encode():
        raise InvalidPackage(f"{MANIFEST} is not what was written: it has another hash than the archive's comment says")
    if write(members) != data:
        raise InvalidPackage(
            "it is not in the form in which packages are written: was it packed again by another tool?"
        )
    return members


def read_file(path: Path) -> bytes:
    """All of a file, if it is no larger than a package may be.  Raises InvalidPackage where it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InvalidPackage(f"it cannot be read: {error.strerror or error}") from error
    if len(data) > MOST_BYTES:
        raise InvalidPackage(f"it has more than the {MOST_BYTES} bytes that a package may have")
    return data


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def name_problem(name: str) -> str | None:
    """Why a member cannot have this name; None where it can."""
    if not name or len(name) > LONGEST_NAME:
        return "has a name that is empty or too long"
    if not name.isascii() or not all(c.isalnum() or c in "._-/" for c in name):
        return "has a name with characters that packages do not use"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return "has a name that leaves the package"
    return None


def _directory(data: bytes) -> tuple[int, int]:
    """Where the directory begins, and how many members it lists."""
    at = len(data) - _END.size - _COMMENT
    if at < 0 or data[at : at + 4] != _END_MARK:
        if data[:4] == _LOCAL_MARK:
            raise InvalidPackage("it is cut short, or a zip archive of another kind")
        raise InvalidPackage("it is no package: no zip archive ends here")
    _, disk, first, here, count, size, start, comment = _END.unpack_from(data, at)
    if disk or first or here != count or comment != _COMMENT or start + size != at:
        raise InvalidPackage("its directory does not fit the file: it is cut short, or was changed")
    if count > MOST_MEMBERS:
        raise InvalidPackage(f"it lists {count} members, and a package has at most {MOST_MEMBERS}")
    return start, count


def _member(data: bytes, at: int, n: int, members: dict[str, bytes]) -> int:
    """Reads the member that the directory lists at `at`; returns where the next one is listed."""
    if at + _CENTRAL.size > len(data) or data[at : at + 4] != _CENTRAL_MARK:
        raise InvalidPackage(f"its directory ends at member {n}")
    fields = _CENTRAL.unpack_from(data, at)
    flags, method, crc, packed, size, length, mode, offset = (fields[i] for i in (3, 4, 7, 8, 9, 10, 15, 16))
    extra, note = fields[11], fields[12]
    raw = data[at + _CENTRAL.size : at + _CENTRAL.size + length]
    name = raw.decode("ascii", "backslashreplace")
    if (wrong := name_problem(name)) is not None:
        raise InvalidPackage(f"its member {name[:80]!r} {wrong}")
    if name in members:
        raise InvalidPackage(f"it has two members {name}")
    if flags & 1:
        raise InvalidPackage(f"its member {name} is encrypted")
    if method != 0 or packed != size:
        raise InvalidPackage(f"its member {name} is compressed, and packages store everything as it is")
    if mode != _MODE:
        raise InvalidPackage(f"its member {name} is a link or a folder, or has other rights than those of a plain file")
    begin = offset + _LOCAL.size + length
    if begin + size > len(data) or data[offset : offset + 4] != _LOCAL_MARK:
        raise InvalidPackage(f"its member {name} is cut short")
    found = data[begin : begin + size]
    if zlib.crc32(found) != crc:
        raise InvalidPackage(f"its member {name} is not what was written: its check sum differs")
    members[name] = found
    return at + _CENTRAL.size + length + extra + note
