"""`rayrlhf k8s turn FILE`, in a CronJob's pod: make a RayJob, or join the one that goes on, and stay until its end.

Speaks to the API server that the pod runs under, with the pod's own service account.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from rayrlhf.errors import ConfigError, RunError
from rayrlhf.runtime.environment import api_server

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LOOK_S = 15.0
ENDS = ("Complete", "Failed", "ValidationFailed")
"""KubeRay's words for a job that has ended."""
CALL_S = 30.0
PATIENCE_S = 600.0
"""An API server that is away for less is waited for."""


@dataclass(frozen=True)
class Jobs:
    """The RayJobs of a namespace."""

    client: httpx.Client
    namespace: str
    token: Path

    @property
    def _path(self) -> str:
        return f"/apis/ray.io/v1/namespaces/{self.namespace}/rayjobs"

    def create(self, job: dict[str, Any]) -> str:
        """Returns its name."""
        return str(self._call("POST", self._path, json=job)["metadata"]["name"])

    def under_way(self, selector: str) -> str | None:
        """The name of one that has not ended."""
        found = self._call("GET", self._path, params={"labelSelector": selector})["items"]
        return next((str(job["metadata"]["name"]) for job in found if _end(job) is None), None)

    def end(self, name: str) -> str | None:
        """How it ended, in KubeRay's word; nothing while it goes on."""
        return _end(self._call("GET", f"{self._path}/{name}"))

    def _call(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        # The token is read anew: the kubelet renews it.
        headers = {"Authorization": f"Bearer {self.token.read_text().strip()}"}
        response = self.client.request(method, path, headers=headers, **more)
        if response.status_code in (401, 403, 404, 409, 422):
            raise RunError(f"{method} {path}: {response.status_code}: {response.text[:500]}")
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer


def take_turn(file: str, account: Path = ACCOUNT) -> None:
    """Make the RayJob of a file, or join the one that goes on, and wait for its end.

    Raises:
        ConfigError: not in a pod, or no such file.
        RunError: the turn failed, or the API server refuses or stays away.

    """
    url = api_server()
    if url is None or not (account / "token").is_file():
        raise ConfigError("k8s turn: runs in a pod that has a service account's token; try it with `rayrlhf cycle`")
    try:
        job = json.loads(Path(file).read_text(encoding="utf-8"))
        selector = ",".join(f"{key}={value}" for key, value in sorted(job["metadata"]["labels"].items()))
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{file}: a RayJob with labels, as JSON, is expected: {error}") from None
    namespace = (account / "namespace").read_text().strip()
    verify = str(account / "ca.crt") if (account / "ca.crt").is_file() else True
    with httpx.Client(base_url=url, verify=verify, timeout=CALL_S) as client:
        _follow(Jobs(client, namespace, account / "token"), job, selector)


def _follow(jobs: Jobs, job: dict[str, Any], selector: str) -> None:
    name = jobs.under_way(selector)
    print(f"rayjob/{name}: goes on" if name else "no turn is under way", flush=True)
    name = name or jobs.create(job)
    last_answer = time.monotonic()
    while True:
        try:
            end = jobs.end(name)
            last_answer = time.monotonic()
        except httpx.HTTPError as error:
            end = None
            if time.monotonic() - last_answer > PATIENCE_S:
                raise RunError(
                    f"rayjob/{name}: the API server has not answered for {PATIENCE_S:g} s: {error}"
                ) from None
        if end == "Complete":
            print(f"rayjob/{name}: done", flush=True)
            return
        if end is not None:
            raise RunError(f"rayjob/{name}: {end}: kubectl describe rayjob {name}")
        time.sleep(LOOK_S)


def _end(job: dict[str, Any]) -> str | None:
    status = job.get("status", {}).get("jobDeploymentStatus")
    return status if status in ENDS else None
