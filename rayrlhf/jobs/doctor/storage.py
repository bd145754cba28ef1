"""Can every node use the run directory, and do all see the same one? Each writes, renames and reads there.

The journal, the checkpoints and their manifests need exactly this of a storage: whole files that all nodes see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from rayrlhf.data.durable import (
    as_path,
    entries,
    exists,
    is_local,
    move_folder,
    read_bytes,
    remove_tree,
    write_durably,
)
from rayrlhf.jobs.doctor.findings import Check, Finding
from rayrlhf.jobs.doctor.machine import DISK_NEEDED_GIB, DISK_WANTED_GIB, Space, space_of
from rayrlhf.jobs.doctor.party import Party

TIMEOUT_S = 60.0
USABLE, SHARED, ROOM = (Check("storage", name) for name in ("run directory", "shared by all nodes", "disk"))


@dataclass(frozen=True, slots=True)
class StorageFacts:
    """What a node could do in the folder: `trouble` is what it could not. `space` is of a local one."""

    trouble: str = ""
    space: Space | None = None


def examine(party: Party, nodes: Sequence[str], parent: str, folder: str) -> list[Finding]:
    """Try `folder` on every node; then each looks for what the others wrote. `parent` is what people are told of."""
    marks = {node: f"node-{index}" for index, node in enumerate(nodes)}
    tried = party.ask(try_storage, TIMEOUT_S, {node: (folder, mark) for node, mark in marks.items()})
    facts = tried.values | {node: StorageFacts(why) for node, why in tried.failures.items()}
    found = judge_storage(parent, {party.names[node]: one for node, one in facts.items()})
    able = [node for node in nodes if not facts[node].trouble]
    if len(nodes) > 1 and able:
        seen = party.ask(seen_from, TIMEOUT_S, dict.fromkeys(able, (folder,))).values
        written = {party.names[node]: marks[node] for node in able}
        found += judge_sharing(parent, written, {party.names[node]: listed for node, listed in seen.items()})
    return found


def try_storage(folder: str, mark: str) -> StorageFacts:
    """Write a file, rename its folder, read it back and list it; it stays there as `mark`, for `seen_from`."""
    try:
        place = as_path(folder)
        write_durably(place / f"{mark}.new" / "content", mark.encode())
        move_folder(place / f"{mark}.new", place / mark)
        if read_bytes(place / mark / "content") != mark.encode():
            return StorageFacts("what was read is not what was written")
        if mark not in {entry.name for entry in entries(place)}:
            return StorageFacts("a folder that was renamed is not listed under its new name")
        return StorageFacts(space=space_of(place) if is_local(place) else None)
    except (OSError, ValueError, NotImplementedError, ImportError) as error:
        return StorageFacts(f"{type(error).__name__}: {error}")


def seen_from(folder: str) -> list[str]:
    """The marks that this node sees."""
    try:
        return [entry.name for entry in entries(as_path(folder))]
    except OSError:
        return []


def clear(folder: str, kept: str) -> None:
    """Remove the doctor's folder and its parents up to `kept`, as far as they are empty."""
    place, last = as_path(folder), as_path(kept)
    with suppress(OSError):
        remove_tree(place)
        while is_local(place) and place != last:
            place = place.parent
            if place != last:
                place.rmdir()


def oldest_ancestor(folder: str) -> str:
    """The nearest parent of a local folder that exists; a URL stays as it is."""
    place = as_path(folder)
    if not is_local(place):
        return folder
    return str(next(parent for parent in (place, *place.parents) if exists(parent)))


def unknown() -> Finding:
    """There is no config that says where runs of a cluster go."""
    remedy = "give the job's TOML: rayrlhf doctor CONFIG --address …"
    return USABLE.yellow("not tried: no CONFIG says where runs go, and all nodes have to share it", remedy)


def judge_storage(folder: str, facts: Mapping[str, StorageFacts]) -> list[Finding]:
    """Usable from every node, with room."""
    found = []
    for node, storage in facts.items():
        if storage.trouble:
            remedy = "make it writable on this node, or set run.directory to a place that is"
            found.append(USABLE.red(f"{folder}: {storage.trouble}", remedy).on(node))
            continue
        found.append(USABLE.green(f"{folder}: write, rename, read and list work").on(node))
        if storage.space is not None:
            found.append(_judge_room(storage.space).on(node))
    return found


def judge_sharing(folder: str, marks: Mapping[str, str], seen: Mapping[str, Sequence[str]]) -> list[Finding]:
    """`marks`: what each node wrote; `seen`: what each one lists. A node alone sees its own files only."""
    found = []
    for node, listed in seen.items():
        missing = [other for other, mark in marks.items() if mark not in listed]
        if missing:
            remedy = (
                "mount one shared file system there on every node (NFS, a RWX volume), or give an s3:// or gs:// URL"
            )
            found.append(SHARED.red(f"{folder}: does not see what {', '.join(missing)} wrote", remedy).on(node))
    return found or [SHARED.green(f"{folder}: {len(seen)} nodes see each other's files")]


def _judge_room(space: Space) -> Finding:
    remedy = "free some, or set run.directory to a larger disk"
    if space.free_gib < DISK_NEEDED_GIB:
        return ROOM.red(f"{space}, {DISK_NEEDED_GIB:g} GiB are needed", remedy)
    if space.free_gib < DISK_WANTED_GIB:
        return ROOM.yellow(f"{space}, {DISK_WANTED_GIB:g} GiB are better", remedy)
    return ROOM.green(str(space))
