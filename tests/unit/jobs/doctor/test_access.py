import socket

import pytest

from rayrlhf.errors import ConfigError
from rayrlhf.jobs.doctor.access import judge_access, require_address, somebody_listens
from rayrlhf.jobs.doctor.findings import Level
from rayrlhf.runtime.security import Access
from tests.ports import free_port
from tests.unit.jobs.doctor.findings import level_of, reds


def judge(access, **options):
    return judge_access(access, "head:6379", **{"listens": True, **options})


@pytest.mark.parametrize("access", [Access.TOKEN_MISSING, Access.TOKEN_REFUSED, Access.UNREACHABLE, Access.OPEN])
def test_a_cluster_that_must_not_or_cannot_be_joined_is_red(access):
    assert len(reds(judge(access))) == 1


def test_an_open_cluster_may_be_allowed():
    found = judge(Access.OPEN, allow_insecure=True)
    assert (reds(found), level_of(found, "token")) == ([], Level.YELLOW)


def test_the_dashboard_s_port_is_told_from_no_port():
    assert "not the dashboard's" in reds(judge(Access.UNREACHABLE))[0]
    assert "nobody answers" in reds(judge(Access.UNREACHABLE, listens=False))[0]


def test_who_listens_is_known():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert somebody_listens(f"127.0.0.1:{server.getsockname()[1]}")
    assert not somebody_listens(f"127.0.0.1:{free_port()}")


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "http://head:8265", "ray://head:10001", "head:99999"])
def test_what_is_no_address_is_wrong_input(address):
    with pytest.raises(ConfigError, match="host:port is expected"):
        require_address(address)
