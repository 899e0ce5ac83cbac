"""The records that tables are made of: what a phase says of one item, a typed class each.

Here belong record classes and how an item ends. Nothing here needs more than pydantic, so that what computes on records
starts quickly. Which tables they make is in `tables.py`.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Status(StrEnum):
    """How an item ended at one asset."""

    DONE = "done"
    REJECTED = "rejected"
    FAILED = "failed"
    DEFERRED = "deferred"


class Record(BaseModel):
    """A typed value that can be written as JSON, read back and checked."""

    # The sentence under a field is its description: the UI shows it beside the column.
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Repository(Record):
    """A repository with an ASV suite, as of the month's end."""

    node_id: str | None
    """GitHub's stable id; None where the repository is known from git alone."""
    url: str
    """Where it is read from: a URL, or an absolute path."""
    default_branch: str
    head_sha: str
    """Last first-parent commit of the default branch before the month's end."""
    stars: int | None
    """At the time of the listing; None where it is known from git alone, as with the next two."""
    archived: bool | None
    fork: bool | None
    asv_config: str
    """Path of the ASV configuration inside the repository."""
    benchmark_dir: str
    """Path of the benchmark suite inside the repository."""
    discovered_by: str
    """What named it; "git" is a registration by a person."""
    aliases: list[str]
    """Earlier names of the same repository."""


class FileChange(Record):
    r"""One path that a pull request changes. Binary files count 0 lines. Bytes that are no UTF-8 stand as `\xNN`."""

    path: str
    additions: int
    deletions: int


class PullRequest(Record):
    """A merged pull request, read from git (later from GitHub)."""

    repo: str
    """OWNER/NAME."""
    number: int
    title: str
    body: str
    """As the merge commit has it; from git it may be empty."""
    author: str
    is_bot: bool
    """Whether the author's name or address is that of a known bot."""
    labels: list[str]
    """Empty where read from git."""
    merged_at: datetime
    """Committer time of the merge commit, in UTC."""
    base_sha: str
    """First parent of `merge_sha`."""
    merge_sha: str
    """The commit that brought it to the default branch."""
    merge_style: Literal["merge", "squash"]
    files: list[FileChange]
    """Changed paths, with lines added and deleted."""
    linked_issues: list[str]
    """Issues that title and body name."""
    source: Literal["git", "github"]
    reverted_by: str | None
    """Commit of the same month's listing that reverts this one."""
    also: list[str]
    """Later commits of the same number."""


class CandidatePR(Record):
    """A pull request that may be performance work."""

    signals: list[str]
    """Rules that speak for or against performance work, the heaviest first."""
    score: float
    """Weight of all signals together."""
    patch_sha256: str
    """Blob of the diff from base to merge commit."""
    patch_tokens: int
    """Length of the diff, estimated from its characters."""
    core_files: list[str]
    """Changed files outside tests, documentation, benchmarks and continuous integration."""


Category = Literal[
    "use_better_algorithm",
    "use_better_data_structure_and_layout",
    "use_lower_level_system",
    "accept_less_precise_solution",
    "use_parallelization",
    "remove_or_reduce_work",
    "cache_and_reuse",
    "do_it_earlier_batch_throttle",
    "scale_platform",
    "database_and_storage_tuning",
    "micro_optimizations",
    "io_and_latency_hiding",
    "use_higher_level_system",
    "uncategorized",
]


class Classification(Record):
    """A judge's opinion of a candidate."""

    is_performance: bool | None
    """Biased to yes: the measurement decides. None where no judge gave a usable answer, which is no "no"."""
    category: Category
    difficulty: Literal["easy", "medium", "hard"]
    rationale: str
    """Why, quoting the evidence."""
    judge: str
    """Who judged: the rules, or the model that answered."""
    prompt_version: str
    tokens: int
    """Spent on the answer; 0 for rules."""
    second_judge: str
    """Who judged a second time, of a sample, for the agreement alone: empty outside it, "none" where no answer came."""
    second_opinion: bool | None
    """What the second judge said."""


