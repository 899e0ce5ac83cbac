"""The step of `speedup_measurements`: measure a built pull request and write down what came out.

Here belongs what stands between a row and the protocol: building what is missing, starting both sides in the sandbox,
one measurement at a time on a machine, the record. How a speedup is measured and judged is the protocol's matter.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from formulamine.build.backend import Backend
from formulamine.build.pair import Pair, Side
from formulamine.build.reasons import BuildFailed
from formulamine.build.recipe import Recipe
from formulamine.items import Cancelled, Done, Failed, Outcome, Rejected
from formulamine.services.docker_engine import EngineError
from formulamine.services.resolver import IndexUnreachable
from formulamine.services.sandbox import ChoosesSandbox, NoSandbox, Running, Sandbox
from formulamine.services.store import Blobs, waiting
from formulamine.settings import MeasureSettings
from formulamine.tables import BenchmarkResult, Record, SpeedupMeasurement
from formulamine.verify import protocol
from formulamine.verify.lockstep import number_of
from formulamine.verify.side import HARNESS, HarnessConfig, Launch, Limits
from formulamine.verify.side import Cancelled as MeasurementCancelled

PROGRESS_EVERY_S = 20.0
CONTROLS_MOST = 2  # of a pull request: one, and once more where it found something

_log = logging.getLogger(__name__)


class MeasureReason(StrEnum):
    """Verdicts other than faster, and why there is none."""

    NOT_FASTER = "not_faster"
    SLOWER = "slower"
    UNDECIDED = "undecided"
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
    base_sha: str
    merge_sha: str
    backend: str


class RawBlob(Record):
    """All that a measurement saw: samples and those of its A/A control, as `protocol.RawMeasurement` writes them."""

    pr_id: str
    recipe_hash: str
    backend: str
    environment_differs: bool
    machine: str
    load_before: float
    load_after: float
    limits: list[str]
    measurement: str
    control: list[str]
    """None where the pull request is not in the sample, and one more where the first found something."""

    def to_blob(self) -> bytes:
        """Bytes whose hash names the measurement."""
        return self.model_dump_json().encode()


def controlled(pr_id: str, settings: MeasureSettings) -> bool:
    """Whether a pull request is in the sample whose base is also measured against itself."""
    return settings.control_cases > 0 and number_of("control", pr_id) < settings.control_share * 2**32


def machine_class() -> str:
    """CPU model and cores: what a measurement depends on and does not travel with."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{models[0] if models else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


@dataclass
class MeasureStep:
    """Measures pull requests on this machine, one at a time."""

    backend: Backend
    sandboxes: ChoosesSandbox
    blobs: Blobs
    settings: MeasureSettings
    lock: Path
    cancelled: threading.Event

    def __call__(self, item: MeasureInput) -> Outcome:
        """Measure one pull request."""
        recipe = Recipe.model_validate_json(self.blobs.get(item.recipe_hash))

        def sandbox() -> Sandbox:
            return self.sandboxes.for_commits((item.base_sha, item.merge_sha))

        try:
            pair = self.backend.pair(recipe, item.url, sandbox, item.pr_id)
            with waiting(self.lock, self.cancelled):
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

        last_said = time.monotonic()

        def progress(stage: str, done: int, total: int) -> None:
            nonlocal last_said
            if time.monotonic() - last_said > PROGRESS_EVERY_S:
                last_said = time.monotonic()
                _log.info("%s: %s %d/%d", item.pr_id, stage, done, total)

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
        finally:
            for one in running:
                one.close()
        raw = RawBlob(
            pr_id=item.pr_id,
            recipe_hash=item.recipe_hash,
            backend=item.backend,
            environment_differs=bool(pair.recipe.pins_base),
            machine=machine_class(),
            load_before=load_before,
            load_after=os.getloadavg()[0],
            limits=sandbox.limits,
            measurement=measured.raw.to_json(),
            control=[one.raw.to_json() for one in controls],
        )
        self.blobs.put(raw.to_blob())
        record = record_of(raw, self.settings)
        if record.verdict == "faster":
            return Done(record)
        verdict = measured.verdict
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


def record_of(raw: RawBlob, settings: MeasureSettings) -> SpeedupMeasurement:
    """What raw samples say, by the protocol alone: the step and the release's gate both ask here.

    Raises:
        ValueError, TypeError, KeyError: these are no raw samples.
    """
    thresholds = (settings.min_speedup, settings.min_lower_bound)
    raw_measurement = protocol.RawMeasurement.from_json(raw.measurement)
    verdict = protocol.decide(raw_measurement, *thresholds)
    of_controls = [protocol.decide(protocol.RawMeasurement.from_json(one), *thresholds) for one in raw.control]
    controls = [one for control in of_controls for one in control.results]
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
        selection=raw_measurement.selection.mode,
        selection_why=raw_measurement.selection.why,
        reached=len(raw_measurement.selection.reached) if raw_measurement.selection.mode == "impact" else None,
        excluded=raw_measurement.selection.excluded,
        skipped=sum(one.stage == "screen" and one.status == "skipped" for one in verdict.results),
        failed_to_import=sorted({one.module for one in raw_measurement.problems}),
        confirmed=verdict.confirmed,
        controls=len(controls),
        controls_passed=sum(one.decision in ("faster", "slower") for one in controls),
        tests_before=None,
        tests_after=None,
        environment_differs=raw.environment_differs,
        recipe_hash=raw.recipe_hash,
        raw_sha256=hashlib.sha256(raw.to_blob()).hexdigest(),
        machine=raw.machine,
        load_before=raw.load_before,
        load_after=raw.load_after,
        limits=raw.limits,
        results=results,
    )
