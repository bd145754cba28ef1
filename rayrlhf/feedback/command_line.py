"""`rayrlhf feedback …`: options, and what each command calls. What is slow to import is imported by the command."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from rayrlhf.errors import ConfigError
from rayrlhf.runtime.environment import feedback_store

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
DEFAULT_STORE = "runs/feedback/feedback.db"
SUMMARY = "what people say about answers: export, import, statistics, forgetting, tokens"


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the commands to `rayrlhf feedback`."""
    # Not `argparse`'s own class, so that `--help` does not look for a job's keys.
    commands = parser.add_subparsers(dest="feedback_command", required=True, parser_class=argparse.ArgumentParser)
    _add_export(commands)
    text = "counts, agreement and win rates by policy version"
    _command(commands, "stats", text).set_defaults(run_command=_stats)
    text = "add exported files, or your own comparisons, to the store; twice adds nothing"
    load = _command(commands, "import", text)
    load.add_argument("files", nargs="+", metavar="FILE", help="comparisons or demonstrations: .jsonl or .parquet")
    load.add_argument("--labeller", default="import", help="whose they are where the file does not say it (import)")
    _add_keys(load)
    load.set_defaults(run_command=_import)
    text = "remove what a user wrote and was told, revoke their tokens, and cut their votes from them"
    forget = _command(commands, "forget", text)
    forget.add_argument("user", metavar="USER")
    _add_tokens(forget)
    forget.set_defaults(run_command=_forget)
    token = _command(commands, "token", "issue a bearer token, which is shown this once")
    token.add_argument("user", metavar="USER")
    token.add_argument("--role", choices=("user", "labeller", "admin"), default="user", help="(user)")
    token.add_argument("--days", type=float, default=30.0, help="how long it is valid (30)")
    _add_tokens(token)
    token.set_defaults(run_command=_token)
    rotate = _command(commands, "rotate-keys", "sign with a new key from now on; older ids stay valid")
    _add_keys(rotate)
    rotate.set_defaults(run_command=_rotate)


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.add_argument(
        "--store",
        metavar="PATH|URL",
        help=f"SQLite file or postgresql+psycopg://…; unset: $RAYRLHF_FEEDBACK_STORE, else {DEFAULT_STORE}",
    )
    return parser


def _add_export(commands: Commands) -> None:
    export = _command(commands, "export", "write comparisons and demonstrations as JSONL and as a `datasets` directory")
    export.add_argument("--to", required=True, metavar="FOLDER", help="where")
    export.add_argument("--versions", metavar="N,N", help="only answers of these policy versions")
    export.add_argument("--labellers", metavar="USER,USER", help="only what these said")
    export.add_argument("--since", metavar="TIME", help="from this ISO date or time on (UTC unless it says otherwise)")
    export.add_argument("--until", metavar="TIME", help="before this ISO date or time")
    export.add_argument(
        "--min-agreement", type=float, metavar="SHARE", help="only comparisons with which others agree so far (0 to 1)"
    )
    export.add_argument("--thumbs-up", action="store_true", help="answers with a thumb up are demonstrations too")
    export.set_defaults(run_command=_export)


def _add_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keys", type=Path, metavar="FILE", help="unset: signing-keys.json beside the store")


def _add_tokens(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokens", type=Path, metavar="FILE", help="unset: tokens.json beside the store")


def _store(arguments: argparse.Namespace) -> str:
    return str(arguments.store or feedback_store() or DEFAULT_STORE)


def _export(arguments: argparse.Namespace) -> int:
    from rayrlhf.feedback.export import Filters, export_feedback
    from rayrlhf.feedback.store import open_store

    if "://" in arguments.to:
        raise ConfigError(f"--to {arguments.to}: a path is expected, not a URL")
    if arguments.min_agreement is not None and not 0 <= arguments.min_agreement <= 1:
        raise ConfigError(f"--min-agreement {arguments.min_agreement}: a share from 0 to 1 is expected")
    filters = Filters(
        versions=_versions(arguments.versions),
        labellers=None if arguments.labellers is None else frozenset(arguments.labellers.split(",")),
        since=_time("--since", arguments.since),
        until=_time("--until", arguments.until),
        min_agreement=arguments.min_agreement,
    )
    with open_store(_store(arguments), create=False) as store:
        done = export_feedback(store.snapshot(), arguments.to, filters, thumbs_up=arguments.thumbs_up)
    print(f"{arguments.to}: {done.comparisons} comparisons, {done.demonstrations} demonstrations")
    return 0


def _stats(arguments: argparse.Namespace) -> int:
    from rayrlhf.feedback.store import open_store
    from rayrlhf.feedback.summary import summarise
    from rayrlhf.feedback.tables import show

    with open_store(_store(arguments), create=False) as store:
        show(summarise(store.snapshot()))
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from rayrlhf.feedback.importing import import_feedback
    from rayrlhf.feedback.service import open_service

    for file in arguments.files:
        if not Path(file).is_file():
            raise ConfigError(f"{file}: no such file")
    with open_service(_store(arguments), keys=arguments.keys) as service:
        for file in arguments.files:
            done = import_feedback(service, file, arguments.labeller)
            forgotten = f", {done.forgotten} about what was forgotten left out" if done.forgotten else ""
            print(f"{file}: {done.new} new, {done.already_there} already there{forgotten}")
    return 0


def _forget(arguments: argparse.Namespace) -> int:
    from rayrlhf.access.tokens import TokenFile
    from rayrlhf.feedback.database import folder_of
    from rayrlhf.feedback.store import open_store

    store = _store(arguments)
    # Tokens first: a request that comes in between must not write again what was just forgotten.
    revoked = TokenFile(arguments.tokens or folder_of(store) / "tokens.json").revoke(arguments.user)
    with open_store(store, create=False) as opened:
        done = opened.forget(arguments.user)
    print(
        f"{arguments.user}: {done.answers} answers erased, {done.opinions} votes and {done.comparisons} comparisons "
        f"cut from the user, {done.tasks} tasks removed, {revoked} tokens revoked; exported files are yours to remove"
    )
    return 0


def _token(arguments: argparse.Namespace) -> int:
    from rayrlhf.access.tokens import TokenFile
    from rayrlhf.feedback.database import folder_of

    if not 0 < arguments.days <= 3650:
        raise ConfigError(f"--days {arguments.days:g}: more than 0 and at most 3650 are expected")
    tokens = TokenFile(arguments.tokens or folder_of(_store(arguments)) / "tokens.json")
    print(tokens.issue(arguments.user, arguments.role, arguments.days))
    return 0


def _rotate(arguments: argparse.Namespace) -> int:
    from rayrlhf.feedback.database import folder_of
    from rayrlhf.feedback.signing import rotate_keys

    ring = rotate_keys(arguments.keys or folder_of(_store(arguments)) / "signing-keys.json")
    print(f"{ring.keys[0].id} signs from now on; {len(ring.keys) - 1} older verify. Restart the service.")
    return 0


def _versions(text: str | None) -> frozenset[int] | None:
    try:
        return None if text is None else frozenset(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--versions {text}: whole numbers with commas between them are expected") from None


def _time(option: str, text: str | None) -> datetime | None:
    try:
        moment = None if text is None else datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} {text}: an ISO date or time is expected, as in 2026-01-31") from None
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
