import pytest

from rayrlhf.data.prompts import render_prompts
from rayrlhf.data.rows import PromptRow
from rayrlhf.data.template import end_of_turn_ids, render_conversation, render_prompt
from rayrlhf.errors import DataError
from rayrlhf.types import Message
from tests import tiny


def say(role, content):
    return Message(role=role, content=content)


def text(tokenizer, ids):
    return "".join(tokenizer.convert_ids_to_tokens(list(ids)))


@pytest.mark.parametrize("pad", ["<e>", None, "<p>"])
def test_content_and_end_of_turn_are_trained_and_nothing_else(pad):
    tokenizer = tiny.tokenizer(pad=pad)
    conversation = [say("user", "Hi"), say("assistant", "Yo"), say("user", "ok?"), say("assistant", "Sure.")]
    rendered = render_conversation(tokenizer, conversation)
    trained = [i for i, t in zip(rendered.token_ids, rendered.trained, strict=True) if t]
    assert text(tokenizer, trained) == "Yo<e>Sure.<e>"
    assert text(tokenizer, rendered.token_ids) == "<s>user:Hi<e><s>assistant:Yo<e><s>user:ok?<e><s>assistant:Sure.<e>"


def test_training_and_generation_see_the_same_prompt():
    tokenizer = tiny.tokenizer()
    messages = [say("user", "Hi there")]
    prompt = render_prompt(tokenizer, messages)
    whole = render_conversation(tokenizer, [*messages, say("assistant", "Yo")]).token_ids
    assert whole[: len(prompt)] == prompt


def test_an_eos_inside_the_prompt_does_not_move_the_mask():
    tokenizer = tiny.tokenizer()
    rendered = render_conversation(tokenizer, [say("user", "a<e>b"), say("assistant", "c")])
    assert rendered.response_tokens == 2
    assert rendered.trained[-2:] == (True, True)


def test_the_template_alone_adds_bos():
    tokenizer = tiny.tokenizer()
    assert list(render_prompt(tokenizer, [say("user", "x")])).count(1) == 2  # one a turn, written by the template


def test_a_template_without_an_end_of_turn_gets_one():
    tokenizer = tiny.tokenizer("{% for m in messages %}{{ m['content'] }}\n{% endfor %}")
    rendered = render_conversation(tokenizer, [say("user", "x"), say("assistant", "y")])
    assert text(tokenizer, rendered.token_ids) == "x\ny<e>"


def test_a_template_with_another_end_of_turn_renders_several_turns():
    tokenizer = tiny.tokenizer("{% for m in messages %}{{ m['content'] }}<p>{% endfor %}")
    turns = [say("user", "a"), say("assistant", "b"), say("user", "c"), say("assistant", "d")]
    rendered = render_conversation(tokenizer, turns)
    assert text(tokenizer, rendered.token_ids) == "a<p>b<p><e>c<p>d<p><e>"
    assert (
        text(tokenizer, [i for i, t in zip(rendered.token_ids, rendered.trained, strict=True) if t]) == "b<p><e>d<p><e>"
    )


def test_a_conversation_that_the_template_refuses_is_named():
    tokenizer = tiny.tokenizer("{{ raise_exception('no system turns') }}")
    with pytest.raises(DataError, match=r"ends with 'hello'.*no system turns"):
        render_prompt(tokenizer, [say("system", "hello")])


def test_a_template_that_rewrites_history_is_refused():
    tokenizer = tiny.tokenizer("{{ messages | length }}{% for m in messages %}{{ m['content'] }}<e>{% endfor %}")
    with pytest.raises(DataError, match="rewrites earlier turns"):
        render_conversation(tokenizer, [say("user", "x"), say("assistant", "y")])


def test_every_end_of_sequence_id_ends_an_answer():
    tokenizer = tiny.tokenizer()
    assert end_of_turn_ids(tokenizer, [7, 9]) == (2, 7, 9)
    assert end_of_turn_ids(tokenizer, 7) == (2, 7)
    assert end_of_turn_ids(tokenizer, None) == (2,)


def rows(*contents):
    return [PromptRow(str(i), (say("user", c),), None, {}) for i, c in enumerate(contents)]


def test_overlong_prompts_are_left_out_and_named():
    prompts = render_prompts(rows("short", "long" * 50, "ok"), tiny.tokenizer(), 40)
    assert [p.id for p in prompts.prompts] == ["0", "2"]
    assert prompts.overlong_ids == ("1",)
    with pytest.raises(DataError, match=r"longer than data\.max_prompt_tokens"):
        render_prompts(rows("long" * 50), tiny.tokenizer(), 40)


def test_each_epoch_uses_every_prompt_once_in_an_order_of_its_own():
    prompts = render_prompts(rows(*"abcdefgh"), tiny.tokenizer(), 40)
    drawn = [p.id for step in range(8) for p in prompts.batch(3, step, 2)]
    assert sorted(drawn[:8]) == sorted(drawn[8:]) == [str(i) for i in range(8)]
    assert drawn[:8] != drawn[8:]
    assert [p.id for p in prompts.batch(3, 5, 2)] == drawn[10:12]
