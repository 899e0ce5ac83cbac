"""How many leaks the leak check catches, and how many clean texts it stops; or real statements to read.

Usage: python benchmarks/leaks.py --repo OWNER/NAME=PATH ... [--leaking 40] [--clean 40] [--seed 1] [--show]
       python benchmarks/leaks.py --repo OWNER/NAME=PATH ... --statements 20

Fixes are merged pull requests whose titles speak of performance. A text that leaks is a clean one into which a line
that the fix adds was put: as it is, with a name changed, broken over lines, in other letters, in a code fence, in
look-alike letters, or in two pieces. A clean one is made of paragraphs that people wrote without the fix: half from
messages of other pull requests merged before it, half from documentation of its base.
Paragraphs with an address, a number of an issue, an at sign or a word of praise are left out by rules of this file,
since those are leaks of anybody's. Lines are chosen by rules of this file too, so that a line that the check overlooks
is missed here. Exits 1 where a leak is missed or more than two clean texts are stopped. State (mirrors) is kept in
FORMULAMINE_HOME.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from keyword import kwlist
from pathlib import Path

from formulamine.discover.diff import DiffError, parse_patch
from formulamine.discover.pull_requests import merged_between
from formulamine.discover.sieve import SieveInput, sieve_by_files
from formulamine.items import Done
from formulamine.records import BenchmarkResult, CandidatePR, PullRequest
from formulamine.services.container import Services
from formulamine.settings import Settings
from formulamine.ship import extraction
from formulamine.ship.guard import Documents, Guard, guard_of
from formulamine.ship.identity import StandIns
from formulamine.ship.issues import NoIssues, documents
from formulamine.ship.statements import choose, names_of, render

MOST_STOPPED = 2
PERFORMANCE = re.compile(
    r"\b(?:perf\w*|speed\w*|fast\w*|slow\w*|optimi[sz]\w*|efficien\w*|memory|cach\w+|vectori[sz]\w+|overhead)\b", re.I
)
MOST_LINES = 400  # of a fix: larger ones are no fixes
NAME = re.compile(r"[A-Za-z_]\w*")
NO_NAMES = {*kwlist, *map(str.capitalize, kwlist), "self"}  # a comment may begin with "For"
GIVEN_AWAY = re.compile(
    r"https?:|www\.|#\d|@|gh-\d|speed-?up|faster|\d\s?x\b|times|->|\bPR\b|pull request|branch|commit", re.I
)
ELSEWHERE = "zebra_crossing"
CYRILLIC = str.maketrans("aceopxy", "асеорху")


@dataclass(frozen=True)
class Case:
    """One fix, with what is needed to look at texts beside it."""

    url: str
    pull_request: PullRequest
    pr_id: str
    candidate: CandidatePR
    earlier: list[PullRequest]

    def guard(self, services: Services) -> Guard:
        """What must not be told of it."""
        one = self.pull_request
        return guard_of(
            one.repo, self.url, one.base_sha, one.merge_sha, self.candidate.patch_sha256, self.candidate.core_files,
            services.git, services.blobs,
        )  # fmt: skip


def main() -> int:
    """Look at all texts and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", action="append", required=True, metavar="OWNER/NAME=PATH")
    parser.add_argument("--leaking", type=int, default=40)
    parser.add_argument("--clean", type=int, default=40)
    parser.add_argument("--days", type=int, default=1500, help="how far back")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="print every text with what was found in it")
    parser.add_argument("--statements", type=int, default=0, help="print so many statements instead")
    asked = parser.parse_args()
    services = Services(Settings())
    try:
        places = dict(one.split("=", 1) for one in asked.repo)
        # Some have no paragraph or no line that fits.
        wanted = asked.statements or 2 * max(asked.leaking, asked.clean)
        cases = in_turn([cases_of(services, repo, url, asked.days) for repo, url in places.items()], wanted, asked.seed)
        if asked.statements:
            for number, case in enumerate(cases, 1):
                tell(services, number, case)
            return 0
        return evaluate(services, cases, asked.leaking, asked.clean, random.Random(asked.seed), asked.show)
    finally:
        services.close()


