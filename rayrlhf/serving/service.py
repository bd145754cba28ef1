"""A service on a Ray cluster: what its ledger says, as Serve applications; and the ways in which that changes.

    publish ──▶ same shape: the running replicas exchange their weights, one after the other
            └─▶ another shape: new replicas in the free slot, then everybody goes there
    canary ──▶ new replicas in the free slot for a share of the users ──▶ promote, or roll_back

The ledger changes last: a change that did not go through is undone, by the next one if not by this one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

from rayrlhf.errors import InterruptedRunError, ReleaseError, RunError
from rayrlhf.runtime.board import read_board
from rayrlhf.serving.names import INGRESS, POLICY, app_name
from rayrlhf.serving.releases import Ledger, Release, ReleaseBook, ReplicaState, Serving, Slot
from rayrlhf.serving.scaling import expected, replicas
from rayrlhf.serving.settings import ServiceSettings


@dataclass(frozen=True)
class Service:
    """The service of a directory; this process is connected to its cluster."""

    settings: ServiceSettings
    asked_to_end: threading.Event = field(default_factory=threading.Event)
    timeout_s: float = 600.0

    @property
    def book(self) -> ReleaseBook:
        """Its releases."""
        return ReleaseBook(Path(self.settings.directory))

    def start(self, model: Path) -> Release:
        """Bring everything up with this model for everybody; returns when answers can be had."""
        serve.start(http_options={"host": self.settings.host, "port": self.settings.port})
        with self.book.alone():
            release = self.book.register(model)
            before = self.book.read()
            # Replicas read here what to begin with, so this one is written first.
            ledger = self._with(before, Serving(slot="a", version=release.version), None)
            self.book.write(ledger)
            try:
                self._apply(ledger)
                self._wait(ledger)
            except (ReleaseError, RunError):
                self.book.write(before)
                raise
            self._note("serving", release, "for everybody")
        return release

    def publish(self, model: Path) -> Release:
        """Give a model to everybody, without losing a request.

        Raises:
            ReleaseError: it was not taken, and why; the old one serves as before.

        """
        with self._changing() as before:
            release = self.book.register(model)
            primary = _primary(before)
            old = before.release(primary.version)
            if release.shape == old.shape:
                self._change(self._with(before, primary.model_copy(update={"version": release.version}), before.canary))
            elif before.canary is not None:
                message = f"release {before.canary.version} is the canary and has the slot that this model needs"
                raise ReleaseError(f"{message}: promote it or roll it back first")
            else:
                new = Serving(slot=before.free_slot, version=release.version)
                self._hand_over(before, self._bring_up(before, new, wide=True))
            self._note("published", release, f"for everybody, after release {old.version}")
        return release

    def canary(self, model: Path, share: float) -> Release:
        """Give a model to a share of the users, the same ones from request to request."""
        with self._changing() as before:
            release = self.book.register(model)
            if before.canary is not None and before.canary.version == release.version:
                staged = before  # cut off before users were sent there, or asked for twice
            elif before.canary is not None:
                raise ReleaseError(f"release {before.canary.version} is the canary: promote it or roll it back first")
            else:
                new = Serving(slot=before.free_slot, version=release.version, share=share)
                staged = self._bring_up(before, new)
            self._apply(staged)
            self._wait(staged)
            self._note("canary", release, f"for {share:.0%} of the users")
        return release

    def promote(self) -> Release:
        """Give the canary to everybody."""
        with self._changing() as before:
            canary, primary = _canary(before), _primary(before)
            release = before.release(canary.version)
            if release.shape == before.release(primary.version).shape:
                alone = self._with(before, primary.model_copy(update={"version": release.version}), None)
                self._change(alone, also=[canary])
                self._apply(alone)
            else:
                self._apply(before, wide=True)
                self._wait(before, wide=True)
                self._hand_over(before, before)
            self._note("promoted", release, f"for everybody, after release {primary.version}")
        return release

    def roll_back(self, why: str) -> Release:
        """Take the canary away again."""
        with self._changing() as before:
            canary = _canary(before)
            alone = self._with(before, _primary(before), None)
            self._apply(alone, also=[canary])
            self._wait(alone)
            self._commit(alone)
            release = before.release(canary.version)
            self._note("rolled_back", release, why)
        return release

    def states(self) -> dict[str, ReplicaState]:
        """What each replica says of itself."""
        return read_board(self.settings.directory)

    @contextmanager
    def _changing(self) -> Iterator[Ledger]:
        """One change at a time. What an earlier one left half done is undone by what this one applies."""
        with self.book.alone():
            before = self.book.read()
            _primary(before)
            yield before

    def _bring_up(self, before: Ledger, new: Serving, *, wide: bool = False) -> Ledger:
        """Start a slot that nobody is sent to yet. Its replicas read the ledger, so that is written first."""
        staged = self._with(before, _primary(before), new)
        self.book.write(staged)
        with self._or_as(before):
            self._apply(self._with(before, _primary(before), None), also=[new], wide=wide)
            self._wait(staged, wide=wide)
        return staged

    def _hand_over(self, before: Ledger, staged: Ledger) -> None:
        """Send everybody to the canary's slot, then end the one that they came from when its answers are written."""
        after = self._with(staged, _canary(staged).model_copy(update={"share": 1.0}), None)
        with self._or_as(before):
            self._apply(after, also=[_primary(staged)], wide=True)
            self._wait(after)
        self._commit(after)

    def _change(self, after: Ledger, also: Sequence[Serving] = ()) -> None:
        """What the replicas that run can do by themselves."""
        with self._or_as(self.book.read()):
            self._apply(after, also)
            self._wait(after)
        self.book.write(after)

    @contextmanager
    def _or_as(self, before: Ledger) -> Iterator[None]:
        """What does not go through, or is interrupted, is taken back; the replicas do it by themselves."""
        try:
            yield
        except BaseException:
            self.book.write(before)
            self._apply(before)
            with suppress(RunError):  # what went wrong first is what is told
                self._wait(before)
            raise

    def _commit(self, after: Ledger) -> None:
        self.book.write(after)
        self._apply(after)

    def _with(self, ledger: Ledger, primary: Serving, canary: Serving | None) -> Ledger:
        return ledger.model_copy(update={"releases": self.book.read().releases, "primary": primary, "canary": canary})

    def _apply(self, ledger: Ledger, also: Sequence[Serving] = (), *, wide: bool = False) -> None:
        config = serve_config(self.settings, ledger, also, wide=wide)
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config))

    def _wait(self, ledger: Ledger, *, wide: bool = False) -> None:
        """Until all replicas of all slots serve what they should.

        Raises:
            ReleaseError: a replica does not take its release.
            RunError: the replicas did not come up.

        """
        deadline = time.monotonic() + self.timeout_s
        while trouble := self._missing(ledger, wide=wide):
            if time.monotonic() > deadline:
                raise RunError(f"the service is not ready after {self.timeout_s:.0f} s: {trouble}")
            if self.asked_to_end.wait(0.2):
                raise InterruptedRunError("asked to end before it was ready", 143)

    def _missing(self, ledger: Ledger, *, wide: bool) -> str:
        """What is not as the ledger says; empty when nothing is missing."""
        status, said = serve.status(), self.states()
        for name in (INGRESS, *(app_name(slot) for slot in ledger.slots)):
            app = status.applications.get(name)
            if app is None or app.status != ApplicationStatus.RUNNING:
                if app is not None and app.status == ApplicationStatus.DEPLOY_FAILED:
                    raise RunError(f"{name} does not come up: {app.message}")
                return f"{name} is {app.status if app else 'not there'}: {app.message if app else ''}"
        for slot, serving in ledger.slots.items():
            there = self._replicas(slot)
            if len(there) < expected(self.settings, is_canary=serving == ledger.canary and not wide):
                return f"{app_name(slot)}: {len(there)} replicas are there"
            for replica, is_running in there.items():
                state = said.get(replica)
                if state is not None and state.refused == serving.version:
                    raise ReleaseError(f"release {serving.version} was not taken: {state.reason}")
                if not is_running or state is None or state.version != serving.version:
                    return f"{app_name(slot)}: replica {replica} does not serve release {serving.version} yet"
        return ""

    def _replicas(self, slot: Slot) -> dict[str, bool]:
        """The replicas of a slot, and whether they take requests."""
        app = _get_global_client().get_serve_details()["applications"][app_name(slot)]
        replicas = app["deployments"][POLICY]["replicas"]
        return {replica["replica_id"]: replica["state"] == "RUNNING" for replica in replicas}

    def _note(self, event: str, release: Release, what: str) -> None:
        message = f"release {release.version} ({release.source}): {event.replace('_', ' ')}, {what}"
        self.book.events.record(event, message, version=release.version)


