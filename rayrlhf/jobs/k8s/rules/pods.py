"""What every pod has to have, and what it may not do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from rayrlhf.jobs.k8s.node import Node, Problem

_SECRET_NAME = re.compile(r"TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|(ACCESS|API|PRIVATE)_?KEY", re.IGNORECASE)
_NO_SECRET = ("TOKENIZERS_PARALLELISM", "RAY_AUTH_TOKEN_PATH", "AWS_WEB_IDENTITY_TOKEN_FILE")
_URL_PASSWORD = re.compile(r"://[^\s/:@]+:[^\s/@]+@")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12} | {
    f"{unit}i": 1024**power for power, unit in enumerate("KMGT", start=1)
}
ADDABLE = ("IPC_LOCK",)
"""RDMA registers memory with it."""


def pod_problems(template: Node, *, is_ray: bool, needs_token: bool = False) -> Iterator[Problem]:
    """Of a pod template; `is_ray`: a head or a worker; `needs_token`: it speaks to the API server."""
    spec = template["spec"]
    if not spec["containers"].value:
        yield spec["containers"].wrong("at least one container is expected; the first one is Ray's")
        return
    yield from _host(spec)
    yield from _nobody(spec)
    for group in ("containers", "initContainers"):
        for container in spec[group].each():
            yield from _container(container, spec["securityContext"])
    if is_ray:
        yield from _shared_memory(spec)
    if not needs_token and spec["automountServiceAccountToken"].value is not False:
        message = "false is expected: this pod has no business with the API server"
        yield spec["automountServiceAccountToken"].wrong(message)


def secret_problems(text: Node) -> Iterator[Problem]:
    """A URL with a password in it, in any text."""
    if _URL_PASSWORD.search(text.text):
        yield text.wrong("a URL with a password: leave it out, and give it as a variable from a secret")


def _host(spec: Node) -> Iterator[Problem]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec[key].value:
            yield spec[key].wrong("the node's own: a pod has one to itself; remove the key")
    for volume in spec["volumes"].each():
        if volume["hostPath"].exists:
            yield volume["hostPath"].wrong("a folder of the node: use a PersistentVolumeClaim or an emptyDir")


def _nobody(spec: Node) -> Iterator[Problem]:
    security = spec["securityContext"]
    if security["runAsNonRoot"].value is not True:
        yield security["runAsNonRoot"].wrong("true is expected: nothing here needs root")
    if security["runAsUser"].value == 0:
        yield security["runAsUser"].wrong("0 is root: give the image's user, as in 1000")
    if security.at("seccompProfile", "type").value not in ("RuntimeDefault", "Localhost"):
        yield security.at("seccompProfile", "type").wrong("RuntimeDefault is expected")


def _container(container: Node, pod_security: Node) -> Iterator[Problem]:
    security = container["securityContext"]
    if security["privileged"].value:
        yield security["privileged"].wrong("a privileged container owns its node; remove the key")
    if security["runAsUser"].value == 0 or security["runAsNonRoot"].value is False:
        yield security.wrong("runs as root, against the pod's own securityContext")
    if security["allowPrivilegeEscalation"].value is not False:
        yield security["allowPrivilegeEscalation"].wrong("false is expected")
    capabilities = security["capabilities"]
    if capabilities["drop"].value != ["ALL"]:
        yield capabilities["drop"].wrong('["ALL"] is expected')
    for added in capabilities["add"].each():
        if added.value not in ADDABLE:
            yield added.wrong(f"{added.value}: no capability but {', '.join(ADDABLE)} is needed")
    yield from _resources(container["resources"])
    yield from _image(container["image"])
    for variable in container["env"].each():
        yield from _variable(variable)
    for port in container["ports"].each():
        if port["hostPort"].exists:
            yield port["hostPort"].wrong("a port of the node: remove the key; a Service reaches the pod")


def _resources(resources: Node) -> Iterator[Problem]:
    for side in ("requests", "limits"):
        for what in ("cpu", "memory"):
            if not resources[side][what].exists:
                why = "KubeRay tells Ray the limits" if side == "limits" else "else the node is promised twice"
                yield resources[side][what].wrong(f"is missing: {why}")
    for key, limit in resources["limits"].entries():
        wanted = resources["requests"][key]
        if "/" in key:
            if wanted.exists and str(wanted.value) != str(limit.value):
                yield wanted.wrong(f"{wanted.value}: devices are not shared; the limit, {limit.value}, is expected")
        elif (asked := quantity(wanted)) and (most := quantity(limit)) and asked > most:
            yield wanted.wrong(f"{wanted.value} is more than the limit, {limit.value}")


def _image(image: Node) -> Iterator[Problem]:
    name = image.text.rsplit("/", 1)[-1]
    if not image.text:
        yield image.wrong("is missing")
    elif "@sha256:" not in image.text and (":" not in name or name.endswith(":latest")):
        message = (
            f"{image.text}: a version is expected, as in rayrlhf:1.2 or …@sha256:…: all pods must run the same Ray"
        )
        yield image.wrong(message)


def _variable(variable: Node) -> Iterator[Problem]:
    name = variable["name"].text
    if variable["value"].text and _SECRET_NAME.search(name) and name not in _NO_SECRET:
        yield variable["value"].wrong(f"{name} is a secret: use valueFrom.secretKeyRef")
    yield from secret_problems(variable["value"])


def _shared_memory(spec: Node) -> Iterator[Problem]:
    container = next(spec["containers"].each())
    mounts = {mount["mountPath"].text: mount["name"].text for mount in container["volumeMounts"].each()}
    if "/dev/shm" not in mounts:
        message = 'no /dev/shm: Ray\'s object store would go to the disk: mount an emptyDir with medium "Memory" there'
        yield container["volumeMounts"].wrong(message)
        return
    for volume in spec["volumes"].each():
        if volume["name"].text == mounts["/dev/shm"]:
            yield from _memory_volume(volume["emptyDir"], container.at("resources", "limits", "memory"))


def _memory_volume(volume: Node, memory: Node) -> Iterator[Problem]:
    if volume["medium"].value != "Memory":
        yield volume["medium"].wrong("Memory is expected for /dev/shm")
    size = quantity(volume["sizeLimit"])
    if size is None:
        yield volume["sizeLimit"].wrong("a size is expected, as in 10Gi: about 30 % of the memory")
    elif (most := quantity(memory)) and size >= most:
        yield volume["sizeLimit"].wrong(
            f"{volume['sizeLimit'].value} of {memory.value}: /dev/shm is part of the memory"
        )


def quantity(node: Node) -> Fraction | None:
    """A Kubernetes quantity as a number, where it is one."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(m|[kMGT]|[KMGT]i)?", str(node.value)) if node.exists else None
    if found is None:
        return None
    number, unit = Fraction(found[1]), found[2] or ""
    return number / 1000 if unit == "m" else number * _UNITS[unit]
