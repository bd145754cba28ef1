import json
from datetime import timedelta

from rayrlhf.cycle.collect import count_new, is_held_out, write_data
from rayrlhf.cycle.config import CollectConfig
from rayrlhf.data.rows import read_demonstrations, read_rankings
from rayrlhf.feedback.service import Origin
from tests.unit.feedback.people import START, Clock, ask, correction, ranking, service_at


def conversation(text):
    return [{"role": "user", "content": text}]


def test_a_conversation_is_held_out_for_ever_or_never():
    share = [is_held_out(conversation(f"{n}?"), 0.2) for n in range(1000)]
    assert 0.15 < sum(share) / len(share) < 0.25
    assert share == [is_held_out(conversation(f"{n}?"), 0.2) for n in range(1000)]
    assert not any(is_held_out(conversation(f"{n}?"), 0.0) for n in range(100))


def test_what_people_said_becomes_what_the_stages_read(tmp_path):
    clock = Clock()
    with service_at(str(tmp_path / "feedback.db"), tmp_path, clock) as service:
        for n in range(20):
            pair = ask(service, f"{n}?", "good", "bad")
            service.comparison(ranking(pair, [1, 2]), "ada")
        service.comparison(ranking(ask(service, "tied?", "a", "b"), [1, 1]), "ada")
        service.feedback(correction(ask(service, "old?", "x")[0], "better"), "ada")
        clock.advance(days=1)
        service.feedback(correction(ask(service, "new?", "x")[0], "best"), "ada")
        completion = Origin(1, "tiny", {"endpoint": "completions"}, "ada")
        both = [service.record_answer(conversation("raw"), text, completion) for text in ("1", "2")]
        service.comparison(ranking(both, [1, 2]), "ada")
        since = START + timedelta(hours=1)
        snapshot = service.store.snapshot()
        found = write_data(snapshot, tmp_path / "data", CollectConfig(held_out_share=0.3), since)
        assert (count_new(snapshot, None), count_new(snapshot, since)) == (22, 1)
    assert found["comparisons"] + found["held_out"] == 20
    assert found["all_tied"] == 1
    train = read_rankings(str(tmp_path / "data" / "comparisons.jsonl"))
    held_out = read_rankings(str(tmp_path / "data" / "held_out.jsonl"))
    assert {r.messages[0]["content"] for r in train}.isdisjoint({r.messages[0]["content"] for r in held_out})
    assert [d.response for d in read_demonstrations(str(tmp_path / "data" / "demonstrations.jsonl"))] == ["best"]
    assert all(json.loads(line) for line in (tmp_path / "data" / "comparisons.jsonl").read_text().splitlines())