def serve_config(
    settings: ServiceSettings, ledger: Ledger, also: Sequence[Serving] = (), *, wide: bool = False
) -> dict[str, Any]:
    """The service as Serve's config.

    `also`: slots that run though nobody is sent there. `wide`: these and a canary have as many replicas as the primary.
    """
    values = settings.model_dump(mode="json")
    slots: dict[Slot, Serving] = {serving.slot: serving for serving in also} | ledger.slots
    policies = [
        {
            "name": app_name(slot),
            "import_path": "rayrlhf.serving.policy_app:build",
            "route_prefix": None,
            "args": {"settings": values, "slot": slot},
            "deployments": [
                {
                    "name": POLICY,
                    "user_config": {"version": serving.version},
                    **replicas(settings, is_canary=serving != ledger.primary and not wide),
                }
            ],
        }
        for slot, serving in sorted(slots.items())
    ]
    routes = {"primary": _primary(ledger).model_dump(), "canary": ledger.canary and ledger.canary.model_dump()}
    ingress = {
        "name": INGRESS,
        "import_path": "rayrlhf.serving.ingress:build",
        "route_prefix": "/",
        "args": {"settings": values},
        "deployments": [{"name": INGRESS, "user_config": routes}],
    }
    return {"applications": [*policies, ingress]}


def _primary(ledger: Ledger) -> Serving:
    if ledger.primary is None:
        raise ReleaseError("nothing is served here yet: `rayrlhf serve` starts it")
    return ledger.primary


def _canary(ledger: Ledger) -> Serving:
    if ledger.canary is None:
        raise ReleaseError("there is no canary")
    return ledger.canary
