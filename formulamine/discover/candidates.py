"""The step of `candidate_prs`: hand each pull request and its patch to the sieve.

Here belongs fetching patches, one git process for all those of a repository. Which pull requests are dropped is decided
in `sieve.py`.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from formulamine.discover.sieve import SieveInput, SieveRules, sieve
from formulamine.items import Outcome
from formulamine.services.git import Git
from formulamine.services.store import Blobs
from formulamine.settings import SieveSettings


@dataclass
class CandidateStep:
    """Sieves pull requests. The first one of a repository fetches the patches of all of them."""

    git: Git
    blobs: Blobs
    rules: SieveRules
    settings: SieveSettings
    mirrors: dict[str, str]
    """Location by repository, to make a deleted mirror again."""
    items: Sequence[SieveInput]
    _patches: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, item: SieveInput) -> Outcome:
        """Sieve one pull request; its patch is kept as a blob."""
        return sieve(item, self._patch(item), self.rules, self.settings)

    def _patch(self, item: SieveInput) -> bytes:
        """Diff from base to merge commit. Kept as a blob at once, so that memory holds one patch and not a month's."""
        with self._lock:
            if item.merge_sha not in self._patches:
                wanted = defaultdict(list)
                for one in self.items:
                    wanted[one.repo].append(one.merge_sha)
                mirror = self.git.open(item.repo, self.mirrors[item.repo])
                for sha, patch in self.git.diffs(mirror, wanted[item.repo]):
                    self._patches[sha] = self.blobs.put(patch)
        return self.blobs.get(self._patches[item.merge_sha]) if item.merge_sha in self._patches else b""
