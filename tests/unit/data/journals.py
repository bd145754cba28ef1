"""Trajectories, fixed and drawn, and journals that hold them."""

from hypothesis import strategies as st

from rayrlhf.data.journal import Journal
from rayrlhf.data.segments import SegmentWriter
from rayrlhf.types import Completion, Message, Prompt, Reward, Rewards, Trajectory, VersionSpan


def trajectory(number):
    completion = Completion((5, 2), (-0.25, -1.5), "stop", (VersionSpan(0, 1, 3), VersionSpan(1, 2, 4)))
    prompt = Prompt("p1", (Message(role="user", content="Hi\n“x”"),), (1, 9), "42", {"a": 1})
    return Trajectory(f"000001-00000-{number:03d}", "000001-00000", number, prompt, completion)


def by_id(*trajectories):
    return {t.id: t for t in trajectories}


def append(directory, name, *trajectories, step=1):
    writer = SegmentWriter(directory, name)
    for written in trajectories:
        writer.append(step, written).result(10)
    writer.close()


def commit(directory, step, *trajectories):
    rewards = Rewards({t.id: Reward(t.sample_index / 3, {"x": 0.1}, "ok") for t in trajectories})
    Journal(directory).commit(step, trajectories, rewards, {t.id: f"text {t.sample_index}" for t in trajectories})
    return rewards


floats = st.floats(allow_nan=False)
tokens = st.lists(st.tuples(st.integers(0, 2**31 - 1), floats), max_size=6)
prompts = st.builds(
    Prompt,
    st.text(),
    st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": st.text()})).map(tuple),
    st.lists(st.integers(0, 2**31 - 1)).map(tuple),
    st.none() | st.text(),
    st.dictionaries(st.text(), st.none() | floats | st.text() | st.integers()),
)


@st.composite
def trajectories(draw):
    drawn = draw(tokens)
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(drawn) - 1)), max_size=2))) if len(drawn) > 1 else []
    ends = [*cuts, len(drawn)]
    spans = tuple(VersionSpan(s, e, draw(st.integers(-1, 99))) for s, e in zip([0, *cuts], ends, strict=True))
    reason = draw(st.sampled_from(["stop", "length"]))
    completion = Completion(tuple(t for t, _ in drawn), tuple(p for _, p in drawn), reason, spans)
    return Trajectory(draw(st.text()), draw(st.text()), draw(st.integers(0, 99)), draw(prompts), completion)


rewards = st.builds(Reward, st.none() | floats, st.dictionaries(st.text(), floats), st.sampled_from(["ok", "error"]))
