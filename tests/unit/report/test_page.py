import json
import shutil
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrlhf.data.durable import as_path, write_durably
from rayrlhf.data.journal import Journal
from rayrlhf.errors import InputError, RunError
from rayrlhf.loop.checkpoint import MANIFEST
from rayrlhf.report.page import render, report, write_report
from rayrlhf.stages.run_directory import RunDirectory
from tests.unit.report.parsed import Parsed
from tests.unit.report.runs import answers, metrics, reward_run, rl_run

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&lt;{{ 7*7 }}</pre></title></svg></style>"
TAGS = {
    "html", "head", "meta", "link", "title", "style", "body", "a", "header", "p", "h1", "h2", "h3", "h4", "strong",
    "span", "progress", "pre", "nav", "main", "section", "ul", "li", "dl", "div", "dt", "dd", "small", "b", "i", "code",
    "figure", "figcaption", "svg", "g", "path", "rect", "circle", "text", "table", "thead", "tbody", "tr", "th", "td",
    "details", "summary", "article", "footer",
}  # fmt: skip


def test_a_page_shows_numbers_charts_samples_events_checkpoints_and_config(tmp_path):
    page = Parsed(render(rl_run(tmp_path)))
    assert page.tags.count("svg") >= 8
    for part in (
        "run", "reinforcement learning, GRPO", "finished", "step 6 of 6",
        "0.6", "KL to the reference", "Gradient norm", "Memory", "Time of a step", "mine/own", "mine/constant",
        "good 1", "fair 4", "bad 6", "why?", "reference of good 6", "ended by the policy",
        "learner 0 died in learn of step 4: restart", "step-000004", " KiB", "it crashed two workers",
    ):  # fmt: skip
        assert part in page.text, part
    assert 'kind = "grpo"' in page.text


def test_a_supervised_run_has_its_loss_and_what_it_measured(tmp_path):
    text = Parsed(render(reward_run(tmp_path))).text
    for part in ("reward model", "finished", "Loss", "Learning rate", "held_out/accuracy", "75 %", "50% to 87.5%"):
        assert part in text, part


def evil_run(root):
    """A run in which every text is hostile."""
    directory = rl_run(root, done=1, end="")
    directory.config.write_text(
        f"name = {json.dumps(EVIL)}\nx = {json.dumps(EVIL)}\n[algorithm]\nkind = {json.dumps(EVIL)}"
    )
    row = {"step": 1, EVIL: 1, f"memory/{EVIL}_0_mib": 5, f"time/{EVIL}_s": 1.0, f"{EVIL}/loss_nats": EVIL}
    directory.metrics.write_text("\n".join(json.dumps(r) for r in [row, row | {"step": 2, EVIL: 2}, [EVIL]]) + "\n")
    event = {"time": 1.0, "event": EVIL, "message": EVIL, "step": 1}
    directory.events.write_text("".join(json.dumps(event | {"event": kind}) + "\n" for kind in (EVIL, "failed")))
    directory.result.write_text(json.dumps({EVIL: 1.0}))
    Journal(directory.trajectories).reject(EVIL, EVIL, EVIL)
    Journal(directory.trajectories).commit(2, *answers(2, {EVIL: 1.0, f"{EVIL}!": None}, words=EVIL, name=EVIL))
    directory.set_aside.mkdir()
    about = json.dumps({"__metadata__": {"trajectory_ids": EVIL, "bad_trajectory_ids": EVIL}}).encode()
    (directory.set_aside / "<script>.safetensors").write_bytes(len(about).to_bytes(8, "little") + about)
    folder = directory.checkpoints / "step-<script>"
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text("{")
    shutil.move(directory.root, root / "<script>")
    return RunDirectory(root / "<script>")


def test_what_comes_from_data_is_never_markup(tmp_path):
    page = render(evil_run(tmp_path))
    parsed = Parsed(page)
    assert set(parsed.tags) <= TAGS
    assert "<script" not in page
    assert "<img" not in page
    assert "49" not in parsed.texts
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on") or name in ("src", "style")]
    assert parsed.text.count("alert(1)") > 20


def test_text_that_html_has_no_place_for_does_not_break_the_page(tmp_path):
    directory = rl_run(tmp_path, done=1)
    with directory.events.open("a") as file:
        file.write(json.dumps({"event": "failure", "message": "a\x00b\x1b[2J \ud800 c"}) + "\n")
    assert "a·b·[2J · c" in write_report(directory).read_text(encoding="utf-8")


