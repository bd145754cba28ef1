from pathlib import Path

import pytest

from rayrlhf.errors import ConfigError
from rayrlhf.jobs.submit_upload import EXCLUDES, MIB, Upload


def write(root: Path, **sizes: int) -> Path:
    for name, size in sizes.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    return root


def test_what_is_counted_is_what_ray_packs(tmp_path):
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    root = write(tmp_path / "work", job_toml=10, data__a_jsonl=2000, keep__b_bin=300, drop__c_bin=400, runs__d=500)
    (root / ".gitignore").write_text("drop/\n")
    (root / "keep" / ".rayignore").write_text("*.tmp\n")
    (root / "keep" / "e.tmp").write_text("x")
    (root / ".git").mkdir()
    (root / ".git" / "HEAD").write_text("x")
    (root / ".env").write_text("TOKEN=x")
    upload = Upload.of(root)
    assert sorted(map(str, upload.sizes)) == [
        ".gitignore", "data/a.jsonl", "job.toml", "keep/.rayignore", "keep/b.bin"
    ]  # fmt: skip
    package = tmp_path / "package.zip"
    excludes = [*get_runtime_env_default_excludes(), *EXCLUDES]
    create_package(str(root), package, include_gitignore=True, excludes=excludes)
    assert 0 <= upload.bytes - package.stat().st_size < 100 * len(upload.sizes)


def test_runs_are_left_out_at_the_top_only(tmp_path):
    upload = Upload.of(write(tmp_path, runs__a=1, package__runs__b=1))
    assert list(map(str, upload.sizes)) == ["package/runs/b"]


def test_what_is_too_large_is_refused_with_its_five_largest_paths(tmp_path):
    root = write(
        tmp_path, model__weights_bin=3 * MIB, model__config_json=10, b_bin=2 * MIB, c_bin=MIB, d_bin=9, e_bin=8,
        **{f"images__{i}_png": MIB // 4 for i in range(10)},
    )  # fmt: skip
    upload = Upload.of(root)
    upload.require_fits(9 * MIB)
    with pytest.raises(
        ConfigError, match=r"8\.5 MiB would be uploaded, Ray's dashboard takes at most 8 MiB"
    ) as refused:
        upload.require_fits(8 * MIB)
    named = [line.split()[-1] for line in str(refused.value).splitlines() if line.startswith("  ")]
    assert named == ["model/weights.bin", "images/", "b.bin", "c.bin", "model/config.json"]
    assert ".rayignore" in str(refused.value)


def test_a_folder_is_held_if_anything_in_it_is(tmp_path):
    upload = Upload.of(write(tmp_path, model__config_json=1, runs__old__config_json=1))
    assert upload.holds(tmp_path / "model")
    assert upload.holds(tmp_path / "model/config.json")
    assert not upload.holds(tmp_path / "runs/old")
    assert not upload.holds(tmp_path / "mode")


def test_no_directory_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"--working-dir .*none: no such directory"):
        Upload.of(tmp_path / "none")
