import pytest

from rayrlhf.config.jobs import SFTJob
from rayrlhf.config.load import validate_job
from rayrlhf.stages.supervised_task import optimizer_steps


def job(batch_rows, ranks, epochs=2):
    return validate_job(
        SFTJob,
        {
            "name": "x",
            "model": {"path": "x"},
            "data": {"demonstrations": "x"},
            "learner": {"ranks": ranks},
            "run": {"batch_rows": batch_rows, "epochs": epochs},
        },
    )


@pytest.mark.parametrize(
    ("rows", "ranks", "sizes"), [(16, 2, [8, 8]), (17, 1, [8, 8, 1]), (17, 2, [8, 9]), (19, 2, [8, 8, 3]), (3, 2, [3])]
)
def test_every_step_has_a_row_for_every_rank_and_every_epoch_every_row(rows, ranks, sizes):
    steps = optimizer_steps(list(range(rows)), job(8, ranks))
    assert [len(step) for step in steps] == sizes * 2
    half = len(steps) // 2
    assert sorted(i for step in steps[:half] for i in step) == list(range(rows))
