"""`rayrlhf k8s …`: options, and what each command calls. Heavy imports are the commands'."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rayrlhf.jobs.k8s.settings import KubernetesSettings

SUMMARY = "manifests for Kubernetes with KubeRay: write them from a config, check them"
KINDS = ("rl", "sft", "reward", "cycle", "policy-service", "reward-service")


def add_commands(parser: argparse.ArgumentParser) -> None:
    """The commands of `rayrlhf k8s`."""
    commands = parser.add_subparsers(dest="k8s_command", required=True, parser_class=argparse.ArgumentParser)
    _add_render(commands)
    text = "check manifests against KubeRay's schemas and the rules that no schema shows"
    check = commands.add_parser("check", help=text, description=text)
    check.add_argument("paths", nargs="+", metavar="PATH", help="YAML files, or folders with them; - reads a stream")
    check.add_argument("--crds", metavar="DIR", help="folder with KubeRay's CRDs; unset: KUBERAY_CRDS")
    check.set_defaults(run_command=_check)
    text = "in a CronJob's pod: start one turn of a cycle and wait for its end"
    turn = commands.add_parser("turn", help=text, description=text)
    turn.add_argument("file", metavar="FILE", help="the turn's RayJob, as JSON")
    turn.set_defaults(run_command=_turn)


def _add_render(commands: Any) -> None:
    text = "write the manifests that run a config"
    render = commands.add_parser("render", help=text, description=text)
    render.formatter_class = argparse.RawDescriptionHelpFormatter
    render.epilog = "keys of the --settings file, with their defaults:\n" + "\n".join(_keys(KubernetesSettings(), ""))
    render.add_argument("config", nargs="?", metavar="CONFIG", help="the TOML file of a job or a cycle")
    render.add_argument("overrides", nargs="*", metavar="section.key=value", help="keys to change")
    render.add_argument("--kind", choices=KINDS, help="unset: the job that the file describes")
    render.add_argument("--volume", action="store_true", help="instead: the volume (and namespace) that runs share")
    render.add_argument("--image", help="container image of all pods")
    render.add_argument("--settings", metavar="FILE", help="TOML file about the Kubernetes cluster, see below")
    render.add_argument("--set", action="append", default=[], metavar="key=value", help="one of those keys")
    render.add_argument("--to", metavar="DIR", help="a file each and a kustomization.yaml; unset: standard output")
    render.set_defaults(run_command=_render)


def _keys(section: BaseModel, prefix: str) -> list[str]:
    """The keys of a section with its own defaults, which may differ from its fields'."""
    lines: list[str] = []
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            lines += _keys(value, f"{prefix}{name}.")
        else:
            lines.append(f"  {prefix}{name} ({_shown(value)}): {info.description}")
    return lines


def _shown(value: object) -> str:
    return "unset" if value is None else str(value)


def _render(arguments: argparse.Namespace) -> int:
    from rayrlhf.errors import ConfigError
    from rayrlhf.jobs.k8s.render import as_yaml, render, render_volume, write_folder
    from rayrlhf.jobs.k8s.settings import load_settings

    settings = load_settings(arguments.settings, arguments.set, arguments.image)
    if arguments.volume:
        manifests = render_volume(settings)
    elif arguments.config is None:
        raise ConfigError("CONFIG is missing: a job's TOML file, or --volume")
    else:
        manifests = render(arguments.config, arguments.overrides, settings, arguments.kind)
    if arguments.to is None:
        print(as_yaml(manifests), end="")
        return 0
    for path in write_folder(manifests, Path(arguments.to)):
        print(path)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from rayrlhf.jobs.k8s.check import check_paths

    return check_paths(arguments.paths, arguments.crds)


def _turn(arguments: argparse.Namespace) -> int:
    from rayrlhf.jobs.k8s.turn import take_turn

    take_turn(arguments.file)
    return 0
