"""Where the hosts of a job meet: what can be wrong about the place is found before torch waits for it."""

import argparse
import fcntl
import os
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta

from torch.distributed import DistError, TCPStore
from torch.distributed.elastic.rendezvous.utils import _matches_machine_hostname, _parse_rendezvous_config

ANSWER_S = 5.0
SIOCGIFADDR = 0x8915  # Linux: the address of a network interface


class MeetingError(Exception):
    """One sentence for the person who started the job."""


def prepare(args: argparse.Namespace) -> None:
    """Waits for the place, checks it, and completes torchrun's arguments: whether this host keeps the store, and the
    address by which the others reach it. Raises MeetingError."""
    host, port = _parsed(args.rdzv_endpoint)
    end = time.monotonic() + int(_parse_rendezvous_config(args.rdzv_conf).get("join_timeout", 600))
    address = _address(host, end)
    own = _is_here(address)
    there = _listens(address, port)
    while not own and not there and time.monotonic() < end:
        time.sleep(1)
        there = _listens(address, port)
    if not own and not there:
        raise MeetingError(
            f"DIST_REC_RDZV={host}:{port}: nobody listens there; expected the same call on {host} within "
            "DIST_REC_JOIN_S, and a port that this host may reach"
        )
    if there and not _is_store(address, port):
        raise MeetingError(
            f"DIST_REC_RDZV={host}:{port}: the port is taken by another program; expected a free one on {host}"
        )
    if own and not there and not _matches_machine_hostname(host):  # torch knows the addresses of one network only
        args.rdzv_conf = ",".join(part for part in (args.rdzv_conf, "is_host=1") if part)
    args.local_addr = args.local_addr or _address_towards(address, port)
    interface = _interface(args.local_addr)
    if interface and "GLOO_SOCKET_IFNAME" not in os.environ and _name_is_loopback():
        os.environ["GLOO_SOCKET_IFNAME"] = interface


def _parsed(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise MeetingError(f"DIST_REC_RDZV must be HOST:PORT, got '{endpoint}'; for example node1:29500")
    return host, int(port)


def _address(host: str, end: float) -> str:
    """Names of containers that start together may take a while to be known."""
    told = False
    while True:
        try:
            return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
        except OSError as error:
            if time.monotonic() > end:
                raise MeetingError(
                    f"DIST_REC_RDZV: the host '{host}' has no address ({error.strerror}); expected a name or an "
                    "address that every host of the job knows"
                ) from None
        if not told:
            print(f"waiting until the host '{host}' has an address", file=sys.stderr, flush=True)
            told = True
        time.sleep(1)


def _is_here(address: str) -> bool:
    """Only an address of this machine can be bound to."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=ANSWER_S).close()
    except OSError:
        return False
    return True


def _is_store(address: str, port: int) -> bool:
    """In a thread of its own: torch waits without end for a program that accepts connections and does not answer."""
    answered = threading.Event()

    def ask() -> None:
        with suppress(DistError, RuntimeError):  # it closed the connection
            TCPStore(address, port, is_master=False, timeout=timedelta(seconds=ANSWER_S)).check(["any"])
            answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return answered.wait(ANSWER_S)


def _address_towards(address: str, port: int) -> str | None:
    """This host's address on the network where the hosts meet; its name may be known to itself alone."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, port))  # sends nothing
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _name_is_loopback() -> bool:
    """As Debian writes it into /etc/hosts; gloo would tell the other hosts this address."""
    try:
        return socket.gethostbyname(socket.gethostname()).startswith("127.")
    except OSError:
        return False


def _interface(address: str | None) -> str | None:
    """The interface with this IPv4 address; none for the machine's own 127.0.0.1."""
    if address is None or address.startswith("127.") or ":" in address:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    return None
