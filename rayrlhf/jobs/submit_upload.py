"""What of a working directory goes to the cluster, and whether the dashboard will take it.

Ray's own walk decides, so what is counted here is what Ray packs. Knows nothing of configs and jobs.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rayrlhf.errors import ConfigError

EXCLUDES = (
    "/runs", ".env", "*.pyc", "*.egg-info", ".git", ".venv", "venv", "__pycache__", "node_modules", "wandb",
    ".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints",
)  # fmt: skip
"""Never uploaded, beside what `.gitignore` and `.rayignore` name. `.env` because it holds secrets."""
MIB = 2**20
ZIP_ENTRY_BYTES = 128
"""What an archive adds for each file, beside its name twice. Ray's archives are not compressed."""
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Upload:
    """The files of a working directory that Ray will pack, with their sizes in bytes."""

    root: Path
    sizes: dict[PurePosixPath, int]

    @classmethod
    def of(cls, root: Path) -> Upload:
        """Walk `root` as Ray will.

        Raises:
            ConfigError: it is no directory.

        """
        from ray._private.ray_constants import get_runtime_env_default_excludes
        from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

        if not root.is_dir():
            raise ConfigError(f"--working-dir {root}: no such directory")
        sizes: dict[PurePosixPath, int] = {}

        def count(path: Path) -> None:
            if path.is_file():
                sizes[PurePosixPath(path.relative_to(root).as_posix())] = path.stat().st_size

        logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)  # a line for each .gitignore
        excluded = _get_excludes(root, [*get_runtime_env_default_excludes(), *EXCLUDES])
        _dir_travel(root, [excluded], count, include_gitignore=True)
        return cls(root, sizes)

    @property
    def bytes(self) -> int:
        """Size of the archive."""
        return sum(size + ZIP_ENTRY_BYTES + 2 * len(str(path)) for path, size in self.sizes.items())

    def holds(self, path: Path) -> bool:
        """Whether a file, or anything of a folder, below `root` is uploaded."""
        inside = PurePosixPath(path.relative_to(self.root).as_posix())
        return any(file == inside or inside in file.parents for file in self.sizes)

    def require_fits(self, limit: int) -> None:
        """Refuse what is larger than the dashboard takes.

        Raises:
            ConfigError: names the largest paths and says what to do.

        """
        if self.bytes <= limit:
            return
        largest = "".join(f"\n  {size / MIB:8.1f} MiB  {path}" for path, size in self.largest())
        raise ConfigError(
            f"--working-dir {self.root}: {self.bytes / MIB:.1f} MiB would be uploaded, Ray's dashboard takes at most "
            f"{limit / MIB:.0f} MiB. The largest are:{largest}\n"
            "Name what the job does not need in .rayignore (or .gitignore), give a smaller --working-dir, or put "
            "models and data on storage that all nodes share and name them there"
        )

    def largest(self) -> list[tuple[str, int]]:
        """The largest paths, in bytes: files, and folders where no single entry is most of them."""
        children: defaultdict[PurePosixPath, set[PurePosixPath]] = defaultdict(set)
        totals: defaultdict[PurePosixPath, int] = defaultdict(int)
        for file, size in self.sizes.items():
            for child, parent in zip([file, *file.parents], file.parents, strict=False):
                children[parent].add(child)
                totals[child] += size
        shown: list[PurePosixPath] = []
        waiting = list(children[PurePosixPath()])
        while waiting:
            path = waiting.pop()
            if children[path] and max(totals[c] for c in children[path]) > totals[path] / 2:
                waiting += children[path]
            else:
                shown.append(path)
        shown.sort(key=lambda path: (-totals[path], str(path)))
        return [(f"{path}/" if children[path] else str(path), totals[path]) for path in shown[:SHOWN]]
