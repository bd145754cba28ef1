"""Where a run goes on: the newest complete checkpoint of the same run, or the beginning.

Nothing is started or written here. What does not fit (a damaged file, another config, other prompts) is an InputError
that names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rayrlhf.config.base import Section
from rayrlhf.config.jobs import RLJob
from rayrlhf.config.load import load_job
from rayrlhf.data.durable import as_path
from rayrlhf.data.journal import Journal
from rayrlhf.data.prompts import PromptSet
from rayrlhf.data.stores import require_store
from rayrlhf.errors import CheckpointError, StorageError
from rayrlhf.loop.checkpoint import CheckpointStore, verify
from rayrlhf.loop.progress import Progress, config_changes
from rayrlhf.stages.run_directory import RunDirectory


def resume_point(job: RLJob, directory: RunDirectory, prompts: PromptSet, resume: str) -> tuple[Path | None, Progress]:
    """The checkpoint to load, if any, and where the run is then."""
    newest = CheckpointStore(directory.checkpoints, job.checkpoint.keep, {}).newest()
    journal = Journal(directory.trajectories)
    begun = bool(journal.committed_steps() or journal.open_steps() or newest)
    if resume == "never" and begun:
        raise CheckpointError(f"{directory.root} holds a run already: choose another `name`, or --resume auto")
    journal.check()
    folder = newest if resume in ("auto", "never") else resume_path(resume)
    if folder is None:
        if begun:
            require_same_config(load_job(RLJob, directory.config).model_dump(mode="json"), job, directory.root)
        return None, Progress(0, 0, job.algorithm.kl_coefficient)
    manifest = verify(folder)
    require_same_config(manifest.config, job, folder)
    if manifest.prompts_digest != prompts.digest:
        raise CheckpointError(f"{folder}: data.prompts has other rows now than when it was saved: bring them back")
    if newest is not None and newest != folder:
        raise CheckpointError(
            f"{directory.root} has gone on to {newest.name}: going back would mix two histories; "
            "choose another `name`, or remove the newer checkpoints"
        )
    return folder, manifest.progress


def resume_path(text: str) -> Path:
    """The checkpoint that `--resume` names."""
    try:
        path = as_path(text).absolute()
        require_store(path)
        return path
    except (ValueError, ImportError, StorageError) as error:
        raise CheckpointError(f"--resume {text}: {error}; expected auto, never, or a checkpoint's folder") from None


def require_unchanged(directory: RunDirectory, checkpoint: Path | None) -> None:
    """The run has not gone on in another process since `checkpoint` was found to be its newest."""
    newest = CheckpointStore(directory.checkpoints, 1, {}).newest()
    if newest != checkpoint:
        raise CheckpointError(f"{directory.root}: another process has gone on to {newest}; start again")


def require_same_config(saved: Any, job: Section, where: Path) -> None:
    """Print harmless differences from the config that a run was started with; refuse harmful ones.

    Raises:
        CheckpointError: names the keys that shape the results and have changed.

    """
    changes = config_changes(saved, job)
    if changes.harmful:
        raise CheckpointError(
            f"{where}: the config is not the one this run was started with: {'; '.join(changes.harmful)}. "
            "Undo that, or give the run another `name`"
        )
    for change in changes.harmless:
        print(f"resuming with a changed config: {change}")
