"""Python sources as syntax trees, from any thread.

Here belongs the one way in which the package parses Python. What is read from a tree is its reader's matter.
"""

import ast
import threading

UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What parsing raises for a text that is newer than this Python, or not meant to be read."""

# CPython before 3.11.8 counts the depth of the tree it makes for all threads together: a garbage collection in the
# midst may let another thread parse, and the first one then raises SystemError (python/cpython issue 106905).
_parsing = threading.Lock()


def parse(source: str | bytes, name: str = "<unknown>") -> ast.Module:
    """The tree of a module.

    Raises:
        UNREADABLE: there is none.
    """
    with _parsing:
        return ast.parse(source, name)
