import pytest

from rayrlhf.data.journal import Journal
from rayrlhf.report.histogram import reward_histogram
from rayrlhf.report.history import Damage
from rayrlhf.report.samples import LONGEST_TEXT, StepSamples, cut, read_samples
from rayrlhf.stages.run_directory import RunDirectory
from tests.unit.report.runs import answers

FIVE = {"a": 0.1, "b": 0.9, "c": 0.5, "d": -2.0, "e": 0.4}


def samples(root, *steps):
    directory = RunDirectory(root)
    for number, texts in enumerate(steps, start=1):
        Journal(directory.trajectories).commit(number, *answers(number, texts))
    damage = Damage()
    found = read_samples(directory, damage)
    assert damage.notes == []
    return found


def places(step):
    return {answer.place: answer.response for answer in step.answers}


def test_the_best_the_median_and_the_worst_answer_of_a_step_are_kept(tmp_path):
    (step,) = samples(tmp_path, FIVE)
    assert places(step) == {"best": "b", "median": "e", "worst": "d"}
    assert sorted(step.rewards) == sorted(FIVE.values())


@pytest.mark.parametrize(("steps", "shown"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (7, [1, 4, 7])])
def test_the_first_a_middle_and_the_last_step_are_shown_once(tmp_path, steps, shown):
    assert [step.step for step in samples(tmp_path, *[FIVE] * steps)] == shown


def test_answers_without_a_reward_are_counted_and_one_is_shown(tmp_path):
    (step,) = samples(tmp_path, {"a": None, "b": 1.0, "c": float("nan"), "d": None})
    assert places(step) == {"best": "b", "without a reward": "a"}
    assert step.unscored == 3
    assert step.answers[1].reward == "none (error)"


def test_an_answer_keeps_its_prompt_its_reward_and_how_it_ended(tmp_path):
    (step,) = samples(tmp_path, {"a": 0.5})
    (answer,) = step.answers
    assert (answer.turns[0].role, answer.turns[0].text) == ("user", "why?")
    assert (answer.reward, answer.components, answer.end) == ("0.5", [("a", "0.5")], "ended by the policy")
    assert (answer.reference, answer.versions) == ("reference of a", "0")


def test_a_run_without_a_journal_has_no_samples(tmp_path):
    assert samples(tmp_path) == []


def test_long_text_says_how_much_is_missing():
    assert cut("x" * LONGEST_TEXT) == "x" * LONGEST_TEXT
    assert cut("x" * (LONGEST_TEXT + 1234)).endswith("x … (1,234 characters more)")


def test_a_histogram_shows_every_answer_of_the_first_and_the_last_step():
    found = reward_histogram([StepSamples(n, [], [0.1 * n, 0.5, 0.9], 0) for n in (1, 2, 3)])
    assert found.groups == ["step 1", "step 3"]
    for group in (0, 1):
        titles = [bar.title for bar in found.bars if bar.group == group]
        assert sum(int(title.partition(": ")[2].partition(" of")[0]) for title in titles) == 3
    assert "step 1: 3 answers from 0.1 to 0.9, median 0.5" in found.words


def test_rewards_that_are_all_the_same_have_no_histogram():
    assert reward_histogram([StepSamples(1, [], [1.0, 1.0], 0)]) is None
    assert reward_histogram([]) is None
