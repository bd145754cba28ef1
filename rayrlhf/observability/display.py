"""What people see while a job runs: a line a step with a progress bar, and a table of samples every few steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from rayrlhf.role_types import Sample

PHASES = ("rollout", "score", "learn", "weight_sync", "commit")


class Display:
    """A tracker for the terminal."""

    def __init__(self, total_steps: int, sample_every_steps: int, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._total = total_steps
        self._sample_every = sample_every_steps

    def log(self, step: int, metrics: Mapping[str, float], samples: Sequence[Sample]) -> None:
        """Print the step."""
        self._console.print(self._line(step, metrics))
        if step == 1 or step == self._total or step % self._sample_every == 0:
            self._console.print(sample_table(f"samples of step {step}", samples))

    def _line(self, step: int, metrics: Mapping[str, float]) -> str:
        done = round(20 * step / self._total)
        phases = " ".join(f"{name} {metrics.get(f'time/{name}_s', 0.0):.1f}" for name in PHASES)
        return (
            f"[bold]{step:>4}/{self._total}[/] {'█' * done}{'░' * (20 - done)} "
            f"reward {metrics['reward/mean']:+.3f} ± {metrics['reward/std']:.2f} · "
            f"KL {metrics['kl/sequence_nats']:.2f} nats · "
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
        table.add_row(_escape(sample.prompt[:300]), _escape(sample.response[:600]) + cut, reward)
    return table


def _escape(text: str) -> str:
    """Model output is data: it must not be read as markup, nor move the cursor."""
    from rich.markup import escape

    return escape("".join(c if c.isprintable() or c == "\n" else "·" for c in text))
