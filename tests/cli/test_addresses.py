"""Workers' addresses as people write them."""

from __future__ import annotations

import argparse
import re

import pytest

from dllama.cli.addresses import parse_address, peer_timeout
from dllama.cli.main import parse_arguments
from dllama.node import Address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.2:5000", Address("10.0.0.2", 5000)),
        ("10.0.0.2", Address("10.0.0.2", 9998)),
        ("pi4.local", Address("pi4.local", 9998)),
        ("[::1]:5000", Address("::1", 5000)),
        ("[::1]", Address("::1", 9998)),
        ("::1", Address("::1", 9998)),
        ("fd00::2", Address("fd00::2", 9998)),
        ("[fe80::1%eth0]:5000", Address("fe80::1%eth0", 5000)),
        ("fe80::1%eth0", Address("fe80::1%eth0", 9998)),
    ],
)
def test_ways_to_write_an_address(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10.0.0.2:1,10.0.0.3:2", "separated by spaces, not by commas: --workers 10.0.0.2:1 10.0.0.3:2"),
        ("http://10.0.0.2:9998/", "without http://: --workers 10.0.0.2:9998"),
        ("tcp://pi4:9998", "without tcp://: --workers pi4:9998"),
        ("10.0.0.2:0", "write host:port"),
        ("10.0.0.2:70000", "write host:port"),
        ("10.0.0.2:²", "write host:port"),
        (":9998", "write host:port"),
        ("10.0.0.2:9998/x", "write host:port"),
        ("[fd00::2:9998", "write host:port"),
        ("fd00:2:9998", "no IPv6 address"),
        ("", "write host:port"),
    ],
)
def test_what_is_no_address_says_how_to_write_it(text: str, says: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(says)):
        parse_address(text)


@pytest.mark.parametrize("command", ["inference", "chat", "api", "perplexity", "bench", "bench fabric"])
def test_whoever_calls_workers_says_how_long_they_may_be_silent(command: str) -> None:
    arguments = [*command.split(), "--workers", "pi4", "--peer-timeout", "3"]
    if command == "inference":
        arguments += ["--prompt", "Hello"]
    if command == "perplexity":
        arguments += ["--file", "text.txt"]
    assert parse_arguments(arguments).peer_timeout == 3


@pytest.mark.parametrize("seconds", ["1", "0", "-3", "nan", "inf", "4000", "soon"])
def test_a_silence_that_cannot_be_told(seconds: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="no number of seconds from 2 to 3600"):
        peer_timeout(seconds)
