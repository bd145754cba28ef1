"""Does a job find what it needs: room for its roles, its models, data and reward function where they are used?"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayrlhf.config.jobs import Job, RLJob, SFTJob
from rayrlhf.errors import ConfigError, PlacementError
from rayrlhf.jobs.doctor.findings import Check, Finding
from rayrlhf.jobs.doctor.party import Party, Room
from rayrlhf.runtime.bundles import RoleBundle
from rayrlhf.stages.bundles import role_bundles

TIMEOUT_S = 180.0
ROOM, LABELS, INPUTS = (Check("job", name) for name in ("room for the roles", "node labels", "inputs"))


@dataclass(frozen=True, slots=True)
class Need:
    """Something that a role's nodes must be able to read: a `model`, `data` or a reward `function`."""

    kind: str
    value: str
    key: str


@dataclass(frozen=True, slots=True)
class Sight:
    """What a node saw of a need. `contents` tells two copies apart; `remote`: it would come from a hub."""

    trouble: str = ""
    contents: str = ""
    remote: bool = False


def examine(party: Party, room: Sequence[Room], job: Job) -> list[Finding]:
    """Ask the nodes for what the roles that may come to them need."""
    bundles = role_bundles(job)
    found = judge_room(bundles, room, grows=job.run.autoscaling)
    needs = {node.id: needs_of_node(job, bundles, node.labels) for node in room}
    seen = party.ask(look, TIMEOUT_S, {node: (wanted,) for node, wanted in needs.items()})
    answered = {party.names[node]: needs[node] for node in seen.values}
    found += judge_sights(answered, {party.names[node]: sights for node, sights in seen.values.items()})
    remedy = "see what this node is busy with, and run the doctor again"
    return found + [INPUTS.red(f"did not answer: {why}", remedy).on(party.names[n]) for n, why in seen.failures.items()]


def needs_by_role(job: Job) -> dict[str, list[Need]]:
    """What each role reads on its own nodes; prompts are read where the run is started."""
    model = Need("model", job.model.path, "model.path")
    if not isinstance(job, RLJob):
        source = ("demonstrations", job.data.demonstrations)
        if not isinstance(job, SFTJob):
            source = ("comparisons", job.data.comparisons)
        files = (source, ("held_out", job.data.held_out))
        return {"learner": [model, *(Need("data", value, f"data.{key}") for key, value in files if value)]}
    needs = {"rollout": [model], "learner": [model], "reward": list[Need]()}
    if job.data.pretraining is not None:
        needs["learner"].append(Need("data", job.data.pretraining, "data.pretraining"))
    scorer = Need("model", job.reward.model, "reward.model") if job.reward.model else None
    if scorer is not None:
        needs["reward"].append(scorer)
    if job.reward.function is not None:
        needs["reward"].append(Need("function", job.reward.function, "reward.function"))
    if job.has_reference:
        own = job.reference.model
        needs["reference"] = [Need("model", own, "reference.model") if own else model]
    if job.has_critic:
        own = job.critic.model
        needs["critic"] = [Need("model", own, "critic.model") if own else scorer or model]
    return needs


def needs_of_node(job: Job, bundles: Sequence[RoleBundle], labels: Mapping[str, str]) -> tuple[Need, ...]:
    """What a node with these labels may be asked for."""
    by_role = needs_by_role(job)
    may_come = [bundle.role for bundle in bundles if bundle.labels.items() <= labels.items()]
    return tuple(dict.fromkeys(need for role in may_come for need in by_role[role]))


def look(needs: Sequence[Need]) -> list[Sight]:
    """Look for each on this node."""
    eyes = {"model": look_at_model, "data": look_at_data, "function": look_at_function}
    return [eyes[need.kind](need.value) for need in needs]


def look_at_model(path: str) -> Sight:
    """A directory with a config and whole safetensors files, or a hub id that is in this node's cache."""
    folder = Path(path)
    if not folder.is_dir():
        return _look_at_hub(path, "config.json", "model")
    try:
        json.loads((folder / "config.json").read_bytes())
        index = folder / "model.safetensors.index.json"
        named = set(json.loads(index.read_bytes())["weight_map"].values()) if index.is_file() else set()
        files = sorted({*named, *(file.name for file in folder.glob("*.safetensors"))})
        if not files:
            return Sight(f"{path}: no safetensors weights")
        sizes = {name: _whole_size(folder / name) for name in files}
    except (OSError, ValueError, KeyError) as error:
        return Sight(f"{path}: {error}")
    return Sight(contents=json.dumps(sizes))


