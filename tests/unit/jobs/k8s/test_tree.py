"""k8s/: every folder builds and has no mistake, and what is rendered is what render makes today."""

import shlex

import pytest
import yaml

from rayrlhf.cli import main
from rayrlhf.jobs.k8s.reading import build
from tests.unit.jobs.k8s.conftest import PROJECT

FOLDERS = sorted(file.parent for file in (PROJECT / "k8s").rglob("kustomization.yaml"))
RENDERED = [
    shlex.split(line)[1:]
    for line in (PROJECT / "k8s" / "render.sh").read_text().splitlines()
    if line.startswith("rayrlhf ")
]
OVERLAYS = {
    "cpu", "gcs", "gcs-fault-tolerance", "incremental-upgrade", "kueue", "multi-host", "raycronjob",
    "rdma", "s3", "volcano",
}  # fmt: skip


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_builds_and_passes_schemas_and_rules(folder, project, crds, kubectl, capsys):
    assert main(["k8s", "check", str(folder), "--crds", crds]) == 0, capsys.readouterr().out
    assert build(folder).count("kind: ") > 0


@pytest.mark.parametrize("command", RENDERED, ids=lambda command: command[-1])
def test_it_is_what_render_makes(command, project, tmp_path):
    *options, folder = command
    assert main([*options, str(tmp_path)]) == 0
    made = {file.name: file.read_text() for file in tmp_path.iterdir()}
    kept = {file.name: file.read_text() for file in (project / folder).iterdir()}
    assert made == kept, f"run k8s/render.sh: {folder} is old"


def test_all_bases_are_rendered_and_all_overlays_are_there():
    rendered = {command[-1] for command in RENDERED}
    bases = {str(folder.relative_to(PROJECT)) for folder in FOLDERS if folder.parent.name == "base"}
    assert bases <= rendered
    assert {folder.name for folder in FOLDERS if folder.parent.name == "overlays"} == OVERLAYS


def built(name, kind):
    documents = yaml.safe_load_all(build(PROJECT / "k8s" / "overlays" / name))
    return next(document for document in documents if document["kind"] == kind)


def test_overlays_do_what_they_are_for(kubectl):
    kueue = built("kueue", "RayJob")["spec"]
    assert (kueue["suspend"], kueue["shutdownAfterJobFinishes"], "deletionStrategy" in kueue) == (True, True, False)
    for group in kueue["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["minReplicas"] == group["maxReplicas"]
    assert built("multi-host", "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"][1]["numOfHosts"] == 2
    assert "nvidia.com/gpu" not in build(PROJECT / "k8s" / "overlays" / "cpu")
    for name, scheme in (("s3", "s3://"), ("gcs", "gs://")):
        job = built(name, "RayJob")["spec"]
        assert f"run.directory={scheme}" in job["entrypoint"]
        pods = [group["template"]["spec"] for group in job["rayClusterSpec"]["workerGroupSpecs"]]
        assert {pod["serviceAccountName"] for pod in pods} == {"rayrlhf-storage"}
    rdma = built("rdma", "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert ["IPC_LOCK" in str(group["template"]) for group in rdma] == [True, True, False]
    assert built("incremental-upgrade", "RayService")["spec"]["upgradeStrategy"]["clusterUpgradeOptions"]
    assert built("volcano", "RayJob")["metadata"]["labels"]["ray.io/scheduler-name"] == "volcano"
    assert built("gcs-fault-tolerance", "RayService")["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    assert built("raycronjob", "RayCronJob")["spec"]["jobTemplate"]["clusterSelector"] == {"ray.io/cluster": "cycle"}
