"""The step of the measurement, put together from services: speedup_measurements.

Here belong its version and what decides its answer. How it measures stands beside this file, and what Dagster makes of
it in `assets.py`.
"""

from formulamine.build.steps import backend_of
from formulamine.items import Step
from formulamine.services.container import Services
from formulamine.verify import protocol
from formulamine.verify.machine import machine_class
from formulamine.verify.measure import MeasureInput, MeasureReason, MeasureStep

SPEEDUP_MEASUREMENTS_VERSION = "6"
MODULES = "formulamine.verify."
SOURCES = (
    "measure", "protocol", "lockstep", "sampling", "side", "statistics", "verdict", "raw", "harness.__main__",
    "harness.zygote", "harness.child", "harness.timing", "harness.foreign", "harness.returned", "harness.tracing",
    "harness.sources", "impact", "cores", "returned", "affected", "correctness", "outcomes", "pytest_runner",
)  # fmt: skip


def speedup_measurements_step(services: Services) -> Step[MeasureInput]:
    """Measure built pull requests, one at a time."""
    run = MeasureStep(
        backend=backend_of(services, services.backend),
        sandboxes=services.sandboxes_of(services.backend),
        blobs=services.blobs,
        settings=services.settings.measure,
        lock=services.settings.home / "locks" / "measuring.lock",
        cancelled=services.cancelled,
        load=services.settings.load,
    )
    return Step(
        asset="speedup_measurements",
        version=SPEEDUP_MEASUREMENTS_VERSION,
        reads=MeasureInput,
        hints=("url", "files"),
        run=run,
        reasons=MeasureReason,
        sources=tuple(MODULES + name for name in SOURCES),
        settings=(services.settings.measure,),
        outside={"machine": machine_class(), "protocol": protocol.VERSION},
        workers=1,  # one measurement at a time on a machine; the lock says so to other runs
    )  # fmt: skip
