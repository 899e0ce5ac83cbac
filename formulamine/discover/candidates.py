"""The step of `candidate_prs`: hand each pull request and its patch to the sieve.

Here belongs fetching patches, all those of a repository at once, and spreading many over the cores. Which pull requests
are dropped is decided in `sieve.py`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from formulamine.discover.sieve import SieveInput, sieve_by_files
from formulamine.items import Done, Outcome, Rejected
from formulamine.services.cores import CoreLost, Cores
from formulamine.services.git import Git
from formulamine.services.store import Blobs
from formulamine.settings import SieveSettings

_log = logging.getLogger(__name__)

FEW = 200  # pull requests, which take about as long as it takes to start processes for them


@dataclass
class CandidateStep:
    """Sieves pull requests. The first one of a repository fetches the patches of all of them."""

    git: Git
    blobs: Blobs
    settings: SieveSettings
    mirrors: dict[str, str]
    """Location by repository, to make a deleted mirror again."""
    merges: Mapping[str, Sequence[str]]
    """Merge commits by repository."""
    cores: Cores | None = None
    """For what comes after the first few."""
    _begun: int = 0
    _printed: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, item: SieveInput) -> Outcome:
        """Sieve one pull request; a candidate's patch is kept as a blob."""
        patch = self._patch(item)
        outcome = self._sieve(item, patch)
        if isinstance(outcome, Done):
            self.blobs.put(patch)
        return outcome

    def _sieve(self, item: SieveInput, patch: bytes) -> Done | Rejected:
        with self._lock:
            self._begun += 1
            many = self._begun > FEW
        if many and self.cores is not None:
            try:
                return self.cores.run(sieve_by_files, item, patch, self.settings)
            except CoreLost as error:
                _log.warning("%s: %s; sieved without it", item.pr_id, error)
        return sieve_by_files(item, patch, self.settings)

    def _patch(self, item: SieveInput) -> bytes:
        """Diff from base to merge commit."""
        mirror = self.git.open(item.repo, self.mirrors[item.repo])
        with self._lock:
            if item.repo not in self._printed:
                self.git.print_patches(mirror, self.merges[item.repo])
                self._printed.add(item.repo)
        return self.git.patch(mirror, item.merge_sha)
