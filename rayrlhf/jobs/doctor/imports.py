"""Can the heavy packages be imported, and what does torch see? A process of its own tries it.

python -m rayrlhf.jobs.doctor.imports
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from rayrlhf.jobs.doctor.findings import Check, Finding
from rayrlhf.jobs.doctor.isolated import run_program

IMPORTED = ("torch", "torchvision", "transformers", "deepspeed", "vllm")
TIMEOUT_S = 120.0
IMPORTS = Check("versions", "imports")


@dataclass(frozen=True, slots=True)
class ImportFacts:
    """`errors` by package; `trouble` where the process told nothing. `cuda` is what torch was built for."""

    errors: Mapping[str, str] = field(default_factory=dict)
    cuda: str | None = None
    devices: int = 0
    trouble: str = ""


def gather_imports() -> ImportFacts:
    """Import everything in a process of its own."""
    outcome = run_program(__name__, timeout_s=TIMEOUT_S)
    return ImportFacts(**outcome.told) if outcome.told is not None else ImportFacts(trouble=outcome.trouble)


def judge_imports(facts: ImportFacts) -> list[Finding]:
    """Everything imports."""
    if facts.trouble:
        return [
            IMPORTS.red(f"importing {', '.join(IMPORTED)}: {facts.trouble}", "install from the project's lock file")
        ]
    found = []
    for package, error in facts.errors.items():
        remedy = "install from the project's lock file, which has builds that fit together"
        if "torchvision" in package + error:
            remedy = "pip uninstall torchvision torchaudio torchcodec: nothing here needs them"
        found.append(IMPORTS.red(f"{package} cannot be imported: {error}", remedy))
    return found or [IMPORTS.green("torch, transformers, deepspeed and vllm can be imported")]


def try_imports() -> ImportFacts:
    """In this process."""
    errors = {}
    for name in IMPORTED:
        try:
            if importlib.util.find_spec(name) is not None:  # what is missing, the versions say
                importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - a broken package may raise anything
            lines = str(error).splitlines() or [""]
            errors[name] = f"{type(error).__name__}: {lines[0]}"[:300]
    if "torch" in errors or importlib.util.find_spec("torch") is None:
        return ImportFacts(errors)
    import torch

    return ImportFacts(errors, torch.version.cuda, torch.cuda.device_count())


if __name__ == "__main__":
    from dataclasses import asdict

    print(json.dumps(asdict(try_imports())))
