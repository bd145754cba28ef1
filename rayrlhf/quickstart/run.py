"""`rayrlhf quickstart`: demonstrations → SFT → comparisons → reward model → PPO → before and after.

    initial model ─SFT─▶ policy ─▶ two answers a prompt ─gold rule─▶ comparisons ─▶ reward model ─▶ PPO ─▶ trained
          │                                                                                                  │
          └─────────────── held-out prompts ─▶ answers of both ─gold rule─▶ win rate ◀───────────────────────┘

Every stage is the one that `rayrlhf sft`, `reward` and `rl` run, from the TOMLs in `examples/`. A stage whose result is
there already is not run again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rayrlhf.config.jobs import RewardJob, RLJob, SFTJob
from rayrlhf.config.load import load_job
from rayrlhf.data.rows import read_prompts
from rayrlhf.errors import InputError
from rayrlhf.quickstart.gold_rule import gold_score
from rayrlhf.quickstart.initial_model import write_initial_model
from rayrlhf.rewards.requests import RewardRequest
from rayrlhf.stages.evaluate import WinRate, win_rate
from rayrlhf.stages.generate import AnswerConfig, answer
from rayrlhf.stages.reward_model import run_reward
from rayrlhf.stages.rl import run_rl
from rayrlhf.stages.sft import run_sft

EXAMPLES = Path(__file__).parents[2] / "examples"
ANSWERS = AnswerConfig(samples=1, max_tokens=48, max_prompt_tokens=64, seed=1)
HELD_OUT_PAIRS = 30


class Quickstart:
    """The recipe's stages in order, below one directory."""

    def __init__(self, directory: Path, console: Console | None = None) -> None:
        if not (EXAMPLES / "sft.toml").is_file():
            raise InputError(
                f"{EXAMPLES}: the quickstart's configs and data are in the repository: run it from a clone"
            )
        self.directory = directory
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.started = time.monotonic()

    def run(self) -> WinRate:
        """Everything; returns the verdict on the held-out prompts."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._say("The labels in this run come from a rule (rayrlhf/quickstart/gold_rule.py), not from people.")
        initial = self._initial()
        policy = self._sft(initial)
        comparisons, held_out = self._compare(policy)
        reward_model = self._reward(policy, comparisons, held_out)
        trained = self._ppo(policy, reward_model)
        return self._evaluate(initial, policy, trained)

    def _initial(self) -> Path:
        self._say("1/6 initial model: SmolLM2-135M-Instruct")
        return write_initial_model(self.directory / "initial")

    def _sft(self, initial: Path) -> Path:
        folder = self.directory / "sft" / "model"
        if not folder.exists():
            self._say("2/6 supervised fine-tuning on the demonstrations")
            run_sft(load_job(SFTJob, EXAMPLES / "sft.toml", self._paths(initial, demonstrations="demonstrations")))
        return folder

    def _compare(self, policy: Path) -> tuple[Path, Path]:
        """Two answers to every prompt; the rule prefers one, as a person would. Ties are left out."""
        train, held_out = self.directory / "comparisons.jsonl", self.directory / "comparisons_held_out.jsonl"
        if not train.exists():
            self._say("3/6 sampling pairs of answers, and labelling them with the gold rule")
            prompts = read_prompts(str(EXAMPLES / "data" / "prompts.jsonl"))
            config = AnswerConfig(samples=2, max_tokens=48, max_prompt_tokens=64, seed=0)
            rows = [row for pair in answer(str(policy), prompts, config) if (row := _comparison(pair))]
            self._say(f"    {len(rows)} comparisons of {len(prompts)} prompts, the others were ties")
            _write_jsonl(held_out, rows[:HELD_OUT_PAIRS])
            _write_jsonl(train, rows[HELD_OUT_PAIRS:])
        return train, held_out

    def _reward(self, policy: Path, comparisons: Path, held_out: Path) -> Path:
        folder = self.directory / "reward" / "model"
        if not folder.exists():
            self._say("4/6 reward model from the comparisons")
            overrides = [*self._paths(policy), f"data.comparisons={comparisons}", f"data.held_out={held_out}"]
            run_reward(load_job(RewardJob, EXAMPLES / "reward.toml", overrides))
            self._say(f"    {self._reward_model_words()}")
        return folder

    def _ppo(self, policy: Path, reward_model: Path) -> Path:
        folder = self.directory / "ppo" / "model"
        if not folder.exists():
            self._say("5/6 PPO against the reward model, KL to the fine-tuned policy")
            overrides = [*self._paths(policy, prompts="prompts"), f"reward.model={reward_model}"]
            run_rl(load_job(RLJob, EXAMPLES / "ppo.toml", overrides))
        return folder

    def _evaluate(self, initial: Path, policy: Path, trained: Path) -> WinRate:
        self._say("6/6 before and after, on held-out prompts, by the gold rule")
        prompts = read_prompts(str(EXAMPLES / "data" / "held_out_prompts.jsonl"))
        first, tuned, last = (
            [group[0] for group in answer(str(model), prompts, ANSWERS)] for model in (initial, policy, trained)
        )
        against = {"initial": compare(last, first), "fine-tuned": compare(last, tuned)}
        found = {name: asdict(verdict) for name, verdict in against.items()}
        (self.directory / "evaluation.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        self.console.print(_side_by_side(first[:3], last[:3]))
        for name, verdict in against.items():
            self._say(
                f"The trained policy against the {name} one, {verdict.prompts} held-out prompts: {_words_of(verdict)}"
            )
        self._say(f"{self._reward_model_words()}; KL to the fine-tuned policy {self._last_kl():.1f} nats a response.")
        self._say(f"What happened: {trained.parent / 'report.html'}, and one in each stage's directory.")
        self._say(f"The policy is in {trained}; everything else is beside it. Your own comparisons: see the README.")
        return against["initial"]

    def _reward_model_words(self) -> str:
        metrics = json.loads((self.directory / "reward" / "result.json").read_text(encoding="utf-8"))
        low, high = metrics["held_out/accuracy_low"], metrics["held_out/accuracy_high"]
        return (
            f"The reward model orders {metrics['held_out/accuracy']:.0%} [{low:.0%}, {high:.0%}] of "
            f"{metrics['held_out/pairs']:.0f} held-out pairs as the rule does ('the longer wins': "
            f"{metrics['held_out/longer_wins']:.0%}, a bag of words: {metrics['held_out/bag_of_words_accuracy']:.0%})"
        )

    def _last_kl(self) -> float:
        rows = (self.directory / "ppo" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return float(json.loads(rows[-1])["kl/sequence_nats"])

    def _paths(self, model: Path, **data: str) -> list[str]:
        files = [f"data.{key}={EXAMPLES / 'data' / name}.jsonl" for key, name in data.items()]
        return [f"model.path={model}", f"run.directory={self.directory}", *files]

    def _say(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        self.console.print(f"[bold]{minutes:02d}:{seconds:02d}[/] {escape(text)}")


def compare(candidate: Sequence[RewardRequest], baseline: Sequence[RewardRequest]) -> WinRate:
    """Paired answers by the gold rule."""
    gaps = [_length(c) - _length(b) for c, b in zip(candidate, baseline, strict=True)]
    return win_rate([gold_score(c) for c in candidate], [gold_score(b) for b in baseline], gaps)


def _words_of(verdict: WinRate) -> str:
    return (
        f"wins {verdict.share:.0%} [{verdict.low:.0%}, {verdict.high:.0%}], {verdict.like_length_share:.0%} "
        f"[{verdict.like_length_low:.0%}, {verdict.like_length_high:.0%}] among pairs of like length; "
        f"mean gold score {verdict.mean_gain:+.2f} [{verdict.mean_gain_low:+.2f}, {verdict.mean_gain_high:+.2f}]"
    )


def _comparison(pair: Sequence[RewardRequest]) -> dict[str, object] | None:
    first, second = pair
    scores = gold_score(first), gold_score(second)
    if scores[0] == scores[1] or not first.response.strip() or not second.response.strip():
        return None
    chosen, rejected = (first, second) if scores[0] > scores[1] else (second, first)
    return {"messages": list(first.messages), "chosen": chosen.response, "rejected": rejected.response}


def _write_jsonl(path: Path, rows: Sequence[dict[str, object]]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    partial.rename(path)


def _side_by_side(before: Sequence[RewardRequest], after: Sequence[RewardRequest]) -> Table:
    table = Table(title="held-out prompts", show_lines=True, title_justify="left")
    for column in ("prompt", "initial policy", "trained policy"):
        table.add_column(column, overflow="fold", ratio=1)
    for b, a in zip(before, after, strict=True):
        cells = [b.messages[-1]["content"]]
        cells += [f"{r.response.strip()}\n({gold_score(r):+.2f})" for r in (b, a)]
        table.add_row(*(escape(cell) for cell in cells))
    return table


def _length(request: RewardRequest) -> int:
    return len(request.response.split())
