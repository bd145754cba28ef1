"""The images, as far as they can be checked without building them."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "cluster").glob("Dockerfile.*"))
NEEDED_AT_RUN_TIME = {"ninja", "s3fs"}
"""Of the dev extra: DeepSpeed compiles with the first, runs are stored with the second."""


def by_name(path):
    return path.suffix[1:]


def steps(path):
    """(instruction, argument), with continued lines joined and comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def tool(name):
    found = shutil.which(name, path=os.pathsep.join([f"{sys.prefix}/bin", *os.get_exec_path()]))
    if found is None:
        pytest.skip(f"{name} is not installed: pip install -e '.[dev]'")
    return found


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_hadolint_finds_nothing(path):
    said = subprocess.run([tool("hadolint"), str(path)], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "")


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_hadolint_would_find_something(path, tmp_path):
    worse = tmp_path / "Dockerfile"
    worse.write_text(path.read_text().replace("python:3.11-slim-bookworm", "python:latest"))
    assert subprocess.run([tool("hadolint"), str(worse)], capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_it_runs_as_nobody_in_particular_and_asks_for_a_token(path):
    last_stage = steps(path)[max(i for i, (what, _) in enumerate(steps(path)) if what == "FROM") :]
    assert [argument for what, argument in last_stage if what == "USER"] == ["1000:1000"], "Kubernetes wants a number"
    (environment,) = [argument for what, argument in steps(path) if what == "ENV"]
    assert {"HOME=/home/ray", "RAY_AUTH_MODE=token"} <= set(environment.split())
    assert "RAY_AUTH_TOKEN" not in path.read_text()


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_it_installs_what_is_locked_and_nothing_that_only_development_needs(path):
    """The expressions are those of the file; together they take every line of the lock, once."""
    lock = (ROOT / f"requirements/{by_name(path)}.lock").read_text().splitlines()
    chosen = []
    for options, expression in re.findall(r"grep (-E |-Ev |)'([^']+)'", path.read_text()):
        chosen.append([line for line in lock if bool(re.search(expression, line)) != ("v" in options)])
    left_out = {line.split("==")[0] for line in lock if not any(line in some for some in chosen)}
    assert not set(chosen[0]) & set(chosen[1])
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    locked = {line.split("==")[0] for line in lock}
    assert left_out == (set(extra) - NEEDED_AT_RUN_TIME) & locked
    assert all("--no-deps" in argument for _, argument in steps(path) if "pip install" in argument)


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_everything_that_it_copies_is_in_the_context_and_no_more(path):
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [word for what, argument in steps(path) if what == "COPY" for word in argument.split()[:-1]]
    assert {*copied, "requirements/*.lock"} == set(let_in)
    assert all(list(ROOT.glob(pattern)) for pattern in let_in)


def test_both_have_the_same_user_and_the_same_python():
    def common(path):
        return [s for s in steps(path) if s[0] in ("USER", "WORKDIR", "CMD") or "useradd" in s[1] or s[0] == "FROM"]

    assert common(FILES[0]) == common(FILES[1])
