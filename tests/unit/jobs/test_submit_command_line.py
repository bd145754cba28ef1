import subprocess
import sys

import pytest

from rayrlhf.cli import main


@pytest.mark.parametrize("words", [["submit"], ["jobs"], ["jobs", "stop"]])
def test_help_loads_neither_torch_nor_ray(words):
    program = (
        "import sys; from rayrlhf.cli import main\n"
        "try: main([*sys.argv[1:], '--help'])\n"
        "except SystemExit: print(sorted({'torch', 'ray', 'transformers', 'vllm', 'deepspeed'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("cpus", ["-1", "many", "nan"])
def test_a_number_of_cpus_is_expected(cpus, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["submit", "sft.toml", "--driver-cpus", cpus])
    assert ended.value.code == 2
    assert f"argument --driver-cpus: invalid number of CPUs value: '{cpus}'" in capsys.readouterr().err


def test_what_is_wrong_here_is_said_before_the_cluster_is_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["submit", "none.toml", "--address", "http://127.0.0.1:1"]) == 2
    assert capsys.readouterr().err == "rayrlhf submit: none.toml: no such config file\n"
