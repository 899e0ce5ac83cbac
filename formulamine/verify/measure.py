"""The step of `speedup_measurements`: measure a built pull request and write down what came out.

Here belongs what stands between a row and the protocol: building what is missing, starting both sides in the sandbox,
one measurement at a time on a machine that is quiet enough, the tests of what got faster, the record. How a speedup is
measured and judged is the protocol's matter, and whether a change breaks tests that of `correctness` and `outcomes`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import statistics as numbers
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from formulamine.build.backend import Backend
from formulamine.build.pair import Pair, Side
from formulamine.build.reasons import BuildFailed
from formulamine.build.recipe import Recipe
from formulamine.items import Cancelled, Deferred, Done, Failed, Outcome, Rejected
from formulamine.records import BenchmarkResult, FileChange, Record, SpeedupMeasurement
from formulamine.services.docker_engine import EngineError
from formulamine.services.resolver import IndexUnreachable
from formulamine.services.sandbox import ChoosesSandbox, NoSandbox, Running, Sandbox
from formulamine.services.store import Blobs, waiting
from formulamine.settings import LoadSettings, MeasureSettings
from formulamine.verify import protocol, statistics
from formulamine.verify.correctness import run_tests
from formulamine.verify.lockstep import Lockstep, number_of
from formulamine.verify.machine import Quiet, kernel, machine_class
from formulamine.verify.outcomes import RawTests, judge, shown
from formulamine.verify.returned import Returned, call_once, from_json, to_json
from formulamine.verify.side import HARNESS, HarnessConfig, Launch, Limits
from formulamine.verify.side import Cancelled as MeasurementCancelled

PROGRESS_EVERY_S = 20.0
RETURNED_MOST = 10  # confirmed cases that are called once more for what they give back
LOADED_FOR = timedelta(minutes=30)  # until a machine that stayed too busy is asked again
CONTROLS_MOST = 2  # of a pull request: one, and once more where it found something

_log = logging.getLogger(__name__)


class MeasureReason(StrEnum):
    """Verdicts other than faster, a faster one that breaks tests, and why there is none."""

    NOT_FASTER = "not_faster"
    SLOWER = "slower"
    UNDECIDED = "undecided"
    TESTS_BROKEN = "tests_broken"
    LOADED = "loaded"
    BUILD_LOST = "build_lost"
    INDEX_UNREACHABLE = "index_unreachable"
    NO_SANDBOX = "no_sandbox"
    ENGINE_FAILED = "engine_failed"


class MeasureInput(Record):
    """Fields that a measurement reads. Of the build only its recipe, never a digest."""

    pr_id: str
    url: str
    recipe_hash: str
    import_names: list[str]
    files: list[FileChange]
    base_sha: str
    merge_sha: str
    backend: str


class RawBlob(Record):
    """All that a measurement saw.

    `measurement` and each `control` are samples as `protocol.RawMeasurement` writes them; `tests` is JSON of
    `outcomes.RawTests`, and `returned` of `returned.Returned`, both empty where nothing got faster.
    """

    pr_id: str
    recipe_hash: str
    backend: str
    environment_differs: bool
    machine: str
    kernel: str
    load_before: float
    load_after: float
    limits: list[str]
    measurement: str
    control: list[str]
    """None where the pull request is not in the sample, and one more where the first found something."""
    tests: str = ""
    returned: str = ""

    def to_blob(self) -> bytes:
        """Bytes whose hash names the measurement."""
        return self.model_dump_json().encode()


def controlled(pr_id: str, settings: MeasureSettings) -> bool:
    """Whether a pull request is in the sample whose base is also measured against itself."""
    return settings.control_cases > 0 and number_of("control", pr_id) < settings.control_share * 2**32


@dataclass
class MeasureStep:
    """Measures pull requests on this machine, one at a time."""

    backend: Backend
    sandboxes: ChoosesSandbox
    blobs: Blobs
    settings: MeasureSettings
    lock: Path
    cancelled: threading.Event
    load: LoadSettings = field(default_factory=LoadSettings)

    def __post_init__(self) -> None:
        self._quiet = Quiet(self.load, self.cancelled)

    def __call__(self, item: MeasureInput) -> Outcome:
        """Measure one pull request."""
        recipe = Recipe.model_validate_json(self.blobs.get(item.recipe_hash))

        def sandbox() -> Sandbox:
            return self.sandboxes.for_commits((item.base_sha, item.merge_sha))

        try:
            pair = self.backend.pair(recipe, item.url, sandbox, item.pr_id)
            with waiting(self.lock, self.cancelled):
                if too_busy := self._quiet.wait(item.pr_id):
                    return Deferred(datetime.now(UTC) + LOADED_FOR, MeasureReason.LOADED, too_busy)
                return self._measure(item, pair, sandbox())
        except BuildFailed as error:  # the trees are a cache; making one again should not fail where it once did not
            return Failed(MeasureReason.BUILD_LOST, f"{error.reason}: {error}", infrastructure=True)
        except IndexUnreachable as error:
            return Failed(MeasureReason.INDEX_UNREACHABLE, f"the package index: {error}", infrastructure=True)
        except EngineError as error:
            return Failed(MeasureReason.ENGINE_FAILED, str(error), infrastructure=True)
        except NoSandbox as error:
            return Failed(MeasureReason.NO_SANDBOX, str(error), infrastructure=True)
        except MeasurementCancelled as error:
            raise Cancelled(item.pr_id) from error

    def _measure(self, item: MeasureInput, pair: Pair, sandbox: Sandbox) -> Outcome:
        running: list[Running] = []
        seed = int(hashlib.sha256(item.pr_id.encode()).hexdigest()[:8], 16)
        limits = Limits(call_seconds=self.settings.benchmark_timeout_s, total_seconds=self.settings.measure_timeout_s)
        load_before = os.getloadavg()[0]
        progress = _progress(item.pr_id)
        try:
            base = self.launch(pair, pair.base, item, seed, sandbox, running)
            head = self.launch(pair, pair.head, item, seed, sandbox, running)
            thresholds = (self.settings.min_speedup, self.settings.min_lower_bound)
            measured = protocol.measure(
                base, head, limits=limits, min_speedup=thresholds[0], min_lower_bound=thresholds[1],
                cancelled=self.cancelled, progress=progress, seed=seed,
                select=not pair.recipe.pins_base,  # other releases on each side may touch anything
            )  # fmt: skip
            controls: list[protocol.Measurement] = []
            while controlled(item.pr_id, self.settings) and len(controls) < CONTROLS_MOST:
                controls.append(
                    protocol.control(
                        base, cases=self.settings.control_cases, limits=limits, min_speedup=thresholds[0],
                        min_lower_bound=thresholds[1], cancelled=self.cancelled, progress=progress,
                        seed=seed + len(controls),
                    )
                )  # fmt: skip
                if controls[-1].verdict.verdict not in ("faster", "slower"):
                    break
            confirmed = [one.benchmark for one in measured.results if one.decision == "faster"]
            returned: list[Returned] = []
            if measured.verdict.verdict == "faster":
                with Lockstep(base, head, limits, self.cancelled, seed) as lockstep:
                    returned = call_once(lockstep, confirmed[:RETURNED_MOST])
        finally:
            for one in running:
                one.close()
        raw = RawBlob(
            pr_id=item.pr_id,
            recipe_hash=item.recipe_hash,
            backend=item.backend,
            environment_differs=bool(pair.recipe.pins_base),
            machine=machine_class(),
            kernel=kernel(),
            load_before=load_before,
            load_after=os.getloadavg()[0],
            limits=sandbox.limits,
            measurement=measured.raw.to_json(),
            control=[one.raw.to_json() for one in controls],
        )
        verdict = measured.verdict
        if verdict.verdict == "faster":  # tests take time, and nothing else goes on
            changed = [one.path for one in item.files]
            tools = self.backend.test_tools(pair.recipe.python_version, lambda: sandbox)
            tests = run_tests(pair, tools, changed, sandbox, self.settings, self.cancelled, progress)
            raw = raw.model_copy(update={"tests": tests.model_dump_json(), "returned": to_json(returned)})
        self.blobs.put(raw.to_blob())
        record = record_of(raw, self.settings)
        if record.tests_broken:
            return Rejected(MeasureReason.TESTS_BROKEN, ", ".join(record.tests_broken), record)
        if record.verdict == "faster":
            return Done(record)
        why = "; ".join(part for part in (verdict.reason, measured.raw.detail) if part)
        return Rejected(MeasureReason(record.verdict), why, record)

    def launch(
        self,
        pair: Pair,
        side: Side,
        item: MeasureInput,
        seed: int,
        sandbox: Sandbox,
        running: list[Running],
        extra_turns: Mapping[str, float] | None = None,
    ) -> Launch:
        """How the protocol starts a side, as often as it needs to; the caller closes what is `running`."""
        config = HarnessConfig(
            suite_parent=side.seen.suite_parent,
            suite=pair.suite,
            site=side.seen.site,
            tools=side.seen.tools,
            import_names=tuple(item.import_names),
            seed=seed,
            extra_turns=extra_turns or {},
        )
        command = pair.command(side, HARNESS, config.arguments(), self.settings.measure_memory_mb)

        def launch() -> subprocess.Popen[bytes]:
            for ended in [one for one in running if one.process.poll() is not None]:
                ended.close()  # a measurement starts hundreds: their cgroups go with them
                running.remove(ended)
            running.append(sandbox.start(command))
            return running[-1].process

        return launch


def _progress(pr_id: str) -> Callable[[str, int, int], None]:
    """Tells how far a measurement is, now and then."""
    last_said = time.monotonic()

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal last_said
        if time.monotonic() - last_said > PROGRESS_EVERY_S:
            last_said = time.monotonic()
            _log.info("%s: %s %d/%d", pr_id, stage, done, total)

    return progress


def record_of(raw: RawBlob, settings: MeasureSettings) -> SpeedupMeasurement:
    """What raw samples say, by the protocol alone: the step and the release's gate both ask here.

    Raises:
        ValueError, TypeError, KeyError: these are no raw samples.
    """
    thresholds = (settings.min_speedup, settings.min_lower_bound)
    samples = protocol.RawMeasurement.from_json(raw.measurement)
    of_controls = [protocol.RawMeasurement.from_json(one) for one in raw.control]
    verdict = protocol.decide(samples, *thresholds)
    controls = [one for control in of_controls for one in protocol.decide(control, *thresholds).results]
    tests = judge(RawTests.model_validate_json(raw.tests)) if raw.tests else None
    results = [BenchmarkResult.model_validate(vars(one)) for one in (*verdict.results, *controls)]
    controls = [one for one in controls if one.rounds]
    return SpeedupMeasurement(
        verdict=verdict.verdict,
        benchmark=verdict.benchmark or None,
        speedup=verdict.speedup,
        ci_low=verdict.ci_low,
        ci_high=verdict.ci_high,
        regressions=list(verdict.regressions),
        screened=verdict.screened,
        kept=verdict.kept,
        selection=samples.selection.mode,
        selection_why=samples.selection.why,
        reached=len(samples.selection.reached) if samples.selection.mode == "impact" else None,
        excluded=samples.selection.excluded,
        skipped=sum(one.stage == "screen" and one.status == "skipped" for one in verdict.results),
        failed_to_import=sorted({one.module for one in samples.problems}),
        confirmed=verdict.confirmed,
        controls=len(controls),
        controls_passed=sum(one.decision in ("faster", "slower") for one in controls),
        tests_before=tests and tests.before,
        tests_after=tests and tests.after,
        tests_broken=shown(tests.broken) if tests else [],
        tests_gone=shown(tests.gone) if tests else [],
        tests_flaky=shown(tests.flaky) if tests else [],
        test_files=tests.files if tests else [],
        test_files_left_out=tests.left_out if tests else 0,
        returns_differ=[one.benchmark for one in from_json(raw.returned) if one.differs] if raw.returned else [],
        environment_differs=raw.environment_differs,
        recipe_hash=raw.recipe_hash,
        raw_sha256=hashlib.sha256(raw.to_blob()).hexdigest(),
        machine=raw.machine,
        kernel=raw.kernel,
        measured_on=raw.backend,
        spread=_spread(samples, *of_controls),
        load_before=raw.load_before,
        load_after=raw.load_after,
        limits=raw.limits,
        results=results,
    )


def _spread(*samples: protocol.RawMeasurement) -> float | None:
    """Standard deviation of a round's log ratio: the median over cases that were measured in several fresh rounds."""
    spreads = []
    for case in (case for one in samples for case in one.cases if case.stage != "screen" and case.status == "ok"):
        rounds = [statistics.paired_difference(of.base_cpu, of.head_cpu) for of in case.rounds]
        if len(rounds) > 1:
            spreads.append(numbers.stdev(rounds))
    return numbers.median(spreads) if spreads else None