def cases_of(services: Services, repo: str, url: str, days: int) -> list[Case]:
    """Merged pull requests of a repository's last days that speak of performance and that the sieve lets through."""
    mirror = services.git.mirror(repo, services.git.inspect_source(url))
    chain = services.git.first_parent(mirror)
    newest = chain[0].committed_at
    records, _ = merged_between(services.git, mirror, repo, chain[0].sha, newest - timedelta(days=days), newest)
    found: list[Case] = []
    earlier: list[PullRequest] = []
    for pr_id, one in sorted(records.items(), key=lambda pair: pair[1].merged_at):
        if PERFORMANCE.search(one.title) and not one.is_bot and earlier:
            patch = services.git.patch(mirror, one.merge_sha)
            values = {**one.model_dump(), "pr_id": pr_id}
            item = SieveInput.model_validate({name: values[name] for name in SieveInput.model_fields})
            outcome = sieve_by_files(item, patch, services.settings.sieve)
            record = outcome.record if isinstance(outcome, Done) else None
            if isinstance(record, CandidatePR) and record.core_files and len(added_lines(patch)) <= MOST_LINES:
                services.blobs.put(patch)
                found.append(Case(url, one, pr_id, record, list(earlier)))
        earlier.append(one)
    return found


def in_turn(groups: list[list[Case]], wanted: int, seed: int) -> list[Case]:
    """So many cases, as evenly from all repositories as there are, drawn at random."""
    for group in groups:
        random.Random(seed).shuffle(group)
    chosen: list[Case] = []
    while len(chosen) < wanted and any(groups):
        chosen += [group.pop() for group in groups if group]
    return chosen[:wanted]


def added_lines(patch: bytes) -> list[str]:
    """Lines that a patch adds."""
    try:
        return [line for one in parse_patch(patch) for line in one.added]
    except DiffError:
        return []


def evaluate(services: Services, cases: list[Case], leaking: int, clean: int, draw: random.Random, show: bool) -> int:
    """Count what is caught and what is stopped."""
    caught: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    stopped = 0
    read = 0
    missed: list[str] = []
    kinds = list(MUTATIONS)
    for number, case in enumerate(cases):
        if read >= clean and tried.total() >= leaking:
            break
        guard = case.guard(services)
        base = base_texts(services, case)
        text = clean_text(case, base, guard, draw, from_messages=number % 2 == 0)
        if text and read < clean:
            read += 1
            leaks = guard.leaks(text)
            stopped += bool(leaks)
            if show or leaks:
                print(f"clean {case.pr_id}: {'stopped by ' + '; '.join(map(str, leaks)) if leaks else 'let through'}")
                print("    " + text.replace("\n", "\n    ") if show else "")
        kind = kinds[sum(tried.values()) % len(kinds)]
        lines = telling_lines(services.blobs.get(case.candidate.patch_sha256), base, two_names=kind == "renamed")
        if lines and sum(tried.values()) < leaking:
            line = draw.choice(lines)
            leaked = MUTATIONS[kind](line, draw)
            told = f"{text}\n\n{leaked}\n\nIt should not be that slow."
            tried[kind] += 1
            leaks = guard.leaks(told)
            # A leak that stands in the clean text already is no merit.
            caught[kind] += bool(set(leaks) - set(guard.leaks(text)))
            if not set(leaks) - set(guard.leaks(text)):
                missed.append(f"{case.pr_id} {kind}: {line.strip()!r} as {leaked!r}")
    for kind in kinds:
        print(f"{kind}: {caught[kind]} of {tried[kind]} caught")
    print(*(f"missed: {one}" for one in missed), sep="\n")
    print(f"{caught.total()} of {tried.total()} leaks caught; {stopped} of {read} clean texts stopped")
    return int(caught.total() < tried.total() or stopped > MOST_STOPPED)


def base_texts(services: Services, case: Case) -> dict[str, str]:
    """Texts of the base tree by path."""
    one = case.pull_request
    mirror = services.git.open(one.repo, case.url)
    places = [
        (one.base_sha, entry.path) for entry in services.git.list_tree(mirror, one.base_sha) if entry.type == "blob"
    ]
    return {
        place[1]: content.decode("utf-8", "replace")
        for place, content in services.git.read_blobs(mirror, places).items()
        if content is not None and b"\0" not in content
    }


