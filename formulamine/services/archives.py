"""Host files as tar archives, the one way in and out of a container.

Here belongs what an archive that we make may hold, an image with one more layer among them, and what of one that a
container gave back is taken. Who sends it where stands in `docker_engine.py`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

MADE_AT = "2020-01-01T00:00:00Z"
"""When images say that they were made: of the same content they have the same id whenever that is."""


class BadArchive(Exception):
    """What a container gave back cannot be taken."""


def pack(archive: IO[bytes], content: Iterable[tuple[str, Path]], user: int) -> None:
    """Write host files and folders as a tar: sorted, without times, all of one owner, links as links."""

    def owned(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not (entry.isfile() or entry.isdir() or entry.issym()):
            return None
        entry.uid = entry.gid = user
        entry.uname = entry.gname = ""
        entry.mtime = 0
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        return entry

    # Never a hard link: each file stands for itself, whatever else has its content.
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        made: set[str] = set()
        for name, path in content:
            for parent in reversed(PurePosixPath(name).parents):
                if str(parent) != "." and str(parent) not in made:
                    made.add(str(parent))
                    entry = tarfile.TarInfo(str(parent))
                    entry.type = tarfile.DIRTYPE
                    tar.addfile(owned(entry) or entry)
            _add(tar, name, path, owned)


def _add(tar: tarfile.TarFile, name: str, path: Path, owned: Any) -> None:
    """`tar.add`, in sorted order and owned as wanted."""
    tar.inodes = {}  # type: ignore[attr-defined]  # where it remembers what it would write as a hard link
    entry = tar.gettarinfo(str(path), name)
    if entry is None or (entry := owned(entry)) is None:
        return
    if entry.isfile():
        with path.open("rb") as file:
            tar.addfile(entry, file)
        return
    tar.addfile(entry)
    if entry.isdir():
        for below in sorted(os.listdir(path)):
            _add(tar, f"{name}/{below}", path / below, owned)


def unpack(archive: IO[bytes], top: str, destination: Path) -> None:
    """Unpack what stands below a tar's `top`: files, folders and links, which are not followed. Owned by us.

    Raises:
        BadArchive: a name or a link leads out of the folder, or it is no archive.
    """

    own = os.getuid(), os.getgid()

    def taken(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
        name = PurePosixPath(member.name)
        if str(name) == top or not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
            return None  # the folder itself; a device, a pipe or a socket is nothing that a build makes
        if name.parts[0] != top:
            raise BadArchive(f"{name} is not below {top}")
        moved = member.replace(name=str(name.relative_to(top)), uid=own[0], gid=own[1], uname="", gname="", deep=False)
        if member.islnk():
            link = PurePosixPath(member.linkname)
            if link.parts[:1] != (top,):
                raise BadArchive(f"{name} is a hard link to {link}")
            return tarfile.data_filter(moved.replace(linkname=str(link.relative_to(top)), deep=False), folder)
        return tarfile.tar_filter(moved, folder)

    try:
        with tarfile.open(fileobj=archive) as tar:
            tar.extractall(destination, filter=taken)
    except (tarfile.TarError, OSError, KeyError, ValueError) as error:  # KeyError: a hard link to nothing, or itself
        if isinstance(error, OSError) and error.errno == 28:
            raise
        raise BadArchive(f"what came out of the container: {error}") from error


def files_of(layer: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Path and SHA-256 of every file of a layer."""
    with tarfile.open(fileobj=layer) as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isfile() else None
            if stream is not None:
                yield member.name, hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # it can readinto


def write_image(
    archive: IO[bytes],
    below: Mapping[str, Any],
    content: Iterable[tuple[str, Path]],
    name: str,
    labels: Mapping[str, str],
    environment: Mapping[str, str],
) -> str:
    """Write an image with one more layer as an engine loads it, without the layers below; its id.

    Args:
        archive: an empty file, left at its beginning.
        below: what the engine says of the image below.
        content: (path inside without its slash, host path), owned by root.
        name: "repository:tag" of the new image.
        labels: of the new image, beside those of the one below.
        environment: variables added to those of the one below.
    """
    archive.write(bytes(tarfile.BLOCKSIZE))  # the layer's entry, once its size is known
    pack(archive, content, user=0)
    size = archive.tell() - tarfile.BLOCKSIZE
    archive.seek(tarfile.BLOCKSIZE)
    digest = hashlib.file_digest(archive, "sha256").hexdigest()  # type: ignore[arg-type]  # it can readinto
    layers = [*below["RootFS"]["Layers"], f"sha256:{digest}"]
    config = dict(below["Config"])
    variables = dict(line.split("=", 1) for line in config.get("Env") or ())
    config["Env"] = [f"{key}={value}" for key, value in {**variables, **environment}.items()]
    config["Labels"] = {**(config.get("Labels") or {}), **labels}
    config["Cmd"] = config.get("Cmd") or ["/bin/sh"]
    described = json.dumps(
        {
            "architecture": below["Architecture"],
            "os": below["Os"],
            "created": MADE_AT,
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": layers},
            # Names the image, so that two of the same content are two, and each can go alone.
            "history": [{"created": MADE_AT, "created_by": f"{name}: {layer}"} for layer in layers],
        },
        sort_keys=True,
    ).encode()
    identity = hashlib.sha256(described).hexdigest()
    files = ["below"] * (len(layers) - 1) + ["layer.tar"]
    manifest = json.dumps([{"Config": f"{identity}.json", "RepoTags": [name], "Layers": files}]).encode()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for entry, text in ((f"{identity}.json", described), ("manifest.json", manifest)):
            told = tarfile.TarInfo(entry)
            told.size = len(text)
            tar.addfile(told, io.BytesIO(text))
    archive.seek(0)
    layer = tarfile.TarInfo("layer.tar")
    layer.size = size
    archive.write(layer.tobuf())
    archive.seek(0)
    return f"sha256:{identity}"