class EnvPayload(Record):
    """Everything that decides an environment: interpreter and pins."""

    python_version: str
    """Series of the interpreter that is taken, as "3.11"."""
    acceptable_pythons: list[str]
    """Series in order of preference; the first one present is taken."""
    interpreter_source: str
    """The evidence that chose it."""
    package_root: str
    """Folder of the package's build files inside the repository, "." for its root."""
    distribution: str
    """Name of the package under test as its metadata has it; never among its own pins."""
    pins: list[str]
    """Releases that both sides run with, as "name==version"."""
    pins_base: list[str]
    """Pins of the base side where one set cannot satisfy both, else empty."""
    build_pins: list[str]
    """Releases that both sides are built with."""
    build_environment_variables: list[str]
    """`NAME=value` of the ASV matrix, set for build and measurement."""
    cutoff: str
    """Day before which every pinned release was uploaded; empty where `relaxed`."""
    cutoff_rung: Literal["month_start", "merge_date", "relaxed"]
    """How far the day was relaxed until releases were found."""
    dropped: list[str]
    """Requirements left out, each with why."""
    sources: list[str]
    """Where each requirement comes from, as "requirement <- place"."""
    uv_version: str
    """Version of the resolver."""


class Image(Record):
    """A verified build of both sides."""

    backend: Literal["local", "docker"]
    base_digest: str
    """Environment and base: what ships."""
    measure_digest: str
    """The same with head beside it: never ships."""
    route: Literal["cache", "neighbour", "default", "llm"]
    """How its recipe was come by."""
    recipe_hash: str
    """Blob of the recipe: both commits, interpreter, pins, suite."""
    adaptation: str
    """What the recipe has otherwise than its payload gives, as JSON; empty where nothing."""
    attempts: int
    """Recipes that were tried."""
    bytes: int
    """Size of what ships."""
    import_names: list[str]
    """Names under which both sides import the package."""
    base_import_path: str
    """File that base imports, inside its own tree."""
    head_import_path: str
    """File that head imports, inside its own tree."""
    base_version: str
    """What base says that its version is."""
    head_version: str
    """What head says that its version is."""
    pins_installed: int
    benchmarks_discovered: int
    """Time benchmarks of the suite."""
    benchmarks_in_source: int
    """Time benchmarks that the suite's files name."""
    suite_import_errors: list[str]
    """Modules of the suite that do not import, and why."""
    rules: list[str]
    """Rules of verification that both sides passed."""
    manifest_sha256: str
    """Blob of what was found, written outside of the build."""
    limits: list[str]
    """Sandbox limits that held during the build."""


class BenchmarkResult(Record):
    """One benchmark at one stage of a measurement."""

    benchmark: str
    """As ASV writes it, with its parameters."""
    kind: str
    """As ASV names it: "time" or "timeraw"."""
    stage: Literal["screen", "confirm", "control"]
    mode: str
    """Whether calls repeat in a steady loop, or each is the first one after a set-up of its own."""
    status: str
    detail: str
    number: int
    """Calls in a sample."""
    rounds: int
    """Rounds of paired samples, each in fresh processes."""
    speedup: float | None
    """Base time over head time: above 1 is faster."""
    ci_low: float | None
    ci_high: float | None
    base_seconds: float | None
    head_seconds: float | None
    wall_speedup: float | None
    """The same by wall time, as a cross-check."""
    decision: str
    """What the protocol made of it."""
    clock: str
    """What `speedup` and its bounds go by: CPU time, or wall time where the two disagree beyond their error."""
    other_mode: str
    """How else it was timed, which the verdict does not use."""
    other_speedup: float | None
    unit: str
    """Of the two values that a benchmark of memory gives, or one that tracks a number; these decide nothing."""
    base_value: float | None
    head_value: float | None


class OutcomeCounts(Record):
    """How the tests of one side ended, of the test files that a change reaches."""

    passed: int
    failed: int
    """Assertions that do not hold, and tests at which the process hung or ended."""
    errors: int
    """Set-ups that fail, and files that cannot be collected: often for want of a package."""
    skipped: int
    not_run: int
    """Collected, and never reached."""


