"""What Serve is told, and whom the canary gets; no cluster."""

import pytest
from ray.serve.schema import ServeDeploySchema

from rayrlhf.config.load import settings_of
from rayrlhf.errors import ConfigError
from rayrlhf.serving.policies import ServedPolicies
from rayrlhf.serving.releases import Ledger, Serving
from rayrlhf.serving.service import serve_config
from rayrlhf.serving.settings import ServiceSettings

PRIMARY, CANARY = Serving(slot="a", version=3), Serving(slot="b", version=4, share=0.25)


def config(ledger, settings=None, **more):
    found = serve_config(settings or ServiceSettings(replicas=3, canary_replicas=1), ledger, **more)
    ServeDeploySchema.model_validate(found)
    apps = {app["name"]: app for app in found["applications"]}
    return {name: app["deployments"][0] for name, app in apps.items()}


def test_the_ingress_is_told_whom_to_send_where_and_each_slot_what_to_serve():
    found = config(Ledger(primary=PRIMARY, canary=CANARY))
    assert set(found) == {"policy-a", "policy-b", "ingress"}
    assert found["policy-a"]["user_config"] == {"version": 3}
    assert found["policy-b"]["user_config"] == {"version": 4}
    assert found["ingress"]["user_config"] == {"primary": PRIMARY.model_dump(), "canary": CANARY.model_dump()}


def test_a_slot_that_nobody_is_sent_to_runs_beside_the_others():
    found = config(Ledger(primary=PRIMARY), also=[CANARY])
    assert "policy-b" in found
    assert found["ingress"]["user_config"]["canary"] is None


def test_a_canary_is_small_until_everybody_is_to_get_it():
    both = Ledger(primary=PRIMARY, canary=CANARY)
    assert [config(both)[f"policy-{slot}"]["num_replicas"] for slot in "ab"] == [3, 1]
    assert [config(both, wide=True)[f"policy-{slot}"]["num_replicas"] for slot in "ab"] == [3, 3]


def test_replicas_that_scale_have_a_range_and_a_canary_a_range_of_one_number():
    settings = ServiceSettings(replicas=2, max_replicas=5, canary_replicas=1)
    found = config(Ledger(primary=PRIMARY, canary=CANARY), settings)
    ranges = [found[f"policy-{slot}"]["autoscaling_config"] for slot in "ab"]
    assert [(r["min_replicas"], r["max_replicas"]) for r in ranges] == [(2, 5), (1, 1)]


def test_only_what_changed_differs_so_that_replicas_are_not_restarted():
    one, two = (
        serve_config(ServiceSettings(), Ledger(primary=PRIMARY.model_copy(update={"version": version})))
        for version in (3, 4)
    )
    for app in (*one["applications"], *two["applications"]):
        app["deployments"][0].pop("user_config")
    assert one == two


def test_the_canary_gets_its_share_of_the_users_and_always_the_same_ones():
    policies = ServedPolicies(10.0)
    policies.route(PRIMARY, CANARY)
    users = [f"user {n}" for n in range(2000)]
    first = [policies.slot_of(user) for user in users]
    assert first == [policies.slot_of(user) for user in users]
    assert 0.22 < first.count("b") / len(first) < 0.28
    policies.route(PRIMARY, CANARY.model_copy(update={"version": 5}))
    assert first != [policies.slot_of(user) for user in users], "another canary is for other users"
    policies.route(PRIMARY, None)
    assert {policies.slot_of(user) for user in users} == {"a"}
    assert policies.slots == ["a"]


@pytest.mark.parametrize("wrong", ["max_replicas=1", "replicas=0", "dtype=float64", "prot=80"])
def test_wrong_settings_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=wrong.split("=", maxsplit=1)[0]):
        settings_of(ServiceSettings, ["replicas=2", wrong])


def test_paths_are_absolute_because_replicas_are_elsewhere_and_urls_stay():
    assert ServiceSettings().store.startswith("/")
    assert ServiceSettings(store="postgresql+psycopg://host/db").store == "postgresql+psycopg://host/db"
