import subprocess
import sys

import pytest

from rayrlhf.cli import main


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["none.toml"], "none.toml: no such config file"),
        (["run.steps=3"], "a TOML is expected"),
        (["examples/grpo.toml", "rollout.wrokers=3"], "did you mean"),
        (["--address", "http://head:8265"], "host:port is expected"),
        (["examples/grpo.toml", "run.ray_address=head"], "host:port is expected"),
    ],
)
def test_wrong_input_is_exit_code_2_and_one_message(capsys, arguments, told):
    assert main(["doctor", *arguments]) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_help_loads_nothing_heavy():
    program = (
        "import sys; from rayrlhf.cli import main\n"
        "try: main(['doctor', '--help'])\n"
        "except SystemExit: print(sorted({'torch', 'ray', 'transformers', 'grpc', 'psutil'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
