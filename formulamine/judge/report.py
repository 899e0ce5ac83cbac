"""An evaluation as text for people."""

from __future__ import annotations

from collections.abc import Mapping

from formulamine.judge.evaluation import Outcome


def table(outcomes: Mapping[str, Outcome], missed: bool = False) -> str:
    """One line a stage, false positives by kind below it, and on demand what was missed."""
    width = max(map(len, outcomes), default=0)
    lines = [f"{'':{width}}  {'recall':32}  {'false positives':32}  passed of all merged"]
    for name, one in outcomes.items():
        lines.append(f"{name:{width}}  {one.recall!s:32}  {one.false_positives!s:32}  {one.passed}".rstrip())
        if one.undecided:
            lines.append(f"{'':{width}}  undecided: {one.undecided}")
        if len(one.false) > 1:
            lines += [f"{'':{width}}  {'':32}  {kind}: {rate}" for kind, rate in sorted(one.false.items())]
    if missed:
        for name, one in outcomes.items():
            if not name.startswith("title"):
                lines += [f"missed by {name}: {told}" for told in one.missed]
    return "\n".join(lines)
