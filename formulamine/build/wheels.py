"""From sources to an unpacked wheel: what is run for that, and what its end means.

Here belong the script that calls a build backend (`backend_hooks.py`), the one that unpacks what it makes, and reading
what both say. Where they run, and with what, is the backend's matter.
"""

from __future__ import annotations

import json
from pathlib import Path

from formulamine.build import backend_hooks
from formulamine.build.declarations import BuildSystem
from formulamine.build.failures import build_failure, last_line
from formulamine.build.reasons import BuildFailed, ImageReason
from formulamine.services.sandbox import Result

HOOKS = Path(backend_hooks.__file__)
# Programs that build backends require as wheels where they find none (meson-python, scikit-build-core). Hidden while
# they are asked, so that one declaration has the same pins on every machine.
ASKED_FOR = tuple(
    Path(folder, name)
    for folder in ("/usr/bin", "/usr/local/bin")
    for name in ("ninja", "ninja-build", "samu", "cmake", "cmake3", "patchelf")
)
_MADE = "the build backend made"
# Calls a hook and installs the one wheel that it makes: uv, the wheels' folder, the package's, its Python, the call.
# A link is not followed, a pipe not waited for. uv's note on when it unpacked goes: the same wheel, the same bytes.
BUILD_AND_INSTALL = f"""
uv=$1 wheels=$2 site=$3 python=$4
shift 4
"$@" || exit
set -- "$wheels"/*.whl
[ -e "$1" ] || [ -L "$1" ] || shift
[ $# -eq 1 ] || {{ echo "{_MADE} $# wheels, expected 1"; exit 1; }}
[ -f "$1" ] && [ ! -L "$1" ] || {{ echo "{_MADE} what is no plain file"; exit 1; }}
cd /
env -i PATH=/usr/bin:/bin HOME=/tmp/home LC_ALL=C.UTF-8 "$uv" pip install --quiet --no-config --offline --no-index \\
    --no-deps --no-cache --link-mode copy --python "$python" --target "$site" -- "$1" || exit
sed -i '/dist-info.uv_cache.json,/d' "$site"/*.dist-info/RECORD && rm -f "$site"/*.dist-info/uv_cache.json
"""


def answer(hook: str, system: BuildSystem, result: Result) -> object:
    """What a hook answered.

    Raises:
        BuildFailed: it failed, or ran out of time or memory.
    """
    answers = _answers(result)
    if not result.ok or not answers:
        raise build_failure(hook, system.backend, result)
    try:
        found: object = json.loads(answers[-1].removeprefix(backend_hooks.ANSWER))
    except ValueError as error:
        raise BuildFailed(ImageReason.BUILD_FAILED, f"{hook} answered what is no JSON", result.output) from error
    return found


def raise_unless_installed(system: BuildSystem, result: Result) -> None:
    """See that a wheel was built and unpacked.

    Raises:
        BuildFailed: it was not, or that ran out of time or memory.
    """
    built = bool(_answers(result))
    if result.ok and built:
        return
    if not built or result.timed_out or result.out_of_memory:
        raise build_failure("build_wheel", system.backend, result)
    last = last_line(result.output)
    reason = ImageReason.BUILD_FAILED if last.startswith(_MADE) else ImageReason.INSTALL_FAILED
    raise BuildFailed(reason, last, result.output)


def _answers(result: Result) -> list[str]:
    """Lines in which the script that calls hooks answers; the last one counts, whatever a setup.py prints."""
    return [line for line in result.output.splitlines() if line.startswith(backend_hooks.ANSWER)]
