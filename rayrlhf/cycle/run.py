"""`rayrlhf cycle`: one turn of the loop.

    enough comparisons? ─▶ SFT on corrections ─▶ reward model from the last one ─▶ RL ─▶ gates ─▶ canary ─▶ everybody
          └─ no: nothing to do                         └─ worse: the last one stays      └────────┴─ no: taken back

Each stage is done once and remembered in the turn's directory; a turn that was cut off goes on where it was. A turn
that is decided is over, and the next one begins when people have said enough since.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rayrlhf.cycle.collect import count_new, write_data
from rayrlhf.cycle.config import CycleJob
from rayrlhf.cycle.gates import canary_record, evidence, gates_of
from rayrlhf.cycle.turn import DECISION, Turn, next_turn, turns
from rayrlhf.data.durable import as_path
from rayrlhf.data.rows import read_demonstrations, read_prompts, read_rankings
from rayrlhf.errors import DataError
from rayrlhf.feedback.reading import Snapshot
from rayrlhf.feedback.store import open_store
from rayrlhf.runtime.cluster import disconnect
from rayrlhf.serving.releases import Ledger, ReleaseBook
from rayrlhf.serving.whereabouts import find_service, on_its_cluster
from rayrlhf.stages.policy_comparison import Contest, compare_policies, pair_accuracy
from rayrlhf.stages.reward_model import run_reward
from rayrlhf.stages.rl import run_rl
from rayrlhf.stages.run_directory import locked
from rayrlhf.stages.sft import run_sft

Say = Callable[[str], None]
LOOK_S = 5.0


@dataclass(frozen=True)
class Cycle:
    """Turns of one config."""

    job: CycleJob
    say: Say = print

    @property
    def root(self) -> Path:
        """Where the turns are."""
        return as_path(self.job.run.directory) / self.job.name

    def run(self) -> str:
        """Finish the turn that has begun, or begin one; returns its decision, or that there is nothing to do.

        Raises:
            ConfigError: another cycle is at it.

        """
        self.job.check()
        find_service(self.job.service.directory)
        with locked(self.root):
            turn = self._turn()
            if turn is None:
                return "nothing to do"
            decision = _TurnRun(self.job, turn, self.say).run()
            self.say(f"{turn.folder.name}: {decision['decision']}: {decision['why']}")
            return str(decision["decision"])

    def _turn(self) -> Turn | None:
        begun = turns(self.root)
        if begun and not begun[-1].is_decided:
            return begun[-1]
        since = _cutoff(begun[-1]) if begun else None
        wanted, deadline = self.job.collect.min_comparisons, time.monotonic() + self.job.collect.wait_s
        while (new := count_new(read_feedback(self.job), since)) < wanted:
            if time.monotonic() >= deadline:
                self.say(f"{new} new comparisons, collect.min_comparisons = {wanted}: nothing to do")
                return None
            time.sleep(LOOK_S)
        return next_turn(self.root, len(begun) + 1)


def read_feedback(job: CycleJob) -> Snapshot:
    """What people have said so far."""
    with open_store(find_service(job.service.directory).settings.store, create=False) as store:
        return store.snapshot()


@dataclass(frozen=True)
class _TurnRun:
    """One turn's stages, in order."""

    job: CycleJob
    turn: Turn
    say: Say

    def run(self) -> dict[str, Any]:
        """Everything that is not done yet; returns the decision."""
        collected = self.turn.once("collect", self._collect)
        policy = self.turn.once("sft", lambda: self._sft(collected))["model"]
        reward_model = self.turn.once("reward", lambda: self._reward(collected, policy))["model"]
        candidate = self.turn.once("rl", lambda: self._rl(policy, reward_model))["model"]
        gates = self.turn.once("gates", lambda: self._gates(candidate, collected["serving"], policy, reward_model))
        disconnect()
        if gates["failed"]:
            return self.turn.once(DECISION, lambda: {"decision": "rejected", "why": gates["failed"]})
        canary = self.turn.once("canary", lambda: self._canary(candidate))
        verdict = self.turn.once("verdict", lambda: self._judge(canary))
        return self.turn.once(DECISION, lambda: self._settle(canary["version"], verdict))

    def _collect(self) -> dict[str, Any]:
        begun, snapshot = datetime.now(UTC), read_feedback(self.job)
        serving = self._ledger().release(self._serving())
        found = write_data(snapshot, self.turn.folder / "data", self.job.collect, self._learned_until())
        self.say(f"{self.turn.folder.name}: {found}")
        if not found["comparisons"] or not found["held_out"]:
            raise DataError(f"comparisons to train on and held-out ones are needed, found {found}")
        return {**found, "cutoff": begun.isoformat(), "serving": serving.model, "serving_version": serving.version}

    def _sft(self, collected: dict[str, Any]) -> dict[str, Any]:
        wanted = self.job.collect.min_demonstrations
        if collected["demonstrations"] < wanted:
            why = f"{collected['demonstrations']} demonstrations, collect.min_demonstrations = {wanted}"
            return {"model": collected["serving"], "skipped": why}
        job = self.job.sft_job(self.turn.folder, collected["serving"], self._data("demonstrations"))
        result = run_sft(job)
        return {"model": str(result.directory.model), "metrics": dict(result.metrics)}

    def _reward(self, collected: dict[str, Any], policy: str) -> dict[str, Any]:
        """The new one is used unless it orders the held-out pairs worse than the last one does."""
        last = self._last_reward_model()
        job = self.job.reward_job(self.turn.folder, last or policy, (self._data("comparisons"), self._data("held_out")))
        new = str(run_reward(job).directory.model)
        pairs = read_rankings(str(self._data("held_out")))
        found: dict[str, Any] = {"accuracy": pair_accuracy(self.job.rl_job(self.turn.folder, policy, new), pairs)}
        if last is not None:
            found["last_accuracy"] = pair_accuracy(self.job.rl_job(self.turn.folder, policy, last), pairs)
            if found["accuracy"] < found["last_accuracy"] - self.job.gates.max_accuracy_drop:
                return {**found, "model": last, "rejected": new}
        return {**found, "model": new}

    def _rl(self, policy: str, reward_model: str) -> dict[str, Any]:
        directory = run_rl(self.job.rl_job(self.turn.folder, policy, reward_model))
        return {"model": str(directory.model)}

    def _gates(self, candidate: str, serving: str, policy: str, reward_model: str) -> dict[str, Any]:
        data, bounds = self.job.data, self.job.gates
        prompts = read_prompts(data.held_out_prompts)[: bounds.prompts]
        known = read_demonstrations(data.capability) if data.capability else []
        contest = Contest(candidate, serving, prompts, known)
        found = compare_policies(self.job.rl_job(self.turn.folder, policy, reward_model), contest)
        return evidence(found, gates_of(found, bounds))

    def _canary(self, candidate: str) -> dict[str, Any]:
        """Put the candidate out; one that was put out before the turn was cut off is there already."""
        against = self._serving()
        with on_its_cluster(find_service(self.job.service.directory)) as service:
            release = service.canary(Path(candidate), self.job.canary.share)
        return {"version": release.version, "against": against}

    def _judge(self, canary: dict[str, Any]) -> dict[str, Any]:
        """Wait for people's judgement; remembered before anything is done about it."""
        bounds = self.job.canary
        deadline = datetime.fromisoformat(canary["at"]).timestamp() + bounds.max_wait_s
        while True:
            record = canary_record(read_feedback(self.job), canary["version"], canary["against"])
            verdict = record.verdict(bounds)
            if verdict is not None or time.time() > deadline or self._state_of(canary["version"]) != "canary":
                break
            time.sleep(LOOK_S)
        why = (
            f"people preferred it in {record.share:.0%} [{record.low:.0%}, {record.high:.0%}] of "
            f"{record.comparisons} pairs, wanted {bounds.min_win_rate:.0%} of at least {bounds.min_comparisons}"
        )
        share = None if record.comparisons == 0 else record.share
        return {"promote": bool(verdict), "why": why, "record": asdict(record) | {"share": share}}

    def _settle(self, version: int, verdict: dict[str, Any]) -> dict[str, Any]:
        """Promote or take back; what somebody else has done meanwhile stands, and is what is written down."""
        why = verdict["why"]
        if self._state_of(version) == "canary":
            with on_its_cluster(find_service(self.job.service.directory)) as service:
                if verdict["promote"]:
                    service.promote()
                else:
                    service.roll_back(why)
        is_primary = self._state_of(version) == "primary"
        if is_primary != verdict["promote"]:
            why = f"by somebody else, not by this cycle ({why})"
        return {"decision": "promoted" if is_primary else "rolled back", "why": why, "record": verdict["record"]}

    def _state_of(self, version: int) -> str:
        """`primary`, `canary`, or empty: what serves now."""
        if self._serving() == version:
            return "primary"
        canary = self._ledger().canary
        return "canary" if canary is not None and canary.version == version else ""

    def _serving(self) -> int:
        primary = self._ledger().primary
        assert primary is not None, "a service that runs serves something"
        return primary.version

    def _ledger(self) -> Ledger:
        return ReleaseBook(Path(find_service(self.job.service.directory).settings.directory)).read()

    def _data(self, name: str) -> Path:
        return self.turn.folder / "data" / f"{name}.jsonl"

    def _before(self) -> list[Turn]:
        """Earlier turns, the last one first."""
        return [turn for turn in reversed(turns(self.turn.folder.parent)) if turn.folder < self.turn.folder]

    def _learned_until(self) -> datetime | None:
        """Until when corrections are in the policy that serves: fine-tuned on by a turn that was promoted."""
        for turn in self._before():
            decision, sft = turn.found(DECISION), turn.found("sft")
            if decision and sft and decision["decision"] == "promoted" and "skipped" not in sft:
                return _cutoff(turn)
        return None

    def _last_reward_model(self) -> str | None:
        for turn in self._before():
            if (found := turn.found("reward")) is not None:
                return str(found["model"])
        return None


def _cutoff(turn: Turn) -> datetime | None:
    found = turn.found("collect")
    return datetime.fromisoformat(found["cutoff"]) if found is not None else None
