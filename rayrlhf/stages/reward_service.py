"""The reward service of a run: found before anything is allocated, and the same model throughout."""

from __future__ import annotations

import json

from rayrlhf.config.sections import RewardConfig
from rayrlhf.data.durable import is_file, read_bytes, write_durably
from rayrlhf.data.journal import Journal
from rayrlhf.errors import CheckpointError
from rayrlhf.rewards.finding import find_service
from rayrlhf.rewards.remote import RemoteService
from rayrlhf.runtime.environment import reward_token
from rayrlhf.stages.run_directory import RunDirectory


def find_reward_service(config: RewardConfig, directory: RunDirectory) -> RemoteService | None:
    """The service at `reward.url`, if that is where rewards come from.

    Raises:
        ConfigError: it cannot be used.
        CheckpointError: the run has rewards of another model.

    """
    if config.url is None:
        return None
    service = find_service(config, reward_token())
    if is_file(directory.reward_service) and Journal(directory.trajectories).committed_steps():
        began = json.loads(read_bytes(directory.reward_service))
        if began["digest"] != service.served.digest:
            raise CheckpointError(
                f"{directory.root}: its rewards come from the model {began['model']} ({began['digest']}), and "
                f"reward.url = {config.url!r} has {service.served.model} ({service.served.digest}): serve the former, "
                "or give the run another `name`"
            )
    return service


def remember_reward_service(service: RemoteService | None, directory: RunDirectory) -> None:
    """Write down which model the run's rewards come from."""
    if service is not None:
        found = {"url": service.url, "model": service.served.model, "digest": service.served.digest}
        write_durably(directory.reward_service, json.dumps(found, indent=1).encode())
