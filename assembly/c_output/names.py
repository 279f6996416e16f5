"""Names of a program, which may be any text, as identifiers of C and as text inside of comments and literals."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

from ...errors import InvalidArgument

# Of C23 and C++23, with the alternative tokens; what a prefix must not be.  Other names get one in front, and are none.
_KEYWORDS = set(
    "alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t class compl "
    "concept const consteval constexpr constinit const_cast continue co_await co_return co_yield decltype default delete "
    "do double dynamic_cast else enum explicit export extern false float for friend goto if inline int long mutable "
    "namespace new noexcept not not_eq nullptr operator or or_eq private protected public register reinterpret_cast "
    "requires restrict return short signed sizeof static static_assert static_cast struct switch template this "
    "thread_local throw true try typedef typeid typename typeof typeof_unqual union unsigned using virtual void volatile "
    "wchar_t while xor xor_eq main".split()
)
# Headers that `PREFIX.h` would hide, and names of the runtime beside it.
_TAKEN = set(
    "assert complex ctype cuda errno fc fenv float hip inttypes iso646 limits locale math pthread setjmp signal stdalign "
    "stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string strings tgmath threads time uchar unistd wchar "
    "wctype".split()
)
LONGEST = 60  # characters of an identifier: C99 looks at 63


def identifier(text: str) -> str:
    """Letters, digits and single underscores of a text, "x" where there are none; to be put behind a prefix."""
    return re.sub(r"[^0-9A-Za-z]+", "_", text).strip("_")[: LONGEST // 2].strip("_") or "x"


def identifiers(prefix: str, texts: Iterable[str]) -> list[str]:
    """`prefix_text` of each text, all different."""
    found: dict[str, None] = {}
    for text in texts:
        made = base = f"{prefix}_{identifier(text)}"
        n = 2
        while made in found:
            made, n = f"{base}_{n}", n + 1
        found[made] = None
    return list(found)


def checked_prefix(prefix: str) -> str:
    """Raises InvalidArgument for what functions and files cannot be called."""
    taken = prefix in _KEYWORDS or prefix.lower() in _TAKEN
    if not re.fullmatch(r"[A-Za-z][0-9A-Za-z_]*", prefix) or len(prefix) > LONGEST or taken:
        raise InvalidArgument(
            f"the prefix {prefix!r} is no identifier that C and C++ leave free",
            next_step=f"give up to {LONGEST} letters, digits and underscores, a letter first: prefix='attend'",
        )
    return prefix


def comment(text: str) -> str:
    """The text as it may stand inside of a comment: nothing in it ends the comment, begins one, or is a trigraph."""
    plain = "".join(c if c.isascii() and c.isprintable() and c != "\\" else "?" for c in text)
    return re.sub(r"\?(?=\?)", "? ", re.sub(r"/(?=\*)", "/ ", re.sub(r"\*(?=/)", "* ", plain)))


def literal(text: str) -> str:
    """A text as a literal of C: whatever is in it, no escape reaches beyond its own byte."""
    plain = b"_ .-" + (string.ascii_letters + string.digits).encode()
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in text.encode()) + '"'


def paragraph(text: str, width: int = 116) -> list[str]:
    """Lines of a comment's text, without its marks."""
    lines: list[str] = []
    for word in comment(text).split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
