"""KubeRay's schemas, where this machine has them, and kubectl."""

import os
from pathlib import Path
from shutil import which

import pytest

PROJECT = Path(__file__).parents[4]


@pytest.fixture(scope="session")
def crds():
    """The folder of `KUBERAY_CRDS`, or `../shared/kuberay` beside the project."""
    folder = Path(os.environ.get("KUBERAY_CRDS") or PROJECT.parent / "shared" / "kuberay")
    if not folder.is_dir():
        pytest.skip("KubeRay's schemas are not here: set KUBERAY_CRDS")
    return str(folder)


@pytest.fixture
def project(monkeypatch):
    """Commands run in the project's folder, and find no schemas by themselves."""
    monkeypatch.chdir(PROJECT)
    monkeypatch.delenv("KUBERAY_CRDS", raising=False)
    return PROJECT


@pytest.fixture
def kubectl():
    if which("kubectl") is None:
        pytest.skip("kubectl is not here: kustomizations cannot be built")
