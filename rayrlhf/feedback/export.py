"""What people said, as training data: JSONL that `rayrlhf reward` and `rayrlhf sft` read, and a `datasets` directory.

    comparisons.jsonl      {messages, chosen, rejected} for two answers of which one won, else {messages, responses,
                           ranks}; one row a labeller and set of answers
    demonstrations.jsonl   {messages, response}: corrections, and if asked for answers with a thumb up
    dataset/               the same two as Arrow: datasets.load_from_disk("…/dataset/comparisons")

Other columns say who, when, which policy, and what speaks against a row; `importing.py` reads them back.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rayrlhf.data.durable import replaced_folder, write_durably
from rayrlhf.errors import DataError
from rayrlhf.feedback.agreement import agreement_of, labels_of
from rayrlhf.feedback.reading import Snapshot, StoredComparison, StoredOpinion
from rayrlhf.feedback.records import Answer

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Filters:
    """Which records to export; what is not set lets all pass."""

    versions: frozenset[int] | None = None
    """All answers of a record must be of these policy versions."""
    labellers: frozenset[str] | None = None
    since: datetime | None = None
    """From this moment on."""
    until: datetime | None = None
    """Before this moment."""
    min_agreement: float | None = None
    """Comparisons of which others judged a pair too, and on average this share of them said the same."""

    def let_pass(self, user: str, at: datetime, answers: Sequence[Answer]) -> bool:
        """All but the agreement. What is no chat never passes."""
        return (
            all(answer.is_chat for answer in answers)
            and (self.labellers is None or user in self.labellers)
            and (self.since is None or at >= self.since)
            and (self.until is None or at < self.until)
            and (self.versions is None or all(answer.policy_version in self.versions for answer in answers))
        )


@dataclass(frozen=True, slots=True)
class Exported:
    """How many rows were written."""

    comparisons: int
    demonstrations: int


def export_feedback(
    snapshot: Snapshot, to: str, filters: Filters | None = None, *, thumbs_up: bool = False
) -> Exported:
    """Write both files and the `datasets` directory into a folder; what was there under these names is replaced."""
    folder = Path(to)
    comparisons = comparison_rows(snapshot, filters or Filters())
    demonstrations = demonstration_rows(snapshot, filters or Filters(), thumbs_up=thumbs_up)
    try:
        write_durably(folder / "comparisons.jsonl", _jsonl(comparisons))
        write_durably(folder / "demonstrations.jsonl", _jsonl(demonstrations))
        _write_dataset(folder / "dataset", comparisons, demonstrations)
    except OSError as error:
        raise DataError(f"{to}: cannot be written: {error.strerror or error}") from None
    return Exported(len(comparisons), len(demonstrations))


def comparison_rows(snapshot: Snapshot, filters: Filters) -> list[Row]:
    """Comparisons and rankings, one of each labeller and set of answers, ordered by time."""
    flags, labels = _flags(snapshot), labels_of(snapshot.comparisons)
    rows = []
    for comparison in snapshot.comparisons:
        answers = [snapshot.answers[response_id] for response_id in comparison.response_ids]
        if snapshot.erased & set(comparison.response_ids) or not filters.let_pass(
            comparison.user, comparison.at, answers
        ):
            continue
        agreement = agreement_of(comparison, labels)
        if filters.min_agreement is None or (agreement is not None and agreement >= filters.min_agreement):
            row = _comparison_row(comparison, answers)
            rows.append(row | {"agreement": agreement, "flags": [flags[answer.response_id] for answer in answers]})
    return rows


def demonstration_rows(snapshot: Snapshot, filters: Filters, *, thumbs_up: bool) -> list[Row]:
    """Corrections and, if asked for, answers with a thumb up, ordered by time."""
    flags = _flags(snapshot)
    return [
        _demonstration_row(opinion, snapshot.answers[opinion.response_id], flags[opinion.response_id])
        for opinion in _demonstrations(snapshot, thumbs_up)
        if filters.let_pass(opinion.user, opinion.at, [snapshot.answers[opinion.response_id]])
    ]


def _demonstrations(snapshot: Snapshot, thumbs_up: bool) -> Iterator[StoredOpinion]:
    for opinion in snapshot.opinions:
        is_liked = opinion.kind == "thumb" and opinion.value == 1 and snapshot.answers[opinion.response_id].text.strip()
        if opinion.response_id not in snapshot.erased and (opinion.kind == "correction" or (thumbs_up and is_liked)):
            yield opinion


def _comparison_row(comparison: StoredComparison, answers: Sequence[Answer]) -> Row:
    texts = [answer.text for answer in answers]
    is_tied = len(set(comparison.ranks)) < len(texts)
    if len(texts) == 2 and not is_tied:
        chosen = comparison.ranks.index(1)
        judged: Row = {"chosen": texts[chosen], "rejected": texts[1 - chosen]}
    else:
        judged = {"responses": texts}
    return {
        "messages": [turn.model_dump() for turn in answers[0].conversation],
        **judged,
        "ranks": list(comparison.ranks),
        "response_ids": list(comparison.response_ids),
        "id": comparison.id,
        "labeller": comparison.user,
        "time": comparison.at.isoformat(),
        "both_bad": comparison.both_bad,
        "tied": is_tied,
        "policy_versions": [answer.policy_version for answer in answers],
        "models": [answer.model for answer in answers],
        "sampling": [_json(answer.sampling) for answer in answers],
        "users": [answer.user for answer in answers],
        "answer_times": [answer.at.isoformat() for answer in answers],
    }


def _demonstration_row(opinion: StoredOpinion, answer: Answer, flags: list[str]) -> Row:
    return {
        "messages": [turn.model_dump() for turn in answer.conversation],
        "response": opinion.text if opinion.kind == "correction" else answer.text,
        "kind": opinion.kind,
        "answer": answer.text,
        "response_id": answer.response_id,
        "id": opinion.id,
        "labeller": opinion.user,
        "time": opinion.at.isoformat(),
        "policy_version": answer.policy_version,
        "model": answer.model,
        "sampling": _json(answer.sampling),
        "user": answer.user,
        "answer_time": answer.at.isoformat(),
        "flags": flags,
    }


def _flags(snapshot: Snapshot) -> dict[str, list[str]]:
    """Reasons by response id, one for each person who flagged it."""
    flags: dict[str, list[str]] = defaultdict(list)
    for opinion in snapshot.opinions:
        if opinion.kind == "flag" and opinion.reason is not None:
            flags[opinion.response_id].append(opinion.reason)
    return flags


def _jsonl(rows: Sequence[Row]) -> bytes:
    return "".join(_json(row) + "\n" for row in rows).encode()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _write_dataset(folder: Path, comparisons: Sequence[Row], demonstrations: Sequence[Row]) -> None:
    """Columns are declared, so that an empty table, or one without any ranking, has them all."""
    import datasets

    text, texts = datasets.Value("string"), [datasets.Value("string")]
    messages = [{"role": text, "content": text}]
    one = dict.fromkeys(("id", "labeller", "time"), text) | {"messages": messages}
    many = dict.fromkeys(("responses", "response_ids", "models", "sampling", "users", "answer_times"), texts)
    whole, flag = [datasets.Value("int64")], datasets.Value("bool")
    compared = one | many | {"chosen": text, "rejected": text, "ranks": whole, "policy_versions": whole}
    compared |= {"both_bad": flag, "tied": flag, "agreement": datasets.Value("float64"), "flags": [texts]}
    names = ("response", "kind", "answer", "response_id", "model", "sampling", "user", "answer_time")
    shown = one | dict.fromkeys(names, text) | {"policy_version": datasets.Value("int64"), "flags": texts}
    datasets.disable_progress_bars()
    with replaced_folder(folder, "state.json") as new:
        for name, rows, columns in (("comparisons", comparisons, compared), ("demonstrations", demonstrations, shown)):
            table = {column: [row.get(column) for row in rows] for column in columns}
            datasets.Dataset.from_dict(table, datasets.Features(columns)).save_to_disk(str(new / name), num_shards=1)
