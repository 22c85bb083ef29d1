"""Carries bytes between ranks: one primitive, `exchange`, and what is written on top of it.

base.py         the Fabric Protocol: what every transport promises
tcp.py          a full mesh of TCP connections; local.py: threads of one process, for tests
liveness.py     when a peer's system counts as gone
failures.py     how a broken fabric says so
collectives.py  broadcast, gather, all-gather, all-to-all
frames.py       typed, bounded messages over a fabric
channel.py      the same messages over one socket, before there is a fabric; connecting and listening
"""
