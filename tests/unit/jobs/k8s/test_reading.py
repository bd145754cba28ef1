"""What is read as a manifest, a set, a patch; what is refused."""

import io

import pytest
import yaml

from rayrlhf.cli import main
from rayrlhf.jobs.k8s.reading import read_sets
from rayrlhf.jobs.k8s.render import as_yaml, render
from rayrlhf.jobs.k8s.settings import KubernetesSettings

PATCH = {
    "apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "ppo", "namespace": "rayrlhf"},
    "spec": {"backoffLimit": 1},
}  # fmt: skip
NO_MANIFEST = [("a: [", "not YAML"), ("- 1", "apiVersion and kind is expected"), ("x: 1", "apiVersion and kind")]


@pytest.fixture
def base(project, tmp_path):
    assert main(["k8s", "render", "examples/ppo.toml", "--to", str(tmp_path / "base")]) == 0
    return tmp_path


def overlay(base, patch, **more):
    folder = base / "overlay"
    folder.mkdir()
    (folder / "patch.yaml").write_text(yaml.safe_dump(patch))
    kustomization = {"resources": ["../base"], "patches": [{"path": "patch.yaml", **more}]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return folder


def test_a_stream_of_several_documents_is_one_set(project, crds, monkeypatch, capsys):
    manifests = render("examples/ppo.toml", [], KubernetesSettings())
    monkeypatch.setattr("sys.stdin", io.StringIO(as_yaml(manifests)))
    assert main(["k8s", "check", "-", "--crds", crds]) == 0, capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(as_yaml(manifests[1:2])))
    assert main(["k8s", "check", "-", "--crds", crds]) == 2
    said = capsys.readouterr().out
    assert "no NetworkPolicy here selects these pods" in said
    assert "there is no ConfigMap ppo here" in said


def test_what_a_patch_lacks_is_no_mistake_and_what_it_misspells_is(base, crds, kubectl, capsys):
    folder = overlay(base, PATCH)
    assert main(["k8s", "check", str(folder), "--crds", crds]) == 0, capsys.readouterr().out
    assert main(["k8s", "check", str(folder / "patch.yaml"), "--crds", crds]) == 0
    (folder / "patch.yaml").write_text(yaml.safe_dump({**PATCH, "spec": {"backofLimit": 1}}))
    assert main(["k8s", "check", str(folder / "patch.yaml"), "--crds", crds]) == 2
    assert f"{folder}/patch.yaml: RayJob ppo: spec.backofLimit: unknown key; did you mean backoffLimit?" in (
        capsys.readouterr().out
    )


def test_what_a_patch_makes_of_its_base_is_checked(base, crds, kubectl, capsys):
    operations = [{"op": "remove", "path": "/spec/activeDeadlineSeconds"}]
    folder = overlay(base, operations, target={"kind": "RayJob"})
    assert main(["k8s", "check", str(folder), "--crds", crds]) == 2
    assert f"{folder} (built): RayJob ppo: spec.activeDeadlineSeconds: is missing" in capsys.readouterr().out


def test_a_mistake_in_a_file_is_not_said_again_of_what_is_built_from_it(base, crds, kubectl, capsys):
    file = base / "base" / "rayjob.yaml"
    file.write_text(file.read_text().replace("mode: token", "mode: tokens"))
    assert main(["k8s", "check", str(base), "--crds", crds]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "authOptions.mode" in line]) == 1
    assert lines[-1] == "3 manifests and 3 built by kustomize, 1 mistake"


def test_a_kustomization_that_does_not_build_is_said(base, crds, kubectl, capsys):
    folder = overlay(base, [{"op": "remove", "path": "/spec/none"}], target={"kind": "RayJob"})
    assert main(["k8s", "check", str(folder), "--crds", crds]) == 2
    assert f"{folder}: kubectl kustomize: " in capsys.readouterr().err


def test_without_kubectl_files_are_checked_and_it_is_said(base, crds, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["k8s", "check", str(base), "--crds", crds]) == 0
    assert "kubectl is not here, so kustomizations were not built" in capsys.readouterr().out


def test_a_job_that_a_config_map_carries_is_checked_too(project, crds, tmp_path, capsys):
    manifests = render("examples/cycle.toml", [], KubernetesSettings())
    text = as_yaml(manifests).replace('"activeDeadlineSeconds": 172800,\n', "")
    (tmp_path / "cycle.yaml").write_text(text)
    assert main(["k8s", "check", str(tmp_path), "--crds", crds]) == 2
    assert 'data["turn.json"].spec.activeDeadlineSeconds: is missing' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [", "not YAML"), ("- 1", "apiVersion and kind is expected"), ("x: 1", "apiVersion and kind")],
)
def test_what_is_no_manifest_is_refused(text, words, project, tmp_path, capsys):
    file = tmp_path / "x.yaml"
    file.write_text(text)
    assert main(["k8s", "check", str(file)]) == 2
    assert words in capsys.readouterr().err


def test_a_path_or_schemas_that_are_not_there_are_refused(project, tmp_path, capsys):
    assert main(["k8s", "check", str(tmp_path / "none")]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert main(["k8s", "check", "k8s/settings.toml", "--crds", str(tmp_path)]) == 2
    assert "KubeRay's custom resource definitions" in capsys.readouterr().err
    assert list(read_sets([str(tmp_path)])) == []
