import io

from rich.console import Console

from rayrlhf.observability.display import Display
from rayrlhf.role_types import Sample

METRICS = {
    "reward/mean": 0.5, "reward/std": 1.0, "kl/sequence_nats": 1.25, "rollout/response_tokens_mean": 20.0,
    "rollout/truncated_share": 0.25, "rollout/tokens_per_s": 180.0, "time/learn_s": 12.0,
}  # fmt: skip


def shown(steps, metrics=METRICS, **options):
    console = Console(file=io.StringIO(), width=120, highlight=False)
    display = Display(6, **options, console=console)
    for step in steps:
        display.phase("rollout", step)
        display.log(step, metrics, [Sample("[red]why?", "because\x1b[2J", None, "length")])
    display.close()
    return console.file.getvalue()


def test_a_step_says_reward_kl_lengths_speed_and_phase_times():
    text = shown([2])
    for part in ("2/6", "reward +0.500 ± 1.00", "KL 1.25 nats", "20 tokens, 25% cut", "180 tok/s", "learn 12.0"):
        assert part in text


def test_what_was_not_measured_is_not_shown_as_zero():
    text = shown([2], {name: value for name, value in METRICS.items() if not name.startswith(("reward/", "kl/"))})
    assert "reward failed · 20 tokens" in text
    assert "KL" not in text


def test_samples_are_shown_at_the_first_the_last_and_every_few_steps():
    text = shown(range(1, 7), sample_every_steps=4)
    assert [f"samples of step {step}" in text for step in range(1, 7)] == [True, False, False, True, False, True]


def test_model_output_is_never_markup_nor_control_codes():
    text = shown([1])
    assert "[red]why?" in text
    assert "\x1b[2J" not in text
    assert "failed" in text


def test_a_supervised_step_says_loss_and_speed():
    console = Console(file=io.StringIO(), width=120, highlight=False)
    row = {
        "step": 3, "sft/loss_nats": 2.5, "training/gradient_norm": 1.0, "training/learning_rate": 1e-5,
        "training/tokens_per_s": 99.0,
    }  # fmt: skip
    Display(6, console=console).log_supervised(row)
    assert "3/6" in console.file.getvalue()
    assert "loss 2.500 nats" in console.file.getvalue()
