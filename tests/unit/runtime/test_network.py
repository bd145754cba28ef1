from rayrlhf.runtime.network import interface_of


def test_the_interface_of_an_address_is_found_by_the_address():
    assert interface_of("127.0.0.1") == "lo"


def test_an_address_that_this_machine_does_not_have_is_on_no_interface():
    assert interface_of("203.0.113.7") is None
