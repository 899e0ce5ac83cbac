"""Images in a Docker engine as part of what a home caches.

Each has a record beside the cached folders: its name, and the bytes of its one layer. So only what this home made or
used counts and is ever removed, whatever else is in the engine: never a base image, never one that somebody gave
another name. Here belongs what is asked of the engine for that; when an image goes is decided in `room.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from formulamine.build.cache import Uses, key_of, unused
from formulamine.build.room import Cached, remove_if_old
from formulamine.records import Record
from formulamine.services.docker_engine import Engine, EngineError
from formulamine.services.store import waiting, write_atomically

OURS = "formulamine/"
"""Before the name of every image that is made here."""
CONFLICT = 409  # what the engine answers where a container or another image needs an image


class ImageRecord(Record):
    """What a home knows of an image that it made or used. Written before the image is made, so that none is lost."""

    name: str
    below: str
    """Id of the image that it stands on."""
    id: str = ""
    """Empty as long as it is not made."""
    bytes: int = 0
    former: list[str] = Field(default_factory=list)
    """Ids of images that had this name before, and may still be there without one."""


class Images:
    """Images of one home in one engine."""

    def __init__(self, root: Path, folder: Path, engine: Engine, registry: str) -> None:
        """Ask nothing yet.

        Args:
            root: the cache of the home.
            folder: where records stand.
            engine: where images stand.
            registry: under whose name images are pushed from here; empty: nowhere.
        """
        self._root = root
        self._folder = folder
        self._engine = engine
        self._registry = registry

    def path(self, name: str) -> Path:
        """Record of an image."""
        return self._folder / f"{key_of(name)}.json"

    def made(self, name: str, below: str, make: Callable[[], str], uses: Uses) -> tuple[str, bool]:
        """Have an image, made if the engine lacks it or has it on another one; held in `uses` from then on.

        Returns:
            Its id, and whether it had to be made.
        """
        path = self.path(name)
        with waiting(path.with_suffix(".lock"), uses.cancelled):
            uses.hold(path)
            known = self._read(path) or ImageRecord(name=name, below=below)
            found = self._engine.find(name)
            is_new = found is None or not self._engine.stands_on(found, below)
            if is_new:
                former = dict.fromkeys(one for one in (*known.former, known.id, found) if one)
                known = ImageRecord(name=name, below=below, former=list(former))
                self._write(path, known)
                found = make()
            assert found is not None
            if known.id == found:
                os.utime(path)
            else:
                self._write(path, self._complete(known, found))
        return found, is_new

    def found(self, name: str, uses: Uses) -> str | None:
        """Id of an image where the engine has it, held in `uses` from then on."""
        path = self.path(name)
        uses.hold(path)
        found = self._engine.find(name)
        if found is not None and path.exists():
            os.utime(path)
        return found

    def cached(self) -> list[Cached]:
        """Every image that was made."""
        found = []
        for path, known in self._records():
            if known.id:
                found.append(Cached(path, known.bytes, path.stat().st_mtime, known.id, known.below))
        return found

    def remove(self, one: Cached) -> bool:
        """Remove an image that nobody works with, unless a container or somebody else's name needs it."""
        with unused(self._root, one.path) as is_free:
            known = self._read(one.path) if is_free else None
            if known is None or not self._removed(known):
                return False
            self._write_or_drop(known)
        return True

    def tidy(self) -> None:
        """Remove images that lost their name to a later one; forget those that are gone."""
        for left in self._folder.glob(".writing-*"):
            remove_if_old(left)
        records = self._records()
        if not records:
            return
        with _asked():
            there = {name for image in self._engine.client.api.images() for name in image["RepoTags"] or ()}
        for path, known in records:
            if known.id and known.name in there and not known.former:
                continue
            with unused(self._root, path) as is_free:
                if not is_free:
                    continue
                if known.name not in there:
                    known = known.model_copy(update={"id": "", "bytes": 0})
                elif not known.id:  # killed between making it and writing that down
                    known = self._complete(known, self._engine.require(known.name))
                self._write_or_drop(known)

    def _complete(self, known: ImageRecord, found: str) -> ImageRecord:
        """A record of an image that is there."""
        size, below = (int(self._engine.inspect(image)["Size"]) for image in (found, known.below))
        return known.model_copy(update={"id": found, "bytes": max(0, size - below)})

    def _removed(self, known: ImageRecord) -> bool:
        """Remove an image by its names; whether it has none left."""
        self._engine.settle()
        if self._engine.find(known.name) is None:
            return True
        tags = set(self._engine.inspect(known.name)["RepoTags"])
        pushed = f"{self._registry}/{known.name.removeprefix(OURS)}" if self._registry else known.name
        if tags - {known.name, pushed}:
            return False
        # What it is found by comes last: after a kill in between it still is.
        return all(self._without_force(tag) for tag in sorted(tags, key=lambda tag: tag == known.name))

    def _write_or_drop(self, known: ImageRecord) -> None:
        """Write down what is left of an image's record once its former ones are removed, where that can be."""
        former = [one for one in known.former if not self._is_gone(one)]
        path = self.path(known.name)
        used_at = path.stat().st_mtime
        if former or (known.id and self._engine.find(known.name)):
            self._write(path, known.model_copy(update={"former": former}))
            os.utime(path, (used_at, used_at))
        else:
            path.unlink()

    def _is_gone(self, image: str) -> bool:
        """Remove an image without a name; whether that is no longer our matter."""
        if self._engine.find(image) is None or self._engine.inspect(image)["RepoTags"]:
            return True
        return self._without_force(image)

    def _without_force(self, reference: str) -> bool:
        """Remove an image by one of its names, or its id where it has none; whether that was let happen."""
        import docker

        with _asked():
            try:
                self._engine.client.images.remove(reference)
            except docker.errors.ImageNotFound:
                return True
            except docker.errors.APIError as error:
                if error.status_code != CONFLICT:
                    raise
                return False
        return True

    def _records(self) -> list[tuple[Path, ImageRecord]]:
        found = ((path, self._read(path)) for path in sorted(self._folder.glob("*.json")))
        return [(path, known) for path, known in found if known is not None]

    def _read(self, path: Path) -> ImageRecord | None:
        try:
            return ImageRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None

    def _write(self, path: Path, known: ImageRecord) -> None:
        write_atomically(path, known.model_dump_json().encode())


def disks_of(engine: Engine) -> list[Path]:
    """Where an engine keeps its images, if that is on this machine and can be seen."""
    if not os.environ.get("DOCKER_HOST", "unix:").startswith("unix:"):
        return []
    with _asked():
        root = Path(engine.client.info()["DockerRootDir"])
    return [root] if root.is_dir() else []


@contextmanager
def _asked() -> Iterator[None]:
    """Turn what the engine, or the way to it, says is wrong into our own error."""
    import docker
    import requests

    try:
        yield
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise EngineError(" ".join(str(getattr(error, "explanation", "") or error).split())[:300]) from error
