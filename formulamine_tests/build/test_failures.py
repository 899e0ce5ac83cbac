"""Logs of builds that failed, as compilers and build backends write them, and what is read from them."""

from __future__ import annotations

import pytest

from formulamine.build.failures import MissingSystemPackage, build_failure, system_packages
from formulamine.build.reasons import ImageReason
from formulamine.services.sandbox import Result

GEOS = """\
Could not find geos-config executable. Either append the path to geos-config to PATH or manually provide the
include_dirs, library_dirs, libraries and other link args for compiling against a GEOS version >=3.9.
src/geos.h:5:10: fatal error: numpy/ndarraytypes.h: No such file or directory
compilation terminated.
error: command '/usr/bin/gcc' failed with exit code 1
"""
MESON = """\
The Meson build system
Found pkg-config: YES (/usr/bin/pkg-config) 1.8.1
Run-time dependency openblas found: NO (tried pkgconfig and cmake)
../scipy/meson.build:163:9: ERROR: Dependency "openblas" not found, tried pkgconfig and cmake
"""


def failed(log: str, *, timed_out: bool = False, memory: bool = False) -> Result:
    return Result(1, log, timed_out, memory, 3.0)


@pytest.mark.parametrize(
    ("log", "packages"),
    [
        (GEOS, ("libgeos-dev",)),
        (MESON, ("libopenblas-dev",)),
        ("lxml/etree.c:1: fatal error: libxml/xmlversion.h: No such file or directory\n", ("libxml2-dev",)),
        ("a.cpp:3:10: fatal error: 'boost/graph/x.hpp' file not found\n", ("libboost-dev",)),
        ("/usr/bin/ld: cannot find -lfftw3: No such file or directory\n", ("libfftw3-dev",)),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'cmake'\n", ("cmake",)),
        ("/bin/sh: 1: gfortran: not found\n", ("gfortran",)),
        ("error: can't find Rust compiler\n", ("cargo",)),
        ("Error: pg_config executable not found.\n", ("libpq-dev",)),
    ],
)
def test_what_a_system_lacks_is_named_by_its_package(log: str, packages: tuple[str, ...]) -> None:
    failure = build_failure("build_wheel", "setuptools.build_meta", failed(log))
    assert isinstance(failure, MissingSystemPackage)
    assert failure.reason == ImageReason.SYSTEM_PACKAGE
    assert failure.packages == packages
    assert str(failure).endswith(f"apt-get install {' '.join(packages)}")
    assert failure.log == log


@pytest.mark.parametrize(
    "log",
    [
        "toy.c:1:10: fatal error: Python.h: No such file or directory\nerror: command 'gcc' failed\n",
        "toy.c:1:10: fatal error: toy_of_its_own.h: No such file or directory\nerror: command 'gcc' failed\n",
        "toy.c:4:1: error: expected ';'\nerror: command '/usr/bin/gcc' failed with exit code 1\n",
        "FAILED: x.o\nninja: build stopped: subcommand failed.\n",
    ],
)
def test_a_compile_error_is_no_missing_package(log: str) -> None:
    assert system_packages(log) is None
    assert build_failure("build_wheel", "setuptools.build_meta", failed(log)).reason == ImageReason.COMPILE_ERROR


def test_a_backend_that_is_not_there_comes_before_what_the_log_says_besides() -> None:
    log = GEOS + "ModuleNotFoundError: No module named 'mesonpy'\n"
    assert build_failure("build_wheel", "mesonpy", failed(log)).reason == ImageReason.MISSING_BUILD_BACKEND
    assert build_failure("build_wheel", "hatchling.build", failed(log)).reason == ImageReason.SYSTEM_PACKAGE


def test_time_and_memory_come_before_what_the_log_says() -> None:
    for result, reason in (
        (failed(GEOS, timed_out=True), ImageReason.TIMEOUT),
        (failed(GEOS, memory=True), ImageReason.OUT_OF_MEMORY),
    ):
        assert build_failure("build_wheel", "setuptools.build_meta", result).reason == reason