def telling_lines(patch: bytes, base: dict[str, str], two_names: bool) -> list[str]:
    """Added lines of 12 characters and 3 tokens that base lacks."""
    known = {"".join(line.split()) for text in base.values() for line in text.splitlines()}
    found = []
    for line in added_lines(patch):
        names = set(NAME.findall(line)) - NO_NAMES
        enough = len("".join(line.split())) >= 12 and len(re.findall(r"\w+|[^\w\s]", line)) >= 3
        if enough and "".join(line.split()) not in known and (len(names) > 1 or not two_names):
            found.append(line)
    return found


def clean_text(case: Case, base: dict[str, str], guard: Guard, draw: random.Random, from_messages: bool) -> str:
    """Two paragraphs that were written without the fix; "" where there are none."""
    written = (
        [one.body for one in case.earlier[-400:]]
        if from_messages
        else [text for path, text in base.items() if Path(path).suffix in (".md", ".rst")]
    )
    paragraphs = [
        part for text in written for part in re.split(r"\n\s*\n", text.replace("\r\n", "\n"))
        if 80 < len(part) < 600 and part[0].isupper() and part.rstrip().endswith(".")
        and not GIVEN_AWAY.search(part) and not re.search(r"^\s*[*+-]|-by:|[:`]_|::|\|", part, re.MULTILINE)
    ]  # fmt: skip
    if len(paragraphs) < 2:
        return ""
    return StandIns(guard.people).hide("\n\n".join(draw.sample(paragraphs, 2)))


def renamed(line: str, draw: random.Random) -> str:
    """A line with one name changed everywhere."""
    names = sorted(set(NAME.findall(line)) - NO_NAMES)
    name = draw.choice(names)
    changed = re.sub(rf"\b{re.escape(name)}\b", ELSEWHERE, line.strip())
    return f"`{changed}`"


def rewrapped(line: str, draw: random.Random) -> str:
    """A line broken at every third blank, in a quote."""
    words = line.split()
    return "> " + "\n> ".join(" ".join(words[at : at + 3]) for at in range(0, len(words), 3))


def in_two(line: str, draw: random.Random) -> str:
    """A line in two fences."""
    words = line.split()
    middle = max(1, len(words) // 2)
    return "\n".join(["```python", " ".join(words[:middle]), "```", "```", " ".join(words[middle:]), "```"])


MUTATIONS: dict[str, Callable[[str, random.Random], str]] = {
    "line": lambda line, draw: f"One could write {line.strip()} there.",
    "renamed": renamed,
    "re-wrapped": rewrapped,
    "other case": lambda line, draw: f"`{line.strip().upper()}`",
    "code fence": lambda line, draw: f"```python\n{line}\n```",
    "look-alikes": lambda line, draw: "\u200b".join(line.strip().translate(CYRILLIC)),
    "in two": in_two,
}


def tell(services: Services, number: int, case: Case) -> None:
    """Print the statement of one pull request with its source and what was left out; its measured part is made up."""
    one = case.pull_request
    guard = case.guard(services)
    written = Documents(documents=documents(one.repo, one.number, one.title, one.body, NoIssues()))
    chosen = choose(extraction.by_rules(written.hidden(guard.people)), guard)
    faster = [measured()]
    statement = render(one.repo, chosen.parts, faster)
    leaks = guard.told(statement, chosen.removed, names_of(faster))
    print(f"{'=' * 20} {number}. {case.pr_id}: {one.title}\n{indented(one.body)}")
    removed = "\n".join(f"[{gone.why}] {gone.text}" for gone in chosen.removed)
    print(f"---------- removed\n{indented(removed)}")
    print(f"---------- statement{' LEAKS ' + '; '.join(map(str, leaks)) if leaks else ''}\n{indented(statement)}")


def measured() -> BenchmarkResult:
    """A benchmark that got faster."""
    return BenchmarkResult(
        benchmark="bench.time_it", kind="time", stage="confirm", mode="loop", status="ok", detail="", number=1,
        rounds=4, speedup=1.5, ci_low=1.4, ci_high=1.6, base_seconds=0.0123, head_seconds=0.0082, wall_speedup=1.5,
        decision="faster",
    )  # fmt: skip


def indented(text: str) -> str:
    """A text set off."""
    return "\n".join(f"    {line}" for line in text.splitlines())


if __name__ == "__main__":
    sys.exit(main())
