from collections.abc import Sequence
from datetime import date

from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from formulamine.build.interpreters import Evidence, acceptable, release_dates

SERIES = sorted(release_dates(), key=Version)
FEBRUARY_2024 = date(2024, 2, 20)


def evidence(
    *requires_python: str,
    classifiers: Sequence[str] = (),
    asv_pythons: Sequence[str] = (),
    merged_on: date = FEBRUARY_2024,
) -> Evidence:
    return Evidence([SpecifierSet(one) for one in requires_python], classifiers, asv_pythons, merged_on)


def test_the_suites_pythons_come_first_then_classifiers_then_the_rest_then_younger_ones() -> None:
    ladder = acceptable(
        evidence(">=3.8", classifiers=["3.9", "3.10"], asv_pythons=["3.11"]), "3.8",
    )  # fmt: skip
    assert ladder.series == ["3.11", "3.10", "3.9", "3.12", "3.8", "3.13", "3.14", "3.15"]
    assert [ladder.source[one] for one in ladder.series] == [
        "asv_pythons", "classifiers", "classifiers", "requires_python", "requires_python", "younger", "younger",
        "younger",
    ]  # fmt: skip


def test_without_any_evidence_the_date_decides_newest_first() -> None:
    ladder = acceptable(evidence(), "3.8")
    assert ladder.series[:5] == ["3.12", "3.11", "3.10", "3.9", "3.8"]
    assert set(ladder.source.values()) == {"date", "younger"}


def test_an_empty_requires_python_is_no_evidence() -> None:
    assert acceptable(evidence("", ""), "3.8") == acceptable(evidence(), "3.8")


def test_the_floor_holds_against_all_evidence() -> None:
    ladder = acceptable(evidence(">=3.6", classifiers=["3.6", "3.7"], asv_pythons=["3.7"]), "3.10")
    assert ladder.series[:3] == ["3.12", "3.11", "3.10"]
    assert not {"3.6", "3.7", "3.8", "3.9"} & set(ladder.series)


def test_the_ceiling_holds_against_all_evidence() -> None:
    ladder = acceptable(evidence(">=3.8", classifiers=["3.12"], asv_pythons=["3.12"]), "3.8", "3.10")
    assert ladder.series == ["3.10", "3.9", "3.8"]
    assert acceptable(evidence(">=3.11"), "3.8", "3.10").series == []
    assert acceptable(evidence(), "3.9", "3.9").series == ["3.9"]


def test_a_patch_level_in_requires_python_does_not_rule_out_its_series() -> None:
    assert "3.8" in acceptable(evidence(">=3.8.1"), "3.8").series
    assert "3.8" in acceptable(evidence(">=3.8.17"), "3.8").series
    assert "3.9" not in acceptable(evidence("!=3.9.*"), "3.8").series
    assert "3.9" in acceptable(evidence("!=3.9.7"), "3.8").series
    assert "3.12" not in acceptable(evidence("<3.12"), "3.8").series
    assert "3.11" in acceptable(evidence("<=3.11.4"), "3.8").series


def test_base_and_head_must_both_be_satisfied() -> None:
    assert acceptable(evidence(">=3.10", "<3.11"), "3.8").series == ["3.10"]
    assert acceptable(evidence(">=3.12", "<3.9"), "3.8").series == []


def test_a_series_that_was_not_out_yet_is_tried_last_whoever_names_it() -> None:
    ladder = acceptable(evidence(asv_pythons=["3.13"], classifiers=["3.13"]), "3.11")
    assert ladder.series[:2] == ["3.12", "3.11"]
    assert ladder.source["3.13"] == "younger"


def test_a_series_counts_from_the_day_of_its_release() -> None:
    assert acceptable(evidence(merged_on=date(2023, 10, 2)), "3.8").series[0] == "3.12"
    assert acceptable(evidence(merged_on=date(2023, 10, 1)), "3.8").series[0] == "3.11"


def test_what_the_suite_names_and_nobody_released_is_passed_over() -> None:
    assert acceptable(evidence(asv_pythons=["2.7", "3.99"]), "3.12").series[0] == "3.12"


@given(
    requires=st.lists(
        st.builds(
            "{}3.{}{}".format, st.sampled_from([">=", "<", "!=", "<=", ">", "~="]), st.integers(6, 15),
            st.sampled_from([".1", ".0", ".7"]),
        ),
        max_size=3,
    ),
    classifiers=st.lists(st.sampled_from(SERIES)),
    asv_pythons=st.lists(st.sampled_from([*SERIES, "2.7"])),
    merged_on=st.dates(date(2015, 1, 1), date(2027, 1, 1)),
    floor=st.sampled_from(SERIES),
    ceiling=st.sampled_from(["", *SERIES]),
)  # fmt: skip
def test_every_series_fits_and_stands_once(
    requires: list[str], classifiers: list[str], asv_pythons: list[str], merged_on: date, floor: str, ceiling: str
) -> None:
    ladder = acceptable(
        evidence(*requires, classifiers=classifiers, asv_pythons=asv_pythons, merged_on=merged_on), floor, ceiling
    )
    assert len(ladder.series) == len(set(ladder.series))
    assert set(ladder.source) == set(ladder.series)
    for series in ladder.series:
        assert Version(floor) <= Version(series) <= Version(ceiling or "3.999")
        for spec in requires:
            assert any(SpecifierSet(spec).contains(f"{series}.{patch}") for patch in range(100))
    younger = [release_dates()[one] > merged_on for one in ladder.series]
    assert younger == sorted(younger)
    # Whatever fits is there: recall first.
    for series in SERIES:
        whole = all(all(SpecifierSet(spec).contains(f"{series}.{patch}") for patch in range(100)) for spec in requires)
        assert (
            series in ladder.series
            or not whole
            or not (Version(floor) <= Version(series) <= Version(ceiling or "3.999"))
        )
