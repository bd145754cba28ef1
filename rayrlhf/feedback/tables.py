"""A summary as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from rayrlhf.feedback.agreement import Agreement
from rayrlhf.feedback.summary import Share, Summary, VersionRecord


def show(summary: Summary, console: Console | None = None) -> None:
    """Print what there is, how far people agree, and how the policy versions fare."""
    console = console or Console(highlight=False)
    counts = Table(title="what counts", title_justify="left", show_header=False)
    for name, number in asdict(summary.counts).items():
        counts.add_row(name.replace("_", " "), str(number))
    console.print(counts)
    console.print(_agreement_table(summary.agreement))
    console.print(
        _version_table(
            "policy versions: wins against other versions, thumbs up, 95 % Wilson intervals", summary.versions
        )
    )
    if len({record.day for record in summary.days}) > 1:
        console.print(_version_table("by day (UTC)", summary.days))


def _agreement_table(agreement: Agreement) -> Table:
    table = Table(title="agreement of labellers", title_justify="left", show_header=False)
    table.add_row("pairs of answers that two or more judged", str(agreement.pairs_judged_twice))
    table.add_row("agree, ties counted", _percent(agreement.share))
    table.add_row("agree, where neither is a tie", _percent(agreement.share_without_ties))
    alpha = agreement.krippendorff_alpha
    table.add_row("Krippendorff's alpha (nominal)", "–" if alpha is None else f"{alpha:.3f}")
    return table


def _version_table(title: str, records: Sequence[VersionRecord]) -> Table:
    """Each cell says of how many; narrow enough for 80 columns."""
    table = Table(title=title, title_justify="left")
    with_days = any(record.day is not None for record in records)
    for name in (*(["day"] if with_days else []), "version"):
        table.add_column(name, no_wrap=True)
    for name in ("wins", "thumbs up", "rating"):
        table.add_column(name, justify="right", no_wrap=True)
    for record in records:
        day = [str(record.day)] if with_days else []
        rating = "–" if record.mean_rating is None else f"{record.mean_rating:.2f} of {record.ratings}"
        table.add_row(*day, str(record.policy_version), _share(record.wins), _share(record.thumbs_up), rating)
    return table


def _share(share: Share) -> str:
    if share.share is None:
        return "–"
    return f"{share.share:.0%} [{100 * share.low:.0f}, {100 * share.high:.0f}] of {share.trials}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