def test_the_page_asks_nothing_of_the_network(tmp_path):
    page = Parsed(render(rl_run(tmp_path)))
    assert "script" not in page.tags
    assert set(page.values("href", "link")) == {"data:,"}
    local = {"config.toml", "metrics.jsonl", "trajectories/", "checkpoints/", "model/"}
    assert {href for href in page.values("href", "a") if not href.startswith("#")} == local
    style = render(rl_run(tmp_path / "2")).partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_charts_have_words_tables_have_scopes_and_links_have_goals(tmp_path):
    directory = rl_run(tmp_path)
    page = Parsed(render(directory))
    charts = [dict(on) for on in _svgs(page) if "role" in dict(on)]
    assert all(svg["role"] == "img" and "step" in svg["aria-label"].lower() for svg in charts)
    assert len(page.values("scope", "th")) == page.tags.count("th")
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {href[1:] for href in page.values("href", "a") if href.startswith("#")} <= set(ids)
    assert set(page.values("aria-labelledby")) <= set(ids)
    assert page.tags.count("h1") == page.tags.count("main") == 1


def _svgs(page):
    found = []
    for tag, name, value in page.attributes:
        if tag == "svg":
            if name == "viewbox":
                found.append([])
            found[-1].append((name, value))
    return found


numbers = st.floats() | st.integers() | st.none() | st.booleans() | st.text(max_size=3) | st.just(10**400)
names = st.sampled_from([*metrics(1), "time/x_s", "drift/abs_logprob_max_nats", "reward/failed_share"]) | st.text(
    max_size=5
)
rows = st.dictionaries(names, numbers, max_size=8)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(-2, 2**60), rows), max_size=4))
def test_whatever_the_metrics_are_there_is_a_page(tmp_path_factory, steps):
    directory = RunDirectory(tmp_path_factory.mktemp("run"))
    directory.metrics.write_text("".join(json.dumps(row | {"step": step}) + "\n" for step, row in steps))
    page = Parsed(render(directory))
    drawn = [float(value) for name in ("x", "y", "cx", "cy", "width", "height") for value in page.values(name)]
    assert all(-1 <= place <= 401 for place in drawn)
    assert not [path for path in page.values("d") if "nan" in path or "inf" in path]


def test_a_damaged_step_is_named_and_the_others_are_shown(tmp_path):
    directory = rl_run(tmp_path)
    file = directory.trajectories / "step-000004.parquet"
    file.write_bytes(file.read_bytes()[:-50])
    text = Parsed(render(directory)).text
    assert f"{file}: truncated or damaged" in text
    assert "good 1" in text
    assert "good 6" in text
    assert "fair 4" not in text


def test_only_the_steps_that_are_shown_are_read(tmp_path):
    directory = rl_run(tmp_path)
    for step in (2, 3, 5):
        (directory.trajectories / f"step-{step:06d}.parquet").write_bytes(b"not read")
    assert "Not everything could be read" not in render(directory)


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl", "config.toml", "result.json"])
def test_a_damaged_file_is_named_and_the_page_is_there(tmp_path, name):
    directory = rl_run(tmp_path)
    path = directory.root / name
    path.write_bytes(b"\xff{]\n")
    text = Parsed(render(directory)).text
    assert str(path) in text
    assert "good 6" in text


def test_a_run_that_has_only_begun_has_a_page(tmp_path):
    directory = rl_run(tmp_path, done=0, end="failed")
    text = Parsed(render(directory)).text
    assert "No step is done yet." in text
    assert "failed: because of this" in text


def test_a_directory_without_a_run_is_wrong_input_that_names_it(tmp_path):
    rl_run(tmp_path / "runs")
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, words in {"none": "no such run", "file": "no such run", "empty": "neither config.toml"}.items():
        with pytest.raises(InputError, match=f"{tmp_path / name}: .*{words}"):
            report(str(tmp_path / name))
    with pytest.raises(InputError, match=f"did you mean {tmp_path / 'runs' / 'run'}"):
        report(str(tmp_path / "runs"))
    with pytest.raises(InputError, match="nonsense"):
        report("nonsense://x")
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_page_that_cannot_be_written_is_a_failure_that_names_it(tmp_path):
    directory = rl_run(tmp_path)
    directory.report.mkdir()
    with pytest.raises(RunError, match=r"report\.html: cannot be written"):
        report(str(directory.root))


def test_a_run_at_a_url_has_the_page_of_a_local_one(tmp_path):
    directory = rl_run(tmp_path)
    url = f"memory://{uuid.uuid4().hex}"
    for path in directory.root.rglob("*"):
        if path.is_file():
            write_durably(as_path(url) / path.relative_to(directory.root).as_posix(), path.read_bytes())
    written = report(url)
    here, there = render(directory), written.read_text(encoding="utf-8")
    assert there.partition("<footer>")[0] == here.partition("<footer>")[0]


def test_a_page_is_replaced_by_a_newer_one(tmp_path):
    directory = rl_run(tmp_path, done=2, end="")
    first = write_report(directory).read_text(encoding="utf-8")
    with directory.metrics.open("a") as file:
        file.write(json.dumps({"step": 3, "reward/mean": 1.0}) + "\n")
    second = write_report(directory).read_text(encoding="utf-8")
    assert "step 2 of 6" in first
    assert "step 3 of 6" in second
    assert not (directory.root / "report.html.partial").exists()
