import json
from datetime import timedelta

import datasets
import pytest

from rayrlhf.data.rows import read_demonstrations, read_rankings
from rayrlhf.errors import DataError
from rayrlhf.feedback.export import Filters, comparison_rows, demonstration_rows, export_feedback
from rayrlhf.feedback.importing import import_feedback
from rayrlhf.feedback.service import Origin
from rayrlhf.feedback.signing import rotate_keys
from tests.unit.feedback.people import START, ask, correction, flag, ranking, service_at, thumb


def fill(service, clock):
    """A pair, a tied pair, rankings with ties, two labellers, two versions, a flag, corrections, thumbs."""
    a, b = ask(service, "Why?", "Because.", "Since.", version=1)
    service.comparison(ranking([b, a], [2, 1]), "ada")
    clock.advance(seconds=1)
    service.comparison(ranking([a, b], [1, 1], both_bad=True), "bob")
    clock.advance(days=1)
    four = ask(service, "How?\n<b>'quoted'</b> 🏔", "1", "2", "", "4", version=2)
    service.comparison(ranking([four[3], four[0], four[2], four[1]], [1, 2, 2, 4]), "ada")
    clock.advance(seconds=1)
    service.comparison(ranking(four, [2, 1, 2, 2]), "bob")
    service.feedback(flag(a, "harmful", "a note"), "bob")
    service.feedback(correction(a, "Corrected."), "ada")
    clock.advance(seconds=1)
    service.feedback(thumb(four[0]), "ada")
    service.feedback(thumb(four[1], "down"), "ada")
    return a, b, four


def export(service, folder, filters=None, thumbs_up=True):
    export_feedback(service.store.snapshot(), str(folder), filters, thumbs_up=thumbs_up)
    return [json.loads(line) for line in (folder / "comparisons.jsonl").read_text().splitlines()]


def votes(service):
    """What counts, without the ids that each store gives."""
    snapshot = service.store.snapshot()
    compared = sorted((c.user, c.response_ids, c.ranks, c.both_bad, c.at) for c in snapshot.comparisons)
    kept = sorted((o.user, o.response_id, o.kind, o.value or 0, o.text or "", o.at) for o in snapshot.opinions)
    return compared, kept, snapshot.answers


def test_what_is_exported_gives_the_pairs_that_people_ordered(service, clock, tmp_path):
    fill(service, clock)
    rows = export(service, tmp_path)
    rankings = read_rankings(str(tmp_path / "comparisons.jsonl"))
    ordered = [{(r.responses[winner], r.responses[loser]) for winner, loser in r.pairs} for r in rankings]
    assert ordered == [
        {("Because.", "Since.")},
        set(),
        {("4", "1"), ("4", ""), ("4", "2"), ("1", "2"), ("", "2")},
        {("2", "1"), ("2", ""), ("2", "4")},
    ]
    assert [set(row) & {"chosen", "responses"} for row in rows] == [{"chosen"}, *[{"responses"}] * 3]


def test_demonstrations_are_corrections_and_if_asked_for_liked_answers(service, clock, tmp_path):
    fill(service, clock)
    export(service, tmp_path, thumbs_up=False)
    assert [d.response for d in read_demonstrations(str(tmp_path / "demonstrations.jsonl"))] == ["Corrected."]
    export(service, tmp_path, thumbs_up=True)
    found = read_demonstrations(str(tmp_path / "demonstrations.jsonl"))
    assert [(d.messages[-1]["content"][:4], d.response) for d in found] == [("Why?", "Corrected."), ("How?", "1")]


def test_ties_flags_and_agreement_are_columns(service, clock, tmp_path):
    a, b, _ = fill(service, clock)
    first, second, third, _ = export(service, tmp_path)
    assert (first["response_ids"], first["ranks"], first["flags"]) == ([b, a], [2, 1], [[], ["harmful"]])
    assert (first["tied"], second["tied"], second["both_bad"]) == (False, True, True)
    assert (first["agreement"], first["policy_versions"]) == (0.0, [1, 1])
    # Of the six pairs of the ranking, both say that "1" and "" are equal; nothing else is said twice alike.
    assert third["agreement"] == pytest.approx(1 / 6)


