"""Carries bytes between ranks: one primitive, `exchange`, and what is written on top of it.

base.py            the Fabric Protocol: what every transport promises
tcp.py             a full mesh of TCP connections; local.py: threads of one process, for tests
mpi.py             MPI messages between the processes of one job; mpi_messages.py: what MPI is handed;
                   launch.py: whether there is such a job
heartbeat.py       who of a session is still there
socket_options.py  what TCP is asked for: nothing held back, nothing paced
failures.py        how a broken fabric says so
collectives.py     broadcast, gather, all-gather, all-to-all
timing.py          how long an exchange of all with all takes
frames.py          typed, bounded messages over a fabric
addresses.py       how addresses are written
channel.py         the same messages over one socket, before there is a fabric; connecting and listening
"""

from dllama.fabric.addresses import format_address, own_hosts, peer_address
from dllama.fabric.base import Buffer, Fabric, Loss, PreparedExchange, WritableBuffer
from dllama.fabric.channel import SocketChannel, connect_with_deadline, listen, listen_everywhere
from dllama.fabric.collectives import (
    all_gather,
    all_to_all,
    broadcast,
    exchange_all,
    gather,
    scattered_broadcast,
)
from dllama.fabric.frames import join_buffers, receive_frame, send_frame, send_frames
from dllama.fabric.heartbeat import LEAST_PEER_TIMEOUT_S, PEER_TIMEOUT_S, Arrivals, Heartbeat
from dllama.fabric.launch import Job, launched_rank
from dllama.fabric.local import local_fabrics
from dllama.fabric.socket_options import set_options
from dllama.fabric.tcp import TcpFabric, TcpPeer
from dllama.fabric.timing import ExchangeTimes, measure_exchange

__all__ = [
    "LEAST_PEER_TIMEOUT_S",
    "PEER_TIMEOUT_S",
    "Arrivals",
    "Buffer",
    "ExchangeTimes",
    "Fabric",
    "Heartbeat",
    "Job",
    "Loss",
    "PreparedExchange",
    "SocketChannel",
    "TcpFabric",
    "TcpPeer",
    "WritableBuffer",
    "all_gather",
    "all_to_all",
    "broadcast",
    "connect_with_deadline",
    "exchange_all",
    "format_address",
    "gather",
    "join_buffers",
    "launched_rank",
    "listen",
    "listen_everywhere",
    "local_fabrics",
    "measure_exchange",
    "own_hosts",
    "peer_address",
    "receive_frame",
    "scattered_broadcast",
    "send_frame",
    "send_frames",
    "set_options",
]
