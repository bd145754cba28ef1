import pytest

from rayrlhf.jobs.doctor.findings import Level
from rayrlhf.jobs.doctor.gpus import Gpu, GpuFacts, gather_gpus, judge_gpus
from rayrlhf.jobs.doctor.imports import ImportFacts
from tests.unit.jobs.doctor.findings import level_of, reds

H100 = Gpu("NVIDIA H100 80GB HBM3", "550.54", 81559, 4, 0)
TWO = GpuFacts((H100, H100), "12.4", ray=2.0)
TORCH = ImportFacts(cuda="12.4", devices=2)

NVIDIA_SMI = """#!/bin/sh
case "$1" in
--query-gpu=*) echo "NVIDIA H100 80GB HBM3, 550.54, 81559, 4, 0"; echo "NVIDIA L4, 550.54, 23034, 9000, [N/A]";;
*) echo "| NVIDIA-SMI 550.54    Driver Version: 550.54    CUDA Version: 12.4     |";;
esac
"""


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(NVIDIA_SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return program


def test_the_driver_s_list_is_read(nvidia_smi):
    facts = gather_gpus(2.0)
    assert facts.gpus == (H100, Gpu("NVIDIA L4", "550.54", 23034, 9000, None))
    assert (facts.cuda, facts.ray, facts.trouble) == ("12.4", 2.0, "")


def test_a_driver_that_fails_is_red_with_its_own_words(nvidia_smi):
    nvidia_smi.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed: no communication with the driver'\nexit 9\n")
    (told,) = reds(judge_gpus(gather_gpus(), TORCH))
    assert told.startswith("nvidia-smi: NVIDIA-SMI has failed: no communication")


def test_gpus_that_are_free_and_usable_are_green():
    assert {f.level for f in judge_gpus(TWO, TORCH)} == {Level.GREEN}


def test_a_machine_without_gpus_is_green_and_a_node_that_ray_gave_some_is_red():
    assert {f.level for f in judge_gpus(GpuFacts(), ImportFacts())} == {Level.GREEN}
    assert reds(judge_gpus(GpuFacts(ray=2.0), ImportFacts()))[0].startswith("Ray counts 2, the driver 0")


@pytest.mark.parametrize(
    ("facts", "torch", "told"),
    [
        (TWO, ImportFacts(), "torch is built for CPUs"),
        (TWO, ImportFacts(cuda="12.4", devices=0), "of which torch can use 0"),
        (TWO, ImportFacts(cuda="13.0", devices=2), "torch is built for 13.0"),
        (GpuFacts((Gpu("H100", "550", 80000, 0, 3),), "12.4"), ImportFacts(cuda="12.4", devices=1), "3 uncorrected"),
    ],
)
def test_gpus_that_cannot_be_used_are_red(facts, torch, told):
    assert any(told in red for red in reds(judge_gpus(facts, torch)))


def test_a_driver_a_little_older_than_torch_and_a_busy_gpu_are_yellow():
    assert level_of(judge_gpus(TWO, ImportFacts(cuda="12.8", devices=2)), "driver") is Level.YELLOW
    busy = GpuFacts((Gpu("H100", "550", 80000, 60000, 0),), "12.4")
    assert level_of(judge_gpus(busy, ImportFacts(cuda="12.4", devices=1)), "free memory") is Level.YELLOW