def test_the_datasets_directory_has_the_same_rows(service, clock, tmp_path):
    fill(service, clock)
    rows = export(service, tmp_path)
    table = datasets.load_from_disk(str(tmp_path / "dataset" / "comparisons"))
    assert [{k: v for k, v in row.items() if k in want} for row, want in zip(table, rows, strict=True)] == rows
    assert len(datasets.load_from_disk(str(tmp_path / "dataset" / "demonstrations"))) == 2


def test_an_empty_store_exports_empty_tables_with_all_columns(service, tmp_path):
    assert export(service, tmp_path) == []
    table = datasets.load_from_disk(str(tmp_path / "dataset" / "comparisons"))
    assert len(table) == 0
    assert {"chosen", "responses", "agreement"} <= set(table.column_names)
    assert import_feedback(service, str(tmp_path / "comparisons.jsonl")).new == 0


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(versions=frozenset({2})), [2, 3]),
        (Filters(labellers=frozenset({"bob"})), [1, 3]),
        (Filters(since=START + timedelta(hours=1)), [2, 3]),
        (Filters(until=START + timedelta(hours=1)), [0, 1]),
        (Filters(min_agreement=0.1), [2, 3]),
        (Filters(min_agreement=0.0), [0, 1, 2, 3]),
        (Filters(min_agreement=0.9), []),
    ],
)
def test_filters_leave_rows_out(service, clock, filters, expected):
    fill(service, clock)
    everything = comparison_rows(service.store.snapshot(), Filters())
    assert comparison_rows(service.store.snapshot(), filters) == [everything[n] for n in expected]


def test_a_minimum_agreement_leaves_out_what_only_one_has_judged(service):
    service.comparison(ranking(ask(service, "Why?", "1", "2"), [1, 2]), "ada")
    assert comparison_rows(service.store.snapshot(), Filters(min_agreement=0.0)) == []


def test_filters_hold_for_demonstrations_too(service, clock):
    fill(service, clock)
    kept = demonstration_rows(service.store.snapshot(), Filters(versions=frozenset({2})), thumbs_up=True)
    assert [row["kind"] for row in kept] == ["thumb"]


def test_an_import_into_an_empty_store_gives_the_same_votes_and_export(service, clock, tmp_path):
    a, _, _ = fill(service, clock)
    export(service, tmp_path / "out")
    clock.advance(days=30)
    with service_at(str(tmp_path / "copy.db"), tmp_path, clock) as copy:
        for name in ("comparisons", "demonstrations"):
            done = import_feedback(copy, str(tmp_path / "out" / f"{name}.jsonl"))
            assert (done.new, done.already_there) == ({"comparisons": 4, "demonstrations": 2}[name], 0)
        compared, kept, answers = votes(copy)
        original_compared, original_kept, original_answers = votes(service)
        assert compared == original_compared
        assert answers == original_answers
        assert kept == [vote for vote in original_kept if vote[2] == "correction" or vote[3] == 1]
        for before, after in zip(export(service, tmp_path / "out"), export(copy, tmp_path / "again"), strict=True):
            ignored = {"id", "flags"}  # flags are not imported: they are in the files as columns only
            assert {k: v for k, v in after.items() if k not in ignored} == {
                k: v for k, v in before.items() if k not in ignored
            }
        assert copy.feedback(thumb(a, "up"), "carol").is_new


def test_an_import_into_the_store_that_it_came_from_adds_nothing(service, clock, tmp_path):
    fill(service, clock)
    export(service, tmp_path)
    before = votes(service)
    for name in ("comparisons", "demonstrations"):
        assert import_feedback(service, str(tmp_path / f"{name}.jsonl")).new == 0
    assert votes(service) == before


