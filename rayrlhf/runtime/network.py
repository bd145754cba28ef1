"""Which of a node's network interfaces its processes meet the others on: the one that Ray knows the node by.

Left alone, gloo asks for the address of the host's own name. Where that is another network, or the loopback, ranks on
different nodes wait for each other until their deadline.
"""

from __future__ import annotations

import psutil
import ray

from rayrlhf.runtime.environment import set_if_unset


def use_node_interface() -> None:
    """For gloo, NCCL's bootstrap and vLLM in this process and its children; variables that are set already stay."""
    address = ray.util.get_node_ip_address()
    set_if_unset({"VLLM_HOST_IP": address})
    if (name := interface_of(address)) is not None:
        set_if_unset({"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name})


def interface_of(address: str) -> str | None:
    """The name of this machine's interface that has the address; None where none does, as behind a translated one."""
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in entries):
            return name
    return None
