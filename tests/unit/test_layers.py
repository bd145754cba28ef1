"""Imports point down the layers only."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "rayrlhf"
LAYERS = {
    "types": 0, "role_types": 0, "errors": 0, "config": 0,
    "algorithms": 1, "data": 1, "observability": 1, "access": 1,
    "engines": 2, "weight_sync": 2, "runtime": 2, "rewards": 2, "feedback": 2,
    "roles": 3, "loop": 4, "stages": 4, "report": 4,
    "serving": 5, "jobs": 5, "cycle": 5, "quickstart": 5, "cli": 5, "__init__": 0,
}  # fmt: skip
HEAVY = {"torch", "ray", "transformers", "vllm", "deepspeed"}


def imports_of(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_point_down_the_layers():
    wrong = []
    for file in PACKAGE.rglob("*.py"):
        for name in imports_of(file):
            if name.startswith("rayrlhf."):
                target = name.split(".")[1]
                if LAYERS[target] > LAYERS[part_of(file)]:
                    wrong.append(f"{file.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def test_config_imports_neither_torch_nor_ray():
    for file in (PACKAGE / "config").glob("*.py"):
        assert not {name.split(".")[0] for name in imports_of(file)} & HEAVY, file


def test_algorithms_import_neither_ray_nor_engines():
    for file in (PACKAGE / "algorithms").glob("*.py"):
        assert not {name.split(".")[0] for name in imports_of(file)} & (HEAVY - {"torch"}), file


def test_the_report_knows_neither_torch_nor_ray():
    for file in (PACKAGE / "report").glob("*.py"):
        assert not {name.split(".")[0] for name in imports_of(file)} & HEAVY, file


def test_feedback_and_access_know_neither_torch_nor_ray():
    for file in [*(PACKAGE / "feedback").rglob("*.py"), *(PACKAGE / "access").rglob("*.py")]:
        assert not {name.split(".")[0] for name in imports_of(file)} & HEAVY, file


def test_engines_do_not_know_ray():
    for part in ("engines", "rewards"):
        for file in (PACKAGE / part).glob("*.py"):
            assert "ray" not in {name.split(".")[0] for name in imports_of(file)}, file


def test_only_one_module_reads_the_environment():
    users = {str(f.relative_to(PACKAGE)) for f in PACKAGE.rglob("*.py") if "os.environ" in f.read_text()}
    assert users == {"runtime/environment.py"}


def test_ray_get_is_called_in_the_runtime_only():
    users = {part_of(f) for f in PACKAGE.rglob("*.py") if "ray.get(" in f.read_text()}
    assert users <= {"runtime"}