def test_an_import_does_not_overrule_a_newer_vote(service, clock, tmp_path):
    a, b = ask(service, "Why?", "1", "2")
    service.comparison(ranking([a, b], [1, 2]), "ada")
    export(service, tmp_path)
    clock.advance(hours=1)
    service.comparison(ranking([a, b], [2, 1]), "ada")
    import_feedback(service, str(tmp_path / "comparisons.jsonl"))
    assert [comparison.ranks for comparison in service.store.snapshot().comparisons] == [(2, 1)]


def test_an_import_does_not_bring_back_what_was_forgotten(service, clock, tmp_path):
    fill(service, clock)
    export(service, tmp_path)
    service.store.forget("asker")
    assert import_feedback(service, str(tmp_path / "comparisons.jsonl")).forgotten == 4
    assert comparison_rows(service.store.snapshot(), Filters()) == []


def test_anybodys_comparisons_can_be_imported_and_twice_adds_nothing(service, tmp_path):
    messages = [{"role": "user", "content": "Why?"}]
    rows = [
        {"messages": messages, "chosen": "Because.", "rejected": "Since."},
        {"messages": messages, "responses": ["a", "b", "a"], "ranks": [0, 5, 5]},
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert import_feedback(service, str(file), "expert").new == 2
    assert import_feedback(service, str(file), "expert").already_there == 2
    pair, three = service.store.snapshot().comparisons
    assert {pair.user, three.user} == {"expert"}
    assert sorted([pair.ranks, three.ranks]) == [(1, 2), (1, 2, 2)]


def test_ids_that_our_keys_have_not_signed_are_given_anew(service, clock, tmp_path):
    fill(service, clock)
    rows = export(service, tmp_path / "out")
    rotate_keys(tmp_path / "other" / "signing-keys.json")
    with service_at(str(tmp_path / "copy.db"), tmp_path / "other", clock) as copy:
        file = str(tmp_path / "out" / "comparisons.jsonl")
        assert import_feedback(copy, file).new == 4
        assert import_feedback(copy, file).already_there == 4
        snapshot = copy.store.snapshot()
        assert not set(snapshot.answers) & {id for row in rows for id in row["response_ids"]}
        assert all(copy.keys.covers(id, a.conversation, a.text) for id, a in snapshot.answers.items())
        assert len(snapshot.answers) == 6


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"ranks": [1]}, "ranks"),
        ({"ranks": [1, "2"]}, "ranks"),
        ({"messages": []}, "messages"),
        ({"responses": ["a"]}, "responses"),
        ({"policy_versions": [1]}, "policy_versions"),
        ({"policy_versions": [1, -1]}, "policy_version"),
        ({"time": "yesterday"}, "time"),
        ({"response": "a"}, "answer"),
    ],
)
def test_a_wrong_row_is_named_and_nothing_is_imported(service, tmp_path, change, complaint):
    good = {"messages": [{"role": "user", "content": "Why?"}], "responses": ["a", "b"], "ranks": [1, 2]}
    file = tmp_path / "mine.jsonl"
    file.write_text(f"{json.dumps(good)}\n{json.dumps(good | change)}\n")
    with pytest.raises(DataError, match=rf"mine\.jsonl, line 2: .*{complaint}"):
        import_feedback(service, str(file))
    assert service.store.snapshot().comparisons == ()


def test_a_text_that_was_gone_on_with_is_no_chat_and_in_no_file(service, clock, tmp_path):
    origin = Origin(policy_version=1, model="tiny", sampling={"endpoint": "completions"}, user="ada")
    both = [service.record_answer([{"role": "user", "content": "Once"}], text, origin) for text in ("a", "b")]
    service.comparison(ranking(both, [1, 2]), "ada")
    service.feedback(correction(both[0], "better"), "ada")
    assert export(service, tmp_path) == []
    assert (tmp_path / "demonstrations.jsonl").read_text() == ""
