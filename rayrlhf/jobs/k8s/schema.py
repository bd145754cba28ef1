"""Manifests against KubeRay's own schemas: misspelt keys, wrong types, missing and unknown values.

The schemas are the operator's custom resource definitions, in a folder that the user names. Pods and
network rules of Kubernetes' own objects are checked with the parts of these schemas that describe the same things.
"""

from __future__ import annotations

import difflib
import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from rayrlhf.errors import ConfigError
from rayrlhf.jobs.k8s.node import Node, Problem, join
from rayrlhf.jobs.k8s.yaml_text import SAFE_LOADER

Schema = dict[str, Any]
SUFFIXES = (".json.gz", ".json", ".yaml")
POD_TEMPLATES = {
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Job": ("spec", "template"),
    "Deployment": ("spec", "template"),
}


@dataclass(frozen=True)
class Schemas:
    """What the folder has, by apiVersion and kind."""

    by_kind: Mapping[tuple[str, str], Schema]

    @classmethod
    @lru_cache(maxsize=2)
    def load(cls, folder: Path) -> Schemas:
        """Read the folder.

        Raises:
            ConfigError: it is not there, or holds no KubeRay definitions.

        """
        found: dict[tuple[str, str], Schema] = {}
        files = [file for file in folder.iterdir() if file.name.endswith(SUFFIXES)] if folder.is_dir() else []
        for file in sorted(files):
            try:
                definition = _read(file)["spec"]
                for version in definition["versions"]:
                    key = (f"{definition['group']}/{version['name']}", definition["names"]["kind"])
                    found[key] = _strict(version["schema"]["openAPIV3Schema"])
            except (OSError, EOFError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
                raise ConfigError(f"{file}: not a custom resource definition: {error!r}") from None
        if ("ray.io/v1", "RayCluster") not in found:
            raise ConfigError(f"--crds (or KUBERAY_CRDS) {folder}: KubeRay's custom resource definitions are expected")
        return cls(found)

    def problems(self, manifest: Node, *, is_patch: bool = False) -> Iterator[Problem]:
        """What the schema says; of a patch, which is a part of a manifest, not what it lacks."""
        kind = manifest["kind"].text
        schema = self.by_kind.get((manifest["apiVersion"].text, kind))
        if schema is not None:
            yield from _problems(schema, manifest, is_patch)
        elif manifest["apiVersion"].text.startswith("ray.io/"):
            known = ", ".join(sorted({name for _, name in self.by_kind}))
            yield manifest["kind"].wrong(f"{manifest['apiVersion'].text} {kind} is not known; there are {known}")
        elif kind in POD_TEMPLATES and (pods := manifest.at(*POD_TEMPLATES[kind])).exists:
            yield from _problems(self._pod_template, pods, is_patch)
        elif kind == "NetworkPolicy":
            for side in ("ingress", "egress"):
                for rule in manifest.at("spec", side).each():
                    yield from _problems(self._network_rules[f"{side}Rules"]["items"], rule, is_patch)

    @cached_property
    def _cluster(self) -> Schema:
        found: Schema = self.by_kind["ray.io/v1", "RayCluster"]["properties"]["spec"]["properties"]
        return found

    @property
    def _pod_template(self) -> Schema:
        found: Schema = self._cluster["headGroupSpec"]["properties"]["template"]
        return found

    @property
    def _network_rules(self) -> Schema:
        found: Schema = self._cluster["networkPolicy"]["properties"]["head"]["properties"]
        return found


def _read(file: Path) -> Any:
    data = file.read_bytes()
    if file.name.endswith(".gz"):
        data = gzip.decompress(data)
    return yaml.load(data, Loader=SAFE_LOADER) if file.suffix == ".yaml" else json.loads(data)


def _strict(schema: Any, key: str = "") -> Any:
    """As JSON Schema that refuses unknown keys, as `kubectl --validate=strict` does."""
    if not isinstance(schema, dict):
        return schema
    if key == "metadata" and schema.get("type") == "object":
        return {"type": "object"}
    made = {name: _strict_part(name, part) for name, part in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    if schema.get("nullable") and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    return made


def _strict_part(name: str, part: Any) -> Any:
    if name == "properties":
        return {key: _strict(value, key) for key, value in part.items()}
    if name in ("items", "additionalProperties", "not"):
        return _strict(part)
    if name in ("anyOf", "oneOf", "allOf"):
        return [_strict(option) for option in part]
    return part


def _problems(schema: Schema, node: Node, is_patch: bool) -> Iterator[Problem]:
    for error in Draft202012Validator(schema).iter_errors(node.value):
        if not (is_patch and error.validator == "required"):
            yield from _explain(error, node.path)


def _explain(error: ValidationError, root: str) -> Iterator[Problem]:
    path = root
    for step in error.absolute_path:
        path = f"{path}[{step}]" if isinstance(step, int) else join(path, str(step))
    found: Any = error.instance
    if error.validator == "additionalProperties" and isinstance(error.schema, Mapping):
        known = list(error.schema.get("properties", {}))
        for key in sorted(set(map(str, found)) - set(known)):
            if not key.startswith("$"):  # an instruction of a patch
                yield Problem(join(path, key), f"unknown key{_suggestion(key, known)}")
    elif error.validator == "required":
        key = error.message.split("'")[1]
        yield Problem(join(path, key), "is missing")
    elif error.validator == "enum":
        yield Problem(path, f"{found!r}: one of {', '.join(map(str, error.validator_value))} is expected")
    elif error.validator == "type":
        wanted = error.validator_value if isinstance(error.validator_value, str) else " or ".join(error.validator_value)
        yield Problem(path, f"{found!r}: {wanted} is expected")
    else:
        yield Problem(path, error.message)


def _suggestion(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
