"""Adding files of comparisons and corrections to a store; doing it twice adds nothing. Caps do not apply."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from rayrlhf.data.rows import read_rows
from rayrlhf.feedback.import_rows import Entry, RowReader
from rayrlhf.feedback.records import Comparison
from rayrlhf.feedback.schema import answers, posts
from rayrlhf.feedback.service import FeedbackService
from rayrlhf.feedback.store import insert_answer
from rayrlhf.feedback.votes import VoteWriter

_ROWS_A_TRANSACTION = 200


@dataclass(frozen=True, slots=True)
class Imported:
    """How many rows were added, were there already, or are about answers that were forgotten and stay so."""

    new: int
    already_there: int
    forgotten: int


def import_feedback(service: FeedbackService, source: str, labeller: str = "import") -> Imported:
    """Add a file's rows to the store; every row is checked before the first is added.

    Raises:
        DataError: a row is wrong; it is named by file and line.

    """
    if Path(source).is_file() and Path(source).stat().st_size == 0:
        return Imported(0, 0, 0)  # an export that found nothing writes this
    entries = read_rows(source, RowReader(service.keys, labeller, service.store.clock()).entry)
    done = Counter[str]()
    for batch in _batches(entries):
        with service.store.database.write(batch[0].author.user) as connection:
            done.update([_add(connection, entry) for entry in batch])
    return Imported(done["new"], done["already there"], done["forgotten"])


def _batches(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Rows of one author, so many at a time that a commit of each does not dominate."""
    by_author: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_author[entry.author.user].append(entry)
    for mine in by_author.values():
        for start in range(0, len(mine), _ROWS_A_TRANSACTION):
            yield mine[start : start + _ROWS_A_TRANSACTION]


def _add(connection: sa.Connection, entry: Entry) -> str:
    key = {"user_id": entry.author.user, "idempotency_key": entry.post.idempotency_key}
    if connection.execute(sa.select(posts.c.record_id).filter_by(**key)).first():
        return "already there"
    ids = [answer.response_id for answer in entry.answers]
    if connection.execute(sa.select(answers).where(answers.c.response_id.in_(ids), answers.c.erased)).first():
        return "forgotten"
    for answer in entry.answers:
        insert_answer(connection, answer)
    writer, post = VoteWriter(connection, entry.author, caps=None), entry.post
    receipt = writer.comparison(post) if isinstance(post, Comparison) else writer.feedback(post)
    return "new" if receipt.is_new else "already there"
