"""What a call gives back, in a form that two processes can compare.

Here belong the values that say the same in every process: numbers, texts, and what is made of them. Not here: what a
difference means (`returned` of the host).
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

MOST = 1000  # items of one value that are compared
DEEPEST = 5
LARGEST = 200_000  # characters of JSON; what is larger is not compared
LONGEST = 200  # characters and bytes that are kept as they are; of longer ones a hash


def said(value: Any) -> Any:
    """As `comparable`, and None where that is too much to say."""
    found = comparable(value)
    return found if len(json.dumps(found)) <= LARGEST else None


def comparable(value: Any, depth: int = 0) -> Any:
    """A value as JSON, with its kind beside it; None where it is None, or of a kind that says nothing of itself."""
    if isinstance(value, (bool, str, bytes)):
        text = repr(value)
        return [type(value).__name__, text if len(text) <= LONGEST else hashlib.sha256(text.encode()).hexdigest()]
    if isinstance(value, (int, float, complex)):
        parts = (value.real, value.imag) if isinstance(value, complex) else (value,)
        # An integer may be too large for a float, and JSON knows no infinity.
        return ["number", *[repr(part) if isinstance(part, int) or not math.isfinite(part) else part for part in parts]]
    if depth >= DEEPEST:
        return None
    if isinstance(value, (list, tuple)):
        return ["sequence", len(value), [comparable(one, depth + 1) for one in value[:MOST]]]
    if isinstance(value, dict):
        items = list(value.items())[:MOST]
        return ["mapping", len(value), sorted(([repr(key), comparable(one, depth + 1)] for key, one in items), key=str)]
    if isinstance(value, (set, frozenset)):
        return ["set", len(value), sorted((comparable(one, depth + 1) for one in value), key=str)[:MOST]]
    if all(hasattr(value, name) for name in ("ravel", "shape", "tolist")):  # numpy's, and what is like it
        flat = value.ravel()
        step = max(1, len(flat) // MOST)
        return ["array", [int(size) for size in value.shape], comparable(flat[::step].tolist()[:MOST], depth + 1)]
    return None
