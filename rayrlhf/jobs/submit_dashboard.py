"""The jobs API of a cluster's dashboard, with deadlines, and with errors that say what to change.

Ray's own client makes the requests. Knows ids and statuses and nothing of configs.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import ray
import requests
from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from rayrlhf.errors import ClusterAccessError, ClusterAwayError, PlacementError, RunError
from rayrlhf.jobs.submission import Submission
from rayrlhf.jobs.submit_upload import EXCLUDES
from rayrlhf.runtime.environment import cluster_token, dashboard_address, insecure_allowed, set_variables

AWAY = (requests.ConnectionError, requests.Timeout, ConnectionError, TimeoutError)
CONNECT_S, ANSWER_S, UPLOAD_S = 10.0, 60.0, 600.0
"""Deadlines of a request; an upload may be 100 MiB over a slow line."""
HEAD = "node:__internal_head__"
"""Ray's own resource of the head node. A driver that reserves CPUs would go to any node without it."""
DASHBOARD_URL = re.compile(r"https?://[^/@?#\s]+(/[^@?#\s]*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A job of ours that the cluster knows."""

    id: str
    number: int
    details: JobDetails

    @property
    def is_over(self) -> bool:
        """Whether it has ended, and not well: then the next attempt may be made."""
        return self.details.status in (JobStatus.FAILED, JobStatus.STOPPED)


class _Client(JobSubmissionClient):
    """Ray's client, whose requests would wait for ever."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        answer_s = UPLOAD_S if method == "PUT" else ANSWER_S
        return super()._do_request(method, endpoint, timeout=(CONNECT_S, answer_s), **options)


class Dashboard:
    """One cluster's jobs."""

    upload_limit = DASHBOARD_CLIENT_MAX_SIZE

    def __init__(self, address: str | None) -> None:
        """Reach the cluster.

        Raises:
            ClusterAccessError: address, token or version are wrong; ClusterAwayError where nothing answers.

        """
        self.address = _checked(address or dashboard_address())
        token, self._token_source = cluster_token()
        set_variables({"RAY_API_SERVER_ADDRESS": self.address})  # what the shell says would win over the argument
        logging.getLogger("ray").setLevel(logging.ERROR)
        for name in ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
            logging.getLogger(name).setLevel(logging.ERROR)
        ours = {"Authorization": f"Bearer {token}" if token else ""}  # Ray would look for one of its own without
        with self._explained():
            self._client = _Client(self.address, headers=ours)
        self._require_version()

    def require_token(self) -> None:
        """Refuse a cluster that takes jobs from anybody, unless `--allow-insecure` was given.

        Raises:
            ClusterAccessError: it asks for no token.

        """
        with self._explained():
            is_open = requests.get(f"{self.address}/api/version", timeout=(CONNECT_S, ANSWER_S)).ok
        if is_open and not insecure_allowed():
            raise ClusterAccessError(
                f"the cluster at {self.address} is open: it asks nobody for a token and runs anybody's code. Start its "
                "nodes with RAY_AUTH_MODE=token and one token for all, or give --allow-insecure"
            )

    def head_cpus(self) -> float:
        """CPUs of the head node, in use or not."""
        with self._explained():
            answer = self._client._do_request("GET", "/api/v0/nodes")
            nodes = answer.json()["data"]["result"]["result"]
        heads = [node for node in nodes if node["is_head_node"] and node["state"] == "ALIVE"]
        return float(sum(node["resources_total"].get("CPU", 0.0) for node in heads))

    def attempts(self, prefix: str) -> list[Attempt]:
        """What the cluster knows of a job, oldest first."""
        known = re.compile(re.escape(prefix) + r"-(\d+)")
        with self._explained():
            jobs = self._client.list_jobs()
        matches = [(known.fullmatch(job.submission_id or ""), job) for job in jobs]
        found = [Attempt(match.string, int(match[1]), job) for match, job in matches if match is not None]
        return sorted(found, key=lambda attempt: attempt.number)

    def jobs(self) -> list[JobDetails]:
        """All that were submitted to the cluster, newest first."""
        with self._explained():
            jobs = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(jobs, key=lambda job: job.start_time or 0, reverse=True)

    def find(self, job_id: str) -> JobDetails | None:
        """What the cluster says of a job, if it knows it."""
        with self._explained():
            try:
                return self._client.get_job_info(job_id)
            except RuntimeError as error:
                if "status code 404" in str(error):
                    return None
                raise

    def info(self, job_id: str) -> JobDetails:
        """What the cluster says of a job.

        Raises:
            RunError: it does not know it any more.

        """
        if (found := self.find(job_id)) is None:
            raise RunError(
                f"{self.address} does not know {job_id} any more: the cluster is a new one. Submit again: the run goes "
                "on from its newest checkpoint"
            )
        return found

    def submit(self, job_id: str, submission: Submission, driver_cpus: float) -> bool:
        """Upload the working directory and start the job; False if somebody else has just submitted it."""
        env_vars = {**submission.env_vars, "RAYRLHF_DRIVER_CPUS": f"{driver_cpus:g}"}
        env_vars |= {"RAYRLHF_ALLOW_INSECURE": "1"} if insecure_allowed() else {}
        resources: dict[str, Any] = {"entrypoint_num_cpus": driver_cpus, "entrypoint_resources": {HEAD: 0.001}}
        with self._explained():
            try:
                self._client.submit_job(
                    entrypoint=submission.entrypoint,
                    submission_id=job_id,
                    runtime_env={
                        "working_dir": str(submission.upload.root),
                        "excludes": list(EXCLUDES),
                        "env_vars": env_vars,
                    },
                    metadata=dict(submission.metadata),
                    **(resources if driver_cpus else {}),
                )
            except RuntimeError:
                if self.find(job_id) is None:
                    raise
                return False
        return True

    def require_driver_fits(self, cpus: float) -> None:
        """Refuse a driver that no head node will ever hold; Ray would let it wait.

        Raises:
            PlacementError: says what the head node has.

        """
        if cpus > (have := self.head_cpus()):
            raise PlacementError(
                f"--driver-cpus {cpus:g}: the head node has {have:g} CPUs. Lower it; 0 runs the driver there without "
                "reserving any"
            )

    def stop(self, job_id: str) -> None:
        """Ask a job to save and end."""
        with self._explained():
            self._client.stop_job(job_id)

    def logs(self, job_id: str) -> str:
        """What a job has printed."""
        with self._explained():
            return str(self._client.get_job_logs(job_id))

    async def tail(self, job_id: str) -> AsyncIterator[str]:
        """What a job prints, from its start; ends with the stream, which need not be the end of the job."""
        with self._explained():
            async for text in self._client.tail_job_logs(job_id):
                yield text

    def _require_version(self) -> None:
        theirs, ours = str(self._client._server_ray_version), ray.__version__
        if theirs.split(".")[:2] != ours.split(".")[:2]:
            raise ClusterAccessError(
                f"{self.address} runs Ray {theirs}, rayrlhf needs Ray {ours}: start the cluster from rayrlhf's image"
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what Ray's client raises into what the user can do."""
        try:
            yield
        except AuthenticationError as error:
            raise ClusterAccessError(self._token_message(str(error))) from None
        except (*AWAY, aiohttp.ClientError) as error:
            raise ClusterAwayError(
                f"no Ray dashboard answers at {self.address} ({type(error).__name__}): is the cluster up, is this the "
                "dashboard's port (8265), does a port-forward still run?"
            ) from None
        except (requests.RequestException, KeyError, TypeError) as error:
            raise ClusterAccessError(
                f"{self.address} answers, but not as Ray's dashboard does ({type(error).__name__}): give the address "
                "of the dashboard, http://HOST:8265"
            ) from None
        except RuntimeError as error:
            raise _refused(self.address, str(error)) from None

    def _token_message(self, text: str) -> str:
        if text.startswith("Authentication required"):
            return (
                f"{self.address} asks for a token, and none was found at {self._token_source} (401): set "
                "RAY_AUTH_TOKEN_PATH to a file that holds the cluster's token, or RAY_AUTH_TOKEN"
            )
        return f"{self.address} does not take the token from {self._token_source} (403): it is not the cluster's"


def _checked(address: str | None) -> str:
    """A dashboard's URL. What is wrong with a password in it is said without showing it."""
    if address is None:
        raise ClusterAccessError(
            "--address is missing: the URL of the cluster's dashboard, as in http://127.0.0.1:8265"
        )
    if "@" in address:
        raise ClusterAccessError("--address: a URL without credentials is expected; the token is read from a file")
    if not DASHBOARD_URL.fullmatch(address):
        raise ClusterAccessError(f"--address {address}: the dashboard's URL is expected, as in http://127.0.0.1:8265")
    return address.rstrip("/")


def _refused(address: str, text: str) -> ClusterAccessError:
    """Ray answers with tracebacks; their last line says what happened."""
    code = re.search(r"status code (\d+)", text)
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    what = lines[-1] if lines else "no reason given"
    if (code and code[1].startswith("5")) or "closed unexpectedly" in text or "WebSocket error" in text:
        return ClusterAwayError(f"{address} cannot serve this now: {what}")
    return ClusterAccessError(f"{address} refused: {what}")
