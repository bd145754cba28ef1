import pytest

from rayrlhf.errors import ConfigError
from rayrlhf.loop.scaling import FILE, ask_for_workers, read_counts


def test_requests_add_up_and_are_read_back(tmp_path):
    (tmp_path / "config.toml").touch()
    assert read_counts(tmp_path / FILE) == {}
    ask_for_workers(str(tmp_path), ["rollout=4"])
    assert ask_for_workers(str(tmp_path), ["reward=2", "rollout=3"]) == {"rollout": 3, "reward": 2}
    assert read_counts(tmp_path / FILE) == {"rollout": 3, "reward": 2}


@pytest.mark.parametrize(
    "text", ["rollout = ", "learner = 2", "rollout = 0", "rollout = true", 'rollout = "2"', "[rollout]"]
)
def test_a_file_that_is_no_request_is_named(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigError, match=rf"{FILE}: "):
        read_counts(tmp_path / FILE)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no run directory"):
        ask_for_workers(str(tmp_path), ["rollout=2"])
