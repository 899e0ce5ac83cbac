"""An environment type of ASV that runs what `verdict.py` has built, so that ASV builds and installs nothing.

ASV loads this file into its own interpreter (`plugins` in its configuration), where formulamine is not. What to run is
in the variable VERDICT_SIDES: for each commit its `python` and the folders of its `path`.
"""

import json
import os

from asv import environment, util


class Prebuilt(environment.Environment):
    """For each commit the interpreter of its own environment, with the built package in front of it."""

    tool_name = "prebuilt"

    def __init__(self, conf, python, requirements, tagged_env_vars):
        """Read what was built."""
        self._python, self._requirements = python, requirements  # which the base class reads and does not set
        super().__init__(conf, python, requirements, tagged_env_vars)
        self._sides = json.loads(os.environ["VERDICT_SIDES"])
        self._commit = ""

    @classmethod
    def matches(cls, python):
        """Whatever series is asked for: each commit has its own interpreter."""
        return True

    @property
    def installed_commit_hash(self):
        """The commit that `run` runs."""
        return self._commit

    def create(self):
        """Nothing: it stands."""

    def install_project(self, conf, repo, commit_hash=None):
        """Run this commit from now on."""
        self._commit = commit_hash

    def run(self, args, **kwargs):
        """Run Python with the package of the commit; ASV drops PYTHONPATH unless ASV_PYTHONPATH says the same."""
        side = self._sides[self._commit]
        path = os.pathsep.join(side["path"])
        variables = {**kwargs.pop("env", os.environ), "PYTHONPATH": path, "ASV_PYTHONPATH": path}
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = self._install_timeout
        return util.check_output([side["python"], *args], env=variables, **kwargs)
