import pytest

from rayrlhf.jobs.doctor.findings import Check, Finding, Level, of_all_nodes

CHECK = Check("machine", "cores")


@pytest.mark.parametrize(("level", "remedy"), [(Level.RED, ""), (Level.YELLOW, ""), (Level.GREEN, "buy more")])
def test_what_is_not_green_has_a_remedy_and_what_is_green_has_none(level, remedy):
    with pytest.raises(ValueError, match="remedy"):
        Finding("machine", "cores", level, "2", remedy)


def test_equal_findings_of_several_nodes_are_one_line_that_names_them():
    one, other = CHECK.red("none", "buy some"), CHECK.green("2")
    merged = of_all_nodes([one.on("a"), other.on("b"), one.on("c")])
    assert [(f.found, f.nodes) for f in merged] == [("none", ("a", "c")), ("2", ("b",))]


def test_what_nodes_say_of_one_check_stands_together():
    memory, token = Check("machine", "memory"), Check("cluster", "token")
    node_by_node = [CHECK.green("2").on("a"), memory.green("1 GiB").on("a"), token.green("right")]
    node_by_node += [CHECK.green("4").on("b"), memory.green("1 GiB").on("b")]
    assert [f.found for f in of_all_nodes(node_by_node)] == ["2", "4", "1 GiB", "right"]
