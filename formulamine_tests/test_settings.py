"""Every FORMULAMINE_* knob: from the environment, from `.env`, and malformed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from formulamine.settings import Settings, SettingsError

# Every knob with a value that is not its default.
KNOBS = {
    "home": "/elsewhere",
    "ledger_url": "sqlite:////elsewhere.sqlite",
    "dagster_postgres_url": "postgresql://elsewhere/dagster",
    "discover_workers": "7",
    "judge_workers": "7",
    "resolve_workers": "7",
    "build_workers": "7",
    "max_files": "7",
    "max_changed_lines": "7",
    "max_patch_tokens": "7",
    "min_python": "3.10",
    "build_timeout_s": "7",
    "build_memory_mb": "700",
    "min_speedup": "1.5",
    "min_lower_bound": "1.25",
    "measure_timeout_s": "7",
    "control_cases": "7",
    "benchmark_timeout_s": "7",
    "measure_memory_mb": "700",
    "release_environments": "docker,local",
}
MALFORMED = {
    "discover_workers": ["0", "many", "1.5"],
    "max_files": ["0", "-3", "none"],
    "min_python": ["3", "2.7", "three", "3.8.1"],
    "build_memory_mb": ["12"],
    "min_speedup": ["1.0", "fast", "nan"],
    "min_lower_bound": ["0.9"],
    "control_cases": ["-1"],
}


def groups(settings: Settings) -> list[BaseModel]:
    return [value for value in vars(settings).values() if isinstance(value, BaseModel)]


def value_of(settings: Settings, knob: str) -> str:
    (value,) = [getattr(group, knob) for group in groups(settings) if knob in type(group).model_fields]
    return str(value)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_knob_is_tried_here() -> None:
    names = [name for group in groups(Settings()) for name in type(group).model_fields]
    assert sorted(names) == sorted(KNOBS)


def test_every_knob_says_what_it_means() -> None:
    for group in groups(Settings()):
        assert type(group).__doc__
        unsaid = [name for name, field in type(group).model_fields.items() if not field.description]
        assert unsaid == [] or type(group).__name__ == "Workers"


@pytest.mark.parametrize(("knob", "value"), KNOBS.items())
def test_a_knob_is_read_from_the_environment(knob: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert value_of(Settings(), knob) != value
    monkeypatch.setenv(f"FORMULAMINE_{knob.upper()}", value)
    assert value_of(Settings(), knob) == value


@pytest.mark.parametrize(("knob", "value"), KNOBS.items())
def test_a_knob_is_read_from_the_env_file(knob: str, value: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"# ours\nFORMULAMINE_{knob.upper()}={value}\nOTHER_TOOL=1\n")
    assert value_of(Settings(), knob) == value


def test_the_environment_goes_before_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("FORMULAMINE_MAX_FILES=7\n")
    monkeypatch.setenv("FORMULAMINE_MAX_FILES", "8")
    assert Settings().sieve.max_files == 8


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORMULAMINE_MAX_FILES", "")
    assert Settings().sieve.max_files == 500


@pytest.mark.parametrize("where", ["environment", "file"])
@pytest.mark.parametrize(("knob", "value"), [(knob, value) for knob, values in MALFORMED.items() for value in values])
def test_a_malformed_knob_is_an_error_in_one_line_that_names_it(
    knob: str, value: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"FORMULAMINE_{knob.upper()}"
    if where == "file":
        (tmp_path / ".env").write_text(f"{name}={value}\n")
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}='{value}': .*mend it") as told:
        Settings()
    assert "\n" not in str(told.value)


def test_an_env_file_that_is_no_text_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"FORMULAMINE_HOME=\xff\xfe\n")
    with pytest.raises(SettingsError, match=r"\.env") as told:
        Settings()
    assert "\n" not in str(told.value)


def test_home_is_absolute_and_the_ledger_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().home == tmp_path / ".formulamine"
    monkeypatch.setenv("FORMULAMINE_HOME", "there")
    assert Settings().home == tmp_path / "there"
    assert Settings().ledger_url == f"sqlite:///{tmp_path / 'there' / 'ledger.sqlite'}"
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("FORMULAMINE_HOME", "~/there")
    assert Settings().home == Path("/home/someone/there")


def test_release_environments_are_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORMULAMINE_RELEASE_ENVIRONMENTS", " docker, local,,")
    assert Settings().release.environments == {"docker", "local"}


def test_cores_are_those_that_this_process_may_use() -> None:
    assert Settings().cores >= 1
