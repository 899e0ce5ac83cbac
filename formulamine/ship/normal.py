"""Texts brought to one form, so that what says the same compares as equal.

Here belongs undoing what hides a text from a comparison without hiding it from a reader: look-alike letters, characters
without width, HTML, quoting, case, line breaks. What is looked for in such a text is the matter of `leak.py`.
"""

from __future__ import annotations

import html
import re
import tomllib
import unicodedata
from pathlib import Path

LOOKALIKES_FILE = Path(__file__).with_name("lookalikes.toml")
_LOOKALIKES = {
    ord(letter): latin
    for latin, letters in tomllib.loads(LOOKALIKES_FILE.read_text(encoding="utf-8"))["lookalikes"].items()
    for letter in letters
}
_HIDDEN = frozenset({"Cf", "Mn", "Me"})  # without width; marks on or around the letter before
_FENCE = re.compile(r"^[ \t>]*(?:`{3,}|~{3,})[\w+-]*[ \t]*$", re.MULTILINE)
_TAG = re.compile(
    r"</?(?:code|pre|br|b|i|em|strong|kbd|tt|span|p|div|li|ul|ol|td|tr|th|details|summary)\b[^<>]*>", re.I
)
_ESCAPE = re.compile(r"\\(?=[\W_])")
_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\w+|[^\w\s]")
QUOTING = "`'\"\\_"
"""What quotes or escapes code, and what Markdown takes for emphasis inside of it."""
MARKS = QUOTING + ">+-*|#/$"
"""The same with what begins lines of quotes, lists, tables, comments and sessions: a loose comparison ignores it."""
_NO_QUOTING = str.maketrans("", "", QUOTING)
_NO_MARKS = str.maketrans("", "", MARKS)


def visible(text: str) -> str:
    """A text as a reader sees it, in letters that have one code each: HTML, width, marks and look-alikes undone."""
    if "&" in text:
        text = html.unescape(text)
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text)
        text = "".join(one for one in decomposed if unicodedata.category(one) not in _HIDDEN).translate(_LOOKALIKES)
    return text


def unfenced(text: str) -> str:
    """A visible text without the lines and tags that set code off from prose, and without Markdown's escapes."""
    return _ESCAPE.sub("", _TAG.sub(" ", _FENCE.sub("", text)))


def squeezed(text: str) -> str:
    """A visible text as one word: without case and white space."""
    return "".join(text.casefold().split())


def strict(text: str) -> str:
    """The same without quoting."""
    return squeezed(text.translate(_NO_QUOTING))


def unmarked(form: str) -> str:
    """A squeezed form without what may begin a line of a quote, a list, a table, a comment or a session."""
    return form.translate(_NO_MARKS)


def loose(text: str) -> str:
    """A visible text as one word without these too."""
    return unmarked(strict(text))


def tokens(text: str) -> list[str]:
    """Words and signs of a visible text, compared as loosely."""
    return _TOKEN.findall(text.casefold().translate(_NO_MARKS))


def word(name: str) -> str:
    """A name as all ways to write it: `LookupTable`, `lookup_table` and `LOOKUP_TABLE` are one."""
    return name.casefold().replace("_", "")


def words(text: str) -> set[str]:
    """All words of a visible text, in that form."""
    return {word(one) for one in _WORD.findall(text)}
