"""Every FORMULAMINE_* knob: from the environment, from `.env`, and malformed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from formulamine.settings import Settings, SettingsError, memory_mb

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
    "max_python": "3.12",
    "build_timeout_s": "7",
    "build_memory_mb": "700",
    "base_image": "debian:bookworm",
    "docker_network": "none",
    "registry": "127.0.0.1:5000/acme",
    "min_free_mb": "7",
    "cache_ceiling_mb": "7",
    "compiler_cache_mb": "7",
    "min_speedup": "1.5",
    "min_lower_bound": "1.25",
    "measure_timeout_s": "7",
    "control_cases": "7",
    "control_share": "0.3",
    "benchmark_timeout_s": "7",
    "measure_memory_mb": "700",
    "test_timeout_s": "7",
    "test_files": "7",
    "max_load": "7.5",
    "load_max_wait_s": "7",
    "judge_models": "openai:a",
    "judge_again_models": "anthropic:b",
    "judge_again_yes_share": "0.5",
    "judge_again_no_share": "0.5",
    "statement_models": "openai:a, anthropic:b",
    "repair_models": "openai:org/a:latest",
    "repair_turns": "7",
    "repair_budget_usd": "7.5",
    "llm_budget_usd": "7.5",
    "llm_budget_tokens": "7",
    "llm_timeout_s": "7",
    "llm_retries": "7",
    "llm_repairs": "7",
    "llm_max_wait_s": "7",
    "llm_max_output_tokens": "7",
    "openai_base_url": "http://127.0.0.1:8000/v1",
    "openai_mode": "json_schema",
    "anthropic_base_url": "http://127.0.0.1:8000",
    "release_environments": "docker,local",
}
MALFORMED = {
    "discover_workers": ["0", "many", "1.5"],
    "max_files": ["0", "-3", "none"],
    "min_python": ["3", "2.7", "three", "3.8.1"],
    "max_python": ["3", "2.7", "three", "3.8.1"],
    "build_memory_mb": ["12"],
    "min_free_mb": ["-1", "some"],
    "cache_ceiling_mb": ["-1", "50G"],
    "compiler_cache_mb": ["-1", "1G"],
    "min_speedup": ["1.0", "fast", "nan"],
    "min_lower_bound": ["0.9"],
    "control_cases": ["-1"],
    "control_share": ["-0.1", "1.1"],
    "judge_again_yes_share": ["-0.1", "1.5"],
    "judge_again_no_share": ["-0.1", "1.5"],
    "judge_models": ["gpt-5", "mistral:large", "openai:", "openai:a anthropic:b", "openai:a,"],
    "llm_budget_usd": ["-1", "much"],
    "openai_mode": ["xml"],
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


class TestMemory:
    """What bounds how many builds run at a time."""

    def system(self, top: Path, groups: str, limits: dict[str, str]) -> Path:
        files = {"proc/meminfo": "MemFree: 1 kB\nMemTotal:  24684544 kB\n", "proc/self/cgroup": groups, **limits}
        for name, text in files.items():
            path = top / "system" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return top / "system"

    @pytest.mark.parametrize(
        ("groups", "limits", "expected"),
        [
            ("0::/\n", {}, 24106),
            ("0::/a/b\n", {"sys/fs/cgroup/a/b/memory.max": "max\n"}, 24106),
            ("0::/a/b\n", {"sys/fs/cgroup/a/b/memory.max": str(3000 * 2**20)}, 3000),
            ("0::/a/b\n", {"sys/fs/cgroup/a/memory.max": str(2000 * 2**20)}, 2000),
            ("0::/../of/the/host\n", {"sys/fs/cgroup/memory.max": str(1000 * 2**20)}, 1000),
            ("4:cpu,memory:/a\n0::/\n", {"sys/fs/cgroup/memory/a/memory.limit_in_bytes": str(500 * 2**20)}, 500),
            ("4:memory:/a\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, 24106),
            ("4:cpu:/a\n", {"sys/fs/cgroup/memory/a/memory.limit_in_bytes": str(500 * 2**20)}, 24106),
        ],
    )
    def test_it_is_the_machines_or_what_a_control_group_leaves(
        self, tmp_path: Path, groups: str, limits: dict[str, str], expected: int
    ) -> None:
        assert memory_mb(self.system(tmp_path, groups, limits)) == expected

    @pytest.mark.parametrize(
        ("wanted", "cores", "memory", "expected"),
        [("3", 8, 100_000, 3), ("3", 2, 100_000, 2), ("9", 16, 17_000, 2), ("9", 16, 4_000, 1)],
    )
    def test_builds_at_a_time_are_bounded_by_cores_and_memory(
        self, wanted: str, cores: int, memory: int, expected: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FORMULAMINE_BUILD_WORKERS", wanted)
        monkeypatch.setattr(Settings, "cores", cores)
        monkeypatch.setattr("formulamine.settings.memory_mb", lambda: memory)
        assert Settings().build_workers == expected