def _whole_size(file: Path) -> int:
    """The size of a safetensors file whose header is readable and whose tensors are all there."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        header: dict[str, Any] = json.loads(opened.read(length)) if length < size else {}
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    if not ends or 8 + length + max(ends) != size:
        raise ValueError(f"{file.name} is cut or no safetensors file ({size} bytes)")
    return size


def look_at_data(source: str) -> Sight:
    """A file that can be read, or a hub id."""
    file = Path(source)
    if not file.exists():
        return _look_at_hub(source, "README.md", "dataset")
    try:
        if file.is_file():
            with file.open("rb") as opened:
                opened.read(1)
        return Sight(contents=str(file.stat().st_size) if file.is_file() else "")
    except OSError as error:
        return Sight(f"{source}: {error}")


def _look_at_hub(name: str, file: str, repo_type: str) -> Sight:
    what = "directory" if repo_type == "model" else "file"
    if name.count("/") > 1 or name.startswith((".", "~", "/")):
        return Sight(f"{name}: no such {what}")
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, file, repo_type=repo_type), str):
        return Sight()
    return Sight(f"{name}: no such {what}, and not in the hub's cache", remote=True)


def look_at_function(path: str) -> Sight:
    """Import it, as a reward worker does."""
    from rayrlhf.rewards.function import import_function

    try:
        import_function(path)
    except ConfigError as error:
        return Sight(str(error))
    except Exception as error:  # noqa: BLE001 - a module that is imported may raise anything
        return Sight(f"{path}: {type(error).__name__}: {error}")
    return Sight()


def judge_room(bundles: Sequence[RoleBundle], room: Sequence[Room], *, grows: bool = False) -> list[Finding]:
    """All roles fit at once; of a cluster that grows, it is only said. Labels that no node has are named first."""
    from rayrlhf.runtime.cluster import NodeRoom, check_room

    found = []
    for bundle in bundles:
        if not any(bundle.labels.items() <= node.labels.items() for node in room):
            wanted = ",".join(f"{key}={value}" for key, value in sorted(bundle.labels.items()))
            remedy = f'start nodes with `ray start --labels "{wanted}"`, or change {bundle.role}.node_labels'
            make = LABELS.yellow if grows else LABELS.red
            found.append(make(f"{bundle.role}: no node{bundle.where}", remedy))
    if found:
        return found
    try:
        check_room(bundles, [NodeRoom(node.cpus, node.gpus, dict(node.labels)) for node in room])
    except PlacementError as error:
        told, _, keys = str(error).rpartition(": ")
        if grows:
            return [ROOM.yellow(f"{told}: the run waits for nodes", "see that the autoscaler may add enough of them")]
        return [ROOM.red(told, f"{keys}, or add nodes")]
    needed = ", ".join(f"{b.count} {b.role}" for b in bundles)
    return [ROOM.green(f"{needed} fit on {len(room)} node(s)")]


def judge_sights(needs: Mapping[str, Sequence[Need]], sights: Mapping[str, Sequence[Sight]]) -> list[Finding]:
    """Everything is readable where it is needed, and is the same there."""
    found: list[Finding] = []
    contents: dict[Need, dict[str, list[str]]] = {}
    for node, wanted in needs.items():
        for need, sight in zip(wanted, sights[node], strict=True):
            found.append(_judge_sight(need, sight).on(node))
            if sight.contents:
                contents.setdefault(need, {}).setdefault(sight.contents, []).append(node)
    for need, copies in contents.items():
        if len(copies) > 1:
            told = " / ".join(", ".join(nodes) for nodes in copies.values())
            check = Check("job", need.key)
            found.append(check.red(f"{need.value} is not the same on {told}", "copy it again, or use one shared place"))
    return found


def _judge_sight(need: Need, sight: Sight) -> Finding:
    check = Check("job", need.key)
    if not sight.trouble:
        return check.green(f"{need.value} {'can be imported' if need.kind == 'function' else 'is readable'}")
    if need.kind == "function":
        return check.red(
            sight.trouble, "install its package on this node, or start the job in the folder of its module"
        )
    if sight.remote:
        fetch = "hf download" + (" --repo-type dataset" if need.kind == "data" else "")
        return check.yellow(f"{sight.trouble}: it would be downloaded there", f"{fetch} {need.value}")
    return check.red(sight.trouble, f"put it on this node, or set {need.key} to a place that all nodes share")


def judge_inputs(trouble: str) -> Finding:
    """What the run itself checks before it allocates anything: tokenizer, rows, heads, lengths, checkpoint."""
    if trouble:
        return INPUTS.red(trouble, "change the key or file that the message names")
    return INPUTS.green("models, rows, reward and checkpoint pass the run's own checks")
