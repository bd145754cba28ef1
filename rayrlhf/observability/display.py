"""What people see while a job runs: the phase under way, a line a step, and a table of samples every few steps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rayrlhf.role_types import Sample

PHASES = ("rollout", "score", "learn", "weight_sync", "commit")


class Display:
    """The terminal's view of a run of `total_steps`; what is not a terminal gets the lines and tables alone."""

    def __init__(self, total_steps: int, sample_every_steps: int = 1, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._total = total_steps
        self._sample_every = sample_every_steps
        self._status = self._console.status("")
        self._started = time.monotonic()

    def phase(self, name: str, step: int) -> None:
        """Show what is under way."""
        if self._console.is_terminal:
            self._status.update(f"step {step}/{self._total}: {name.replace('_', ' ')}")
            self._status.start()

    def log(self, step: int, metrics: Mapping[str, float], samples: Sequence[Sample]) -> None:
        """Print the step."""
        self._console.print(f"{self._progress(step)} {_rl_line(metrics)}")
        if samples and (step == 1 or step == self._total or step % self._sample_every == 0):
            self._console.print(sample_table(f"samples of step {step}", samples))

    def log_supervised(self, metrics: Mapping[str, float]) -> None:
        """Print an optimizer step of SFT or reward modelling."""
        loss = next(value for name, value in metrics.items() if name.endswith("/loss_nats"))
        self._console.print(
            f"{self._progress(int(metrics['step']))} loss {loss:.3f} nats · "
            f"gradient norm {metrics['training/gradient_norm']:.2f} · "
            f"rate {metrics['training/learning_rate']:.1e} · "
            f"{metrics['training/tokens_per_s']:.0f} tok/s"
        )

    def say(self, message: str) -> None:
        """Print what happened to the run."""
        self._console.print(printable(message))

    def close(self) -> None:
        """Take the status line away."""
        self._status.stop()

    def _progress(self, step: int) -> str:
        done = round(20 * step / self._total)
        minutes, seconds = divmod(round(time.monotonic() - self._started), 60)
        return f"[bold]{step:>4}/{self._total}[/] {'█' * done}{'░' * (20 - done)} {minutes}:{seconds:02d}"


def _rl_line(metrics: Mapping[str, float]) -> str:
    phases = " ".join(f"{name} {metrics.get(f'time/{name}_s', 0.0):.1f}" for name in PHASES)
    kl_nats = metrics.get("kl/sequence_nats")
    kl = "" if kl_nats is None else f"KL {kl_nats:.2f} nats · "
    reward = f"{metrics['reward/mean']:+.3f} ± {metrics['reward/std']:.2f}" if "reward/mean" in metrics else "failed"
    return (
        f"reward {reward} · {kl}"
        f"{metrics['rollout/response_tokens_mean']:.0f} tokens, "
        f"{metrics['rollout/truncated_share']:.0%} cut · "
        f"{metrics['rollout/tokens_per_s']:.0f} tok/s · seconds: {phases}"
    )


def sample_table(title: str, samples: Sequence[Sample]) -> Table:
    """Prompts and answers side by side, with their rewards."""
    table = Table(title=title, show_lines=True, title_justify="left")
    table.add_column("prompt", ratio=2, overflow="fold")
    table.add_column("answer", ratio=4, overflow="fold")
    table.add_column("reward", justify="right")
    for sample in samples:
        reward = "failed" if sample.reward is None else f"{sample.reward:+.2f}"
        cut = " …" if sample.finish_reason == "length" else ""
        table.add_row(printable(sample.prompt[:300]), printable(sample.response[:600]) + cut, reward)
    return table


def printable(text: str) -> str:
    """Model output is data: it must not be read as markup, nor move the cursor."""
    return escape("".join(c if c.isprintable() or c == "\n" else "·" for c in text))
