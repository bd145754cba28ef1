"""Services that are declared and not started: Serve applications whose arguments say which model they serve.

For RayService, whose operator gives Serve the same config again whenever it likes: a model is numbered as a release
when an application is built, and built twice it keeps its number. So there is one truth, the declaration, and no
canary; what `rayrlhf release` changes would be undone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.serve import Application

from rayrlhf.serving import ingress as http_side
from rayrlhf.serving import policy_app
from rayrlhf.serving.models import model_folder
from rayrlhf.serving.releases import Ledger, ReleaseBook, Serving
from rayrlhf.serving.reward_service import reward_application
from rayrlhf.serving.reward_settings import RewardServiceSettings
from rayrlhf.serving.served_model import check_reward_model
from rayrlhf.serving.settings import ServiceSettings


def policy(args: dict[str, Any]) -> Application:
    """Replicas of the policy `args["model"]`. What Serve calls for `import_path`."""
    released(Path(args["settings"]["directory"]), args["model"])
    return policy_app.build({"settings": args["settings"], "slot": "a"})


def ingress(args: dict[str, Any]) -> Application:
    """The HTTP side, which sends everybody to them. What Serve calls for `import_path`."""
    settings = ServiceSettings.model_validate(args["settings"])
    ledger = released(Path(settings.directory), args["model"])
    assert ledger.primary is not None
    return http_side.application(settings, {"primary": ledger.primary.model_dump(), "canary": None})


def reward(args: dict[str, Any]) -> Application:
    """A reward model. What Serve calls for `import_path`."""
    settings = RewardServiceSettings.model_validate(args["settings"])
    return reward_application(args["model"], settings, check_reward_model(args["model"]))


def released(directory: Path, model: str) -> Ledger:
    """The ledger with this model for everybody in slot a; the same model as before keeps its number."""
    book = ReleaseBook(directory)
    with book.alone():
        release = book.register(model_folder(model))
        ledger = book.read()
        primary = Serving(slot="a", version=release.version)
        if ledger.primary != primary or ledger.canary is not None:
            ledger = ledger.model_copy(update={"primary": primary, "canary": None})
            book.write(ledger)
    return ledger
