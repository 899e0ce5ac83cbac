"""Fit what each signal weighs to labelled pull requests: `python -m formulamine.judge.fit LABELS.jsonl --repo ...`.

A logistic regression with an L2 penalty on the distance from the priors of `sieve_rules.toml`, so that few labels move
few weights far. Three groups count: labelled performance work, labelled other work, and merged pull requests drawn from
the same repositories, which stand for everything else that is merged (a few of them are performance work, which costs
the others a little). Prints what the weights do in repositories left out of the fit, one at a time, beside title-only
rules, and with --write writes `sieve_weights.toml`.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from formulamine.discover.sieve import Examined
from formulamine.discover.sieve_rules import WEIGHTS_FILE, Weights, load_rules
from formulamine.judge.evaluation import Case, Outcome, Reader, evaluate, rule_stages, title_stages
from formulamine.judge.labels import PERFORMANCE_PREFIX, read_labels
from formulamine.services.git import Git
from formulamine.settings import Settings

PENALTY = 10.0  # of 3, 10, 20 and 30 the one after which figures of left-out repositories no longer change
EXAMPLES = 200.0  # what each class weighs together, about as many as there are labels
MERGED_SHARE = 0.3  # of what is no performance work; the rest is labelled
# Each example is also seen without the words of its title, for so much: what the diff says must be learned too.
HIDDEN_SHARE = 0.3
HIDDEN = ("title performance", "title means", "title hint")
BACKGROUND = 3000  # merged pull requests of a repository
PASS_RATE = 0.38  # of all merged pull requests, what the sieve may pass: below 40%, with room for other repositories
FALSE_POSITIVES = 0.07  # of labelled other work, what the judge may say yes to: below 10%, likewise


@dataclass(frozen=True)
class Data:
    """Labelled and merged pull requests of one repository."""

    labelled: list[Case]
    merged: list[Case]


def fit(data: Iterable[Data], priors: Mapping[str, float]) -> Weights:
    """Weights that suit pull requests best.

    Args:
        data: at least one repository with labels of both kinds.
        priors: what each signal weighs before.
    """
    from scipy.optimize import minimize

    repositories = list(data)
    labelled = [case for one in repositories for case in one.labelled]
    merged = [case for one in repositories for case in one.merged]
    names = list(priors)
    expected = np.array([priors[name] for name in names])
    background = [case for case in merged if not PERFORMANCE_PREFIX.match(case.item.title)]
    groups = (
        ([case for case in labelled if case.truth], 1.0, EXAMPLES),
        ([case for case in labelled if case.truth is False], 0.0, EXAMPLES * (1 - MERGED_SHARE)),
        (background, 0.0, EXAMPLES * MERGED_SHARE),
    )
    rows, truths, shares = [], [], []
    for cases, truth, total in groups:
        seen = [case.found for case in cases if isinstance(case.seen, Examined)]
        for found in seen:
            for without, share in (((), 1 - HIDDEN_SHARE), (HIDDEN, HIDDEN_SHARE)):
                rows.append([float(name in found and name not in without) for name in names])
                truths.append(truth)
                shares.append(total * share / len(seen))
    x, y, share_of = np.array(rows), np.array(truths), np.array(shares)

    def loss(b: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        z = x @ b[1:] + b[0]
        wrong = np.logaddexp(0, -z) * y + np.logaddexp(0, z) * (1 - y)
        away = b[1:] - expected
        slope = share_of * (1 / (1 + np.exp(-z)) - y)
        value = float(share_of @ wrong + PENALTY / 2 * away @ away)
        return value, np.concatenate([[slope.sum()], x.T @ slope + PENALTY * away])

    found = minimize(loss, np.concatenate([[0.0], expected]), jac=True, method="L-BFGS-B")
    weights = {name: round(float(value), 2) for name, value in zip(names, found.x[1:], strict=True)}
    made = Weights(passes_from=0, yes_from=0, intercept=round(float(found.x[0]), 2), weights=weights)
    others = [case for case in labelled if case.truth is False]
    return made.model_copy(
        update={
            "passes_from": threshold(made, merged, PASS_RATE),
            "yes_from": threshold(made, others, FALSE_POSITIVES),
        }
    )


def threshold(weights: Weights, cases: Sequence[Case], share: float) -> float:
    """The lowest score that no more than a share of cases reach."""
    scores = sorted(
        (weights.score(case.found) if isinstance(case.seen, Examined) else float("-inf") for case in cases),
        reverse=True,
    )
    return round(scores[int(share * len(scores))] + 0.01, 2)


def left_out(data: Mapping[str, Data]) -> dict[str, dict[str, Outcome]]:
    """What weights fitted without a repository do in it, by repository and stage; those fitted with all under "all"."""
    rules = load_rules()
    titles = title_stages(rules)
    told = {}
    for repo, own in data.items():
        weights = fit((one for name, one in data.items() if name != repo), rules.priors)
        told[repo] = evaluate([*own.labelled, *own.merged], titles | rule_stages(weights))
    weights = fit(data.values(), rules.priors)
    everything = [case for one in data.values() for case in (*one.labelled, *one.merged)]
    told["all (fitted with them)"] = evaluate(everything, rule_stages(weights))
    return told


def together(told: Iterable[Mapping[str, Outcome]]) -> dict[str, Outcome]:
    """Outcomes of several repositories as one."""
    total: dict[str, Outcome] = {}
    for outcomes in told:
        for name, one in outcomes.items():
            sum_ = total.setdefault(name, Outcome())
            sum_.recall += one.recall
            sum_.passed += one.passed
            sum_.missed += one.missed
            for kind, rate in one.false.items():
                sum_.false[kind] = sum_.false[kind] + rate if kind in sum_.false else rate
    return total


def as_toml(weights: Weights, said: str) -> str:
    """The file of the weights, with where they come from."""
    lines = [
        "# What each signal weighs, in log-odds; made by `python -m formulamine.judge.fit`, not by hand.",
        f"# Fitted to {said}.",
        "",
        f"# The score that {PASS_RATE:.0%} of merged pull requests reach: below it the sieve drops.",
        f"passes_from = {weights.passes_from}",
        f"# The score that {FALSE_POSITIVES:.0%} of labelled other work reach: from it on the judge by rules says yes.",
        f"yes_from = {weights.yes_from}",
        f"intercept = {weights.intercept}",
        "",
        "[weights]",
        *(f"{json.dumps(name)} = {value}" for name, value in sorted(weights.weights.items(), key=lambda one: -one[1])),
    ]
    return "\n".join(lines) + "\n"


def read_data(labels_file: Path, repos: Sequence[tuple[str, str]], settings: Settings) -> tuple[dict[str, Data], str]:
    """Labelled and merged pull requests of each repository, and a sentence that says how many."""
    labels, problems = read_labels(labels_file)
    for problem in problems:
        click.echo(problem, err=True)
    git = Git(settings.home / "mirrors")
    reader = Reader(git, load_rules(), settings.sieve)
    data = {}
    for repo, path in repos:
        with git.reading(repo, git.inspect_source(path)) as mirror:
            own, _ = reader.labelled(repo, mirror, [label for label in labels if label.repo == repo])
            shas = {case.item.merge_sha for case in own}
            merged = list(reader.merged(repo, mirror, BACKGROUND))
            data[repo] = Data(own, [case for case in merged if case.item.merge_sha not in shas])
    cases = [case for one in data.values() for case in one.labelled]
    yes, merged_count = sum(bool(case.truth) for case in cases), sum(len(one.merged) for one in data.values())
    said = f"{yes} pull requests that are performance work, {len(cases) - yes} that are not and {merged_count} others"
    return data, f"{said} of {', '.join(data)}"


@click.command()
@click.argument("labels", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--repo", "repos", multiple=True, required=True, metavar="OWNER/NAME=PATH_OR_URL")
@click.option("--write", is_flag=True, help="Write sieve_weights.toml.")
def main(labels: Path, repos: tuple[str, ...], write: bool) -> None:
    """Fit the weights of the sieve's signals, and say what they do in repositories left out of the fit."""
    from formulamine.judge.report import table

    pairs = [(name, path) for name, _, path in (one.partition("=") for one in repos)]
    data, said = read_data(labels, pairs, Settings())
    told = left_out(data)
    all_in = told.pop("all (fitted with them)")
    for repo, outcomes in told.items():
        click.echo(f"\n{repo}, left out of the fit\n{table(outcomes)}")
    click.echo(f"\ntogether, each left out of its own fit\n{table(together(told.values()), missed=True)}")
    click.echo(f"\nfitted with all of them\n{table(all_in, missed=True)}")
    if write:
        WEIGHTS_FILE.write_text(as_toml(fit(data.values(), load_rules().priors), said), encoding="utf-8")
        click.echo(f"\n{WEIGHTS_FILE} written, fitted to {said}")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
