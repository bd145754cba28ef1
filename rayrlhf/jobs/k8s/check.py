"""`rayrlhf k8s check`: manifests against KubeRay's schemas and the rules that no schema shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayrlhf.jobs.k8s.node import Problem
from rayrlhf.jobs.k8s.reading import Document, ManifestSet, can_build, read_sets
from rayrlhf.jobs.k8s.rules.objects import rule_problems, set_problems
from rayrlhf.jobs.k8s.schema import Schemas
from rayrlhf.runtime.environment import kuberay_crds


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake: the file, the object, the path to the key, and what to change."""

    source: str
    object_name: str
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.source}: {self.object_name}: {self.path}: {self.message}"


def check_paths(paths: Sequence[str], crds: str | None = None) -> int:
    """Print what is wrong; returns the exit code: 0 nothing, 2 something.

    Raises:
        ConfigError: a path is not there, a file is no YAML, a kustomization cannot be built, or there are no schemas
            where `crds` says.

    """
    schemas = find_schemas(crds)
    sets = list(read_sets(paths))
    found: list[Finding] = []
    said: set[tuple[str, str, str]] = set()
    for manifests in sorted(sets, key=lambda each: each.is_built):
        for finding in find(manifests, schemas):
            key = (finding.object_name, finding.path, finding.message)
            if not (manifests.is_built and key in said):  # a file says it already
                found.append(finding)
            said.add(key)
    print("".join(f"{finding}\n" for finding in found) + _summary(sets, found, has_schemas=schemas is not None))
    return 2 if found else 0


def _summary(sets: Sequence[ManifestSet], found: Sequence[Finding], *, has_schemas: bool) -> str:
    files, built = (sum(len(s.documents) for s in sets if s.is_built == is_built) for is_built in (False, True))
    text = f"{files} manifest{'' if files == 1 else 's'}" + (f" and {built} built by kustomize" if built else "")
    text += f", {len(found) or 'no'} mistake{'' if len(found) == 1 else 's'}"
    if not has_schemas:
        text += "; SCHEMAS WERE NOT CHECKED: no --crds and no KUBERAY_CRDS, so rules only"
    return text if can_build() else f"{text}; kubectl is not here, so kustomizations were not built"


def find_schemas(crds: str | None) -> Schemas | None:
    """Those of a folder, or of the environment's; none where neither is named."""
    folder = crds or kuberay_crds()
    return Schemas.load(Path(folder)) if folder is not None else None


def find(manifests: ManifestSet, schemas: Schemas | None) -> Iterator[Finding]:
    """What is wrong in a set of manifests."""
    for document in manifests.documents:
        for problem in _problems(document, schemas):
            yield Finding(document.source, document.name, problem.path, problem.message)
    if manifests.is_whole:
        whole = [document for document in manifests.documents if not document.is_patch]
        by_node = {id(document.manifest.value): document for document in manifests.documents}
        for node, problem in set_problems([document.manifest for document in whole]):
            document = by_node[id(node.value)]
            yield Finding(document.source, document.name, problem.path, problem.message)


def _problems(document: Document, schemas: Schemas | None) -> Iterator[Problem]:
    """Of the two that say the same of a key, the rule's is kept: it says why."""
    ruled = [] if document.is_patch else list(rule_problems(document.manifest))
    yield from ruled
    paths = {problem.path for problem in ruled}
    for problem in schemas.problems(document.manifest, is_patch=document.is_patch) if schemas else ():
        if problem.path not in paths:
            yield problem
