"""`rayrlhf serve` and `rayrlhf release …`: options, and what each command calls. Heavy imports are the commands'."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rayrlhf.config.load import settings_of
from rayrlhf.errors import ConfigError, ReleaseError
from rayrlhf.runtime.bundles import RoleBundle
from rayrlhf.runtime.environment import require_safe_vllm
from rayrlhf.serving.reward_settings import RewardServiceSettings
from rayrlhf.serving.settings import ServiceSettings

SERVE = "serve a policy with OpenAI's API, feedback and a page for people; or a reward model"
RELEASE = "change what a running service serves: publish, canary, promote, roll back"
DIRECTORY = "runs/service"


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Options of `rayrlhf serve`."""
    parser.add_argument("model", metavar="MODEL|RUN", help="a model's directory or hub id, or a run's directory")
    parser.add_argument("--role", choices=("policy", "reward"), default="policy", help="what MODEL is (policy)")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="see below")
    parser.add_argument(
        "--keep", action="store_true", help="policy: if the service's directory has releases, go on with what served"
    )
    parser.add_argument("--address", help="Ray cluster to serve on; unset: a new one on this machine")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"{_keys('policy', ServiceSettings)}\n\n{_keys('reward', RewardServiceSettings)}"
    parser.set_defaults(run_command=_serve)


def _keys(role: str, settings: type[BaseModel]) -> str:
    lines = (f"  {name} ({field.default}): {field.description}" for name, field in settings.model_fields.items())
    return f"keys of --role {role}, with their defaults:\n" + "\n".join(lines)


def add_release(parser: argparse.ArgumentParser) -> None:
    """The commands of `rayrlhf release`."""
    commands = parser.add_subparsers(dest="release_command", required=True, parser_class=argparse.ArgumentParser)
    publish = _command(commands, "publish", "give a model to everybody; no request is lost")
    publish.add_argument("model", metavar="MODEL|RUN")
    publish.set_defaults(change=lambda service, a: service.publish(_folder(a.model)))
    canary = _command(commands, "canary", "give a model to a share of the users")
    canary.add_argument("model", metavar="MODEL|RUN")
    canary.add_argument("--share", type=float, default=0.1, help="of the users, 0 to 1 (0.1)")
    canary.set_defaults(change=lambda service, a: service.canary(_folder(a.model), _share(a.share)))
    _command(commands, "promote", "give the canary to everybody").set_defaults(change=lambda s, _: s.promote())
    back = _command(commands, "rollback", "take the canary away")
    back.add_argument("--why", default="asked for", help="is written down")
    back.set_defaults(change=lambda service, a: service.roll_back(a.why))
    listing = _command(commands, "list", "the releases, and what serves")
    listing.set_defaults(run_command=_list)


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--service", default=DIRECTORY, metavar="DIRECTORY", help=f"the service's ({DIRECTORY})")
    parser.set_defaults(run_command=_release)
    return parser


def _serve(arguments: argparse.Namespace) -> int:
    if arguments.role == "reward":
        return _serve_reward(arguments)
    settings = settings_of(ServiceSettings, arguments.settings)
    require_safe_vllm()
    folder = (_last_served(settings) if arguments.keep else None) or _folder(arguments.model)
    from rayrlhf.runtime.cluster import address, check_feasible, connect, metrics_urls
    from rayrlhf.serving.foreground import end, end_requested, require_free
    from rayrlhf.serving.names import INGRESS, app_name
    from rayrlhf.serving.service import Service
    from rayrlhf.serving.whereabouts import Whereabouts

    require_free(settings.host, settings.port)
    connect(arguments.address, metrics_port=settings.metrics_port)
    check_feasible([_replicas(settings)])
    asked = end_requested()
    Whereabouts(settings=settings, ray_address=address()).write()
    try:
        Service(settings, asked).start(folder)
        print(f"metrics: {' '.join(metrics_urls())}")
        print(f"http://{settings.host}:{settings.port}/ answers; {_access(settings)}", flush=True)
        asked.wait()
    finally:
        end([INGRESS, app_name("a"), app_name("b")], is_shared=arguments.address is not None)
    return 0


def _replicas(settings: ServiceSettings) -> RoleBundle:
    gpus = settings.gpus * settings.tensor_parallel
    return RoleBundle("policy", settings.replicas, settings.cpus, gpus, labels=settings.node_labels)


def _last_served(settings: ServiceSettings) -> Path | None:
    """What served everybody when the service ended: its source, or the service's own copy if that is gone."""
    from rayrlhf.serving.releases import ReleaseBook, describe_model

    ledger = ReleaseBook(Path(settings.directory)).read()
    if ledger.primary is None:
        return None
    release = ledger.release(ledger.primary.version)
    try:
        is_unchanged = describe_model(Path(release.source)) == release.files
    except ReleaseError:
        is_unchanged = False
    return Path(release.source if is_unchanged else release.model)


def _serve_reward(arguments: argparse.Namespace) -> int:
    settings = settings_of(RewardServiceSettings, arguments.settings)
    from rayrlhf.serving.reward_server import serve_reward

    serve_reward(arguments.model, settings, arguments.address)
    return 0


def _access(settings: ServiceSettings) -> str:
    """How to get in: the first time a link for the one who started it, like a notebook server's."""
    from rayrlhf.access.tokens import TokenFile
    from rayrlhf.feedback.database import folder_of

    path = Path(settings.tokens) if settings.tokens else folder_of(settings.store) / "tokens.json"
    if path.exists():
        return "a token is needed: rayrlhf feedback token NAME"
    token = TokenFile(path).issue("admin", "admin", days=30)
    return f"open http://{settings.host}:{settings.port}/#token={token} (valid for 30 days, shown this once)"


def _release(arguments: argparse.Namespace) -> int:
    from rayrlhf.serving.whereabouts import find_service, on_its_cluster

    with on_its_cluster(find_service(arguments.service)) as service:
        release = arguments.change(service, arguments)
    print(f"release {release.version}: {release.source}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from rayrlhf.serving.releases import ReleaseBook

    ledger = ReleaseBook(Path(arguments.service)).read()
    if not ledger.releases:
        print(f"{arguments.service}: nothing was released here yet")
    serves = {serving.version: serving for serving in (ledger.primary, ledger.canary) if serving is not None}
    for release in ledger.releases:
        serving = serves.get(release.version)
        what = "" if serving is None else f"  serves {serving.share:.0%} of the users"
        print(f"{release.version:4d}  {release.created_at:%Y-%m-%d %H:%M}  {release.source}{what}")
    return 0


def _folder(where: str) -> Path:
    from rayrlhf.serving.models import model_folder

    return model_folder(where)


def _share(share: float) -> float:
    if not 0 < share < 1:
        raise ConfigError(f"--share {share:g}: more than 0 and less than 1 is expected")
    return share
