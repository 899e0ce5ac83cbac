"""Why a build came to nothing: the reasons of `images`, in the order in which they can arise."""

from __future__ import annotations

from enum import StrEnum


class ImageReason(StrEnum):
    """Reasons of failed builds."""

    INDEX_UNREACHABLE = "index_unreachable"
    NO_SANDBOX = "no_sandbox"
    NO_BASE_IMAGE = "no_base_image"
    ENGINE_FAILED = "engine_failed"
    BAD_TREE = "bad_tree"
    INSTALL_FAILED = "install_failed"
    MISSING_BUILD_BACKEND = "missing_build_backend"
    SYSTEM_PACKAGE = "system_package"
    COMPILE_ERROR = "compile_error"
    BUILD_FAILED = "build_failed"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    WRONG_COMMIT = "wrong_commit"
    PINS_DIFFER = "pins_differ"
    TAMPERED = "tampered"
    IMPORT_ERROR = "import_error"
    SHADOWED = "shadowed"
    NO_BENCHMARKS = "no_benchmarks"
    HEAD_IN_BASE = "head_in_base"
    PUSH_FAILED = "push_failed"
    BUDGET = "budget"
    RATE_LIMIT = "rate_limit"
    MODEL_FAILED = "model_failed"


MENDED_OUTSIDE = frozenset({ImageReason.SYSTEM_PACKAGE, ImageReason.NO_BASE_IMAGE})
"""Somebody may install what is lacking, which no fingerprint tells: such a failure is tried again."""


class BuildFailed(Exception):
    """Building, or what was built, is not what it should be. `log` is the end of what was printed."""

    def __init__(self, reason: ImageReason, message: str, log: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.log = log


class PushFailed(Exception):
    """What was built does not stand in the registry; the message says why."""
