import io
import json

from rich.console import Console

from rayrlhf.jobs.doctor.findings import Check
from rayrlhf.jobs.doctor.lines import Lines, as_json

CORES, TOKEN = Check("machine", "cores"), Check("cluster", "token")


def shown(*findings, node_count=1):
    text = io.StringIO()
    lines = Lines(Console(file=text, width=200, highlight=False))
    lines.show(findings, node_count)
    lines.total(findings, 3.2)
    return text.getvalue().splitlines()


def test_a_line_says_level_check_and_what_was_found_and_below_it_the_remedy():
    assert shown(CORES.green("8"), TOKEN.red("none here", "set [RAY_AUTH_TOKEN]")) == [
        "machine",
        "  green   cores                8",
        "cluster",
        "  red     token                none here",
        "                               → set [RAY_AUTH_TOKEN]",
        "",
        "1 red, 1 green in 3 s",
    ]


def test_a_node_is_named_where_it_is_not_all_of_them():
    lines = shown(CORES.red("1", "more").on("a"), node_count=3)
    assert lines[1] == "  red     cores                a: 1"


def test_many_green_lines_of_one_check_are_counted_and_no_red_one_is_left_out():
    greens = [CORES.green(str(n)).on(f"n{n}") for n in range(64)]
    reds = [TOKEN.red(str(n), "x").on(f"n{n}") for n in range(64)]
    lines = shown(*greens, *reds, node_count=64)
    assert "  green   cores                and 61 more like these" in lines
    assert sum(line.startswith("  red") for line in lines) == 64


def test_json_says_whether_all_is_well():
    assert json.loads(as_json([CORES.green("8")], {}, 1.0))["ok"] is True
    found = json.loads(as_json([TOKEN.red("none", "get one").on("a")], {}, 1.0))
    assert found["ok"] is False
    assert found["findings"] == [
        {"topic": "cluster", "check": "token", "level": "red", "found": "none", "remedy": "get one", "nodes": ["a"]}
    ]