class SpeedupMeasurement(Record):
    """What measuring both sides of a pull request came to."""

    verdict: Literal["faster", "not_faster", "slower", "undecided"]
    benchmark: str | None
    """The confirmed one with the largest lower bound."""
    speedup: float | None
    """Base time over head time of that benchmark: above 1 is faster."""
    ci_low: float | None
    """What the gate reads; simultaneous over all benchmarks kept and all looks."""
    ci_high: float | None
    regressions: list[str]
    """Benchmarks confirmed to be slower."""
    screened: int
    """Cases of the suite that were screened."""
    selection: str
    """Whether all cases were measured, or those that the change can touch ("impact") and a sample of the others."""
    selection_why: str
    """Why all of them."""
    reached: int | None
    """Cases that the change can touch; none where that was not asked."""
    excluded: int
    """Cases that it cannot; a sample of them was measured as a check."""
    skipped: int
    """Cases that the suite itself skips."""
    failed_to_import: list[str]
    """Modules of the suite that do not import on a side."""
    kept: int
    """Cases that the screen kept for confirmation."""
    confirmed: int
    """Cases confirmed to be faster."""
    controls: int
    """Cases of base measured against itself."""
    controls_passed: int
    """Of these, cases that came out faster or slower: a warning."""
    tests_before: OutcomeCounts | None
    """Of base, with its own tests; None where none were run: only what got faster is tested."""
    tests_after: OutcomeCounts | None
    """Of head, with its own tests."""
    tests_broken: list[str]
    """Passed before and fail after, both of them twice."""
    tests_gone: list[str]
    """Passed before, and after are not there any more, or skipped."""
    tests_flaky: list[str]
    """Failed after once, and not when both sides were run again."""
    test_files: list[str]
    """Files that the change touches, and those that import what it changed, the nearest first."""
    returns_differ: list[str]
    """Confirmed benchmarks that give something back, and not the same on both sides: for a person to look at."""
    test_files_left_out: int
    """Further ones, beyond the bound of FORMULAMINE_TEST_FILES or out of time."""
    environment_differs: bool
    """Whether the sides run with different releases."""
    recipe_hash: str
    raw_sha256: str
    """Blob of every raw sample, from which the verdict can be computed again."""
    machine: str
    """Processor and cores."""
    kernel: str
    measured_on: Literal["local", "docker"]
    """The backend whose sandbox it ran in."""
    spread: float | None
    """Standard deviation of a round's log ratio, median over benchmarks that were confirmed or controlled."""
    load_before: float
    load_after: float
    limits: list[str]
    """Sandbox limits that held during the measurement."""
    results: list[BenchmarkResult]


class StatementPart(Record):
    """A sentence that a statement shows."""

    section: Literal["initial_observations", "triage"]
    kind: Literal["title", "message", "issue", "comment"]
    """What it was taken from."""
    text: str
    """As it stands there, with stand-ins for persons, machines and homes."""


class Removed(Record):
    """A sentence that a statement does not show."""

    text: str
    why: str
    """The section of the solution that it tells, "leak: " and the rule, or another reason in a word."""


class ProblemStatement(Record):
    """What an agent is told, from what stood before the fix."""

    statement: str
    """The text, in Markdown."""
    sources: list[str]
    """Where it comes from; ["measured"] where nothing usable stood before the fix."""
    parts: list[StatementPart]
    fidelity: float
    """Share of the sentences extracted to be shown that stand in their source; those that do not are left out."""
    removed: list[Removed]
    """Sentences that were left out, each with why."""
    documents_sha256: str
    """Blob of what it was taken from, as it was written."""
    extracted_by: str
    """The model that answered, or "rules"."""
    extraction_prompt: str
    """Version of the model's prompt; empty where there was no model."""
    extraction_tokens: int
    """Spent on the answer; 0 for rules."""


class PublishedRelease(Record):
    """One verified pull request in a release."""

    released: bool
    publishable: bool
    """Whether it was measured where releases may be uploaded from."""
    release_version: str
    """Hash of the release, the same for the same content."""
    published_at: datetime


class BenchmarkResultRow(BenchmarkResult):
    """A row of the side table `benchmark_results`."""

    pr_id: str
