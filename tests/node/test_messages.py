"""What travels is read back as it was; everything else is a PeerProtocolError that names the sender."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllama.checkpoint import open_checkpoint
from dllama.dtypes import ElementType
from dllama.errors import PeerProtocolError
from dllama.model import VOCABULARY
from dllama.node.memory import memory_need
from dllama.node.messages import (
    Hello,
    PeakMemory,
    ReduceChoice,
    Refusal,
    Role,
    SessionPlan,
    Welcome,
)
from dllama.node.probe import LinkFaults, ProbeOrders
from dllama.node.step_message import max_step_bytes
from dllama.plain_text import LONGEST, plain_line
from dllama.sharding import plan_spans
from support.local_cluster import GOLDENS
from support.session_root import small_plan

from .conftest import make_plan

MESSAGES = [
    Hello(Role.WORKER, "a session", 3),
    Welcome(machine="m", available_bytes=1 << 40, n_threads=4, isa="avx2", kv_on_disk=True),
    Refusal("127.0.0.1:9990"),
    PeakMemory(peak_rss_bytes=3),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_come_back(message: Any) -> None:
    assert type(message).decode(message.encode(), "peer") == message


@pytest.mark.parametrize("name", ["llama-gqa", "qwen3-5-moe"])
def test_a_plan_comes_back(name: str) -> None:
    plan = make_plan(name, ElementType.F32)
    assert SessionPlan.decode(plan.encode(), "root") == plan


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
@given(data=st.data())
def test_any_value_in_any_place_is_refused_or_of_its_type(message: Any, data: st.DataObject) -> None:
    values = json.loads(message.encode())
    name = data.draw(st.sampled_from(sorted(values)))
    wanted = type(values[name])
    values[name] = data.draw(JSON)
    payload = json.dumps(values).encode()
    if type(values[name]) is wanted:
        with contextlib.suppress(PeerProtocolError):  # a number may be impossible
            wanted_value = plain_line(values[name]) if wanted is str else values[name]
            assert getattr(type(message).decode(payload, "peer"), name) == wanted_value
    else:
        with pytest.raises(PeerProtocolError, match=r"10.0.0.1:9990 sent a malformed"):
            type(message).decode(payload, "10.0.0.1:9990")


@pytest.mark.parametrize("kind", [Hello, Welcome, Refusal, PeakMemory, ReduceChoice, SessionPlan])
@given(payload=st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_refused(kind: Any, payload: bytes) -> None:
    with contextlib.suppress(PeerProtocolError):
        kind.decode(payload, "peer")


@pytest.mark.parametrize(
    "payload", [b"[" * 100_000, b'{"reason": "x", "more": 1}', b"{}", b"\xff", b"3", b""]
)
def test_malformed_json(payload: bytes) -> None:
    with pytest.raises(PeerProtocolError, match="malformed Refusal"):
        Refusal.decode(payload, "peer")


ESCAPES = "a\x1b]0;t\x07\x1b[2J\x9b2J\r\nb\u2028\u202ec\x7f\ud800"


@pytest.mark.parametrize(
    "text", [ESCAPES, "x" * 1_000_000, ESCAPES * 10_000], ids=["controls", "long", "both"]
)
def test_texts_of_peers_can_be_shown(text: str) -> None:
    """Wherever they stand: in a message that is sound, and in what is said about one that is not."""
    spoken = [
        Refusal.decode(Refusal(text).encode(), "peer").reason,
        *LinkFaults.decode(LinkFaults([text, text]).encode(), "peer").faults,
        Welcome.decode(json.dumps({**vars(MESSAGES[1]), "isa": text}).encode(), "peer").isa,
    ]
    for kind in (Refusal, Hello, Welcome, SessionPlan, ProbeOrders):
        with pytest.raises(PeerProtocolError) as caught:
            kind.decode(json.dumps({text: 1}).encode(), "peer")
        spoken.append(str(caught.value))
    for line in spoken:
        assert line.isprintable()
        assert len(line) < LONGEST + 100


def test_more_faults_than_links_there_can_be() -> None:
    with pytest.raises(PeerProtocolError, match="malformed LinkFaults"):
        LinkFaults.decode(json.dumps({"faults": ["x"] * 100_000}).encode(), "peer")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (LinkFaults, {"faults": [1]}),
        (LinkFaults, {"faults": "a line"}),
        (ProbeOrders, {"session": "s", "rank": 1, "addresses": [["h", 1], "h:1"]}),
        (ProbeOrders, {"session": "s", "rank": 1, "addresses": "h:1"}),
    ],
)
def test_what_lies_within_a_field_is_of_its_type_too(kind: Any, values: dict[str, Any]) -> None:
    with pytest.raises(PeerProtocolError, match=f"malformed {kind.__name__}"):
        kind.decode(json.dumps(values).encode(), "peer")


def places(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in a JSON value."""
    inner = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    return [
        *([path] if path else []),
        *(place for key, value in inner for place in places(value, (*path, key))),
    ]


@settings(max_examples=300)
@given(name=st.sampled_from(["llama-gqa", "gemma3-two-kinds"]), data=st.data())
def test_a_plan_with_any_value_in_any_place(name: str, data: st.DataObject) -> None:
    """Refused, or so sound that memory for it could be sized."""
    values = json.loads(encoded_plan(name))
    *path, last = data.draw(st.sampled_from(places(values)))
    inner = values
    for key in path:
        inner = inner[key]
    inner[last] = data.draw(JSON | st.integers(-2, 600))
    with contextlib.suppress(PeerProtocolError):
        decoded = SessionPlan.decode(json.dumps(values).encode(), "root")
        assert 1 <= decoded.rank < decoded.shards.n_ranks
        vocab = decoded.shards.ranks[decoded.rank][VOCABULARY]
        assert max_step_bytes(decoded.config, decoded.limits, decoded.cache, vocab) > 0
        need = memory_need(decoded.model, decoded.shards, decoded.rank, decoded.cache, decoded.limits, False)
        assert need.kv_bytes > 0


@functools.cache
def encoded_plan(name: str) -> bytes:
    return make_plan(name, ElementType.F32).encode()


def cut_a_block(values: dict[str, Any]) -> None:
    first, second = (values["shards"][rank] for rank in (0, 1))
    (axis,) = (axis for axis in first if "FFN" in axis)
    first[axis][1] = second[axis][0] = 40


def heads_of(rank: dict[str, Any]) -> str:
    (axis,) = (axis for axis in rank if "heads" in axis)
    return axis


def layer_of(values: dict[str, Any]) -> dict[str, Any]:
    layer: dict[str, Any] = values["model"]["config"]["kinds"][0]
    return layer


def change_heads(values: dict[str, Any], change: Callable[[int], object]) -> None:
    spans = values["shards"][0]
    spans[heads_of(spans)] = [change(edge) for edge in spans[heads_of(spans)]]


PlanChange = Callable[[dict[str, Any]], object]
IMPOSSIBLE_PLANS: dict[str, PlanChange] = {
    "rank of the root": lambda v: v.update(rank=0),
    "rank beyond the last": lambda v: v.update(rank=3),
    "an address too few": lambda v: v["addresses"].pop(),
    "an address that is none": lambda v: v["addresses"].__setitem__(1, "nowhere"),
    "a port that is none": lambda v: v["addresses"].__setitem__(1, "10.0.0.1:70000"),
    "heads given twice": lambda v: v["shards"].__setitem__(1, v["shards"][0]),
    "heads that nobody has": lambda v: v["shards"].pop(),
    "an empty span": lambda v: v["shards"][0].update({VOCABULARY: [0, 0]}),
    "a span of nothing known": lambda v: v["shards"][0].update({"7 heads": [0, 2]}),
    "a span too few": lambda v: v["shards"][0].pop(VOCABULARY),
    "columns within a block": cut_a_block,
    "a model of text": lambda v: v["model"]["config"].update(dim="128"),
    "a model of fractions": lambda v: v["model"]["config"].update(layer_kinds=[[0, 1.5]]),
    "a model without layers": lambda v: v["model"]["config"].update(layer_kinds=[]),
    "a million layers": lambda v: v["model"]["config"].update(layer_kinds=[[0, 1 << 20]]),
    "a layer of no kind": lambda v: v["model"]["config"].update(layer_kinds=[[1, 2]]),
    "an unknown mixer": lambda v: layer_of(v)["mixer"].update(kind="magic"),
    "a mixer of text": lambda v: layer_of(v)["mixer"].update(n_heads="8"),
    "a rope of text": lambda v: layer_of(v)["mixer"]["rope"].update(theta="1e4"),
    "more of a mixer": lambda v: layer_of(v)["mixer"].update(more=1),
    "types of fewer layers": lambda v: v["model"]["types"].update(layers=[[0, 1]]),
    "types of no kind": lambda v: v["model"]["types"].update(layers=[[5, 2]]),
    "a matrix without a type": lambda v: v["model"]["types"]["kinds"][0].pop("q"),
    "a head without a type": lambda v: v["model"]["types"].update(outer={}),
    "a type that is not multiplied": lambda v: v["model"]["types"]["kinds"][0].update(q="bf16"),
    "rows that are no blocks": lambda v: v["model"]["config"].update(dim=100),
    "no pages": lambda v: v["cache"]["groups"][0].update(n_pages=0),
    "no page groups": lambda v: v["cache"].update(groups=[]),
    "another window": lambda v: v["cache"]["groups"][0].update(window=5),
    "a page group twice": lambda v: v["cache"].update(groups=2 * v["cache"]["groups"]),
    "pages without end": lambda v: v["cache"].update(page_size=1 << 40),
    "a cache of blocks": lambda v: v["cache"].update(dtype="q40"),
    "an unknown type": lambda v: v["cache"].update(dtype="q41"),
    "positions beyond the cache": lambda v: v["limits"].update(max_positions=10_000),
    "no rows": lambda v: v["limits"].update(max_rows=0),
    "more logits than rows": lambda v: v["limits"].update(max_logit_rows=17),
    "for ever": lambda v: v["limits"].update(timeout_s=float("inf")),
    "no time": lambda v: v["limits"].update(timeout_s=float("nan")),
    "for an age": lambda v: v["limits"].update(timeout_s=1e300),
    "for a day": lambda v: v["limits"].update(timeout_s=86_400.0),
    "for as long as it takes to count": lambda v: v["limits"].update(timeout_s=10**400),
    "silent for an age": lambda v: v.update(peer_timeout_s=1e300),
    "more": lambda v: v["limits"].update(more=1),
    "more of its own": lambda v: v.update(more=1),
    "heads as text": lambda v: change_heads(v, str),
    "heads as fractions": lambda v: change_heads(v, float),
    "a window without end": lambda v: layer_of(v)["mixer"].update(window=1 << 40),
    "a session of commands": lambda v: v.update(session="a\r\nSET b c"),
    "a session without end": lambda v: v.update(session="a" * 1000),
    "a session of nothing": lambda v: v.update(session=""),
    "an endless address": lambda v: v["addresses"].__setitem__(1, "a" * 1000 + ":9998"),
}  # fmt: skip


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    "place", [("limits", "timeout_s"), ("model", "config", "norm_eps"), ("peer_timeout_s",)]
)
def test_what_is_no_number(plan: SessionPlan, place: tuple[str, ...], number: str) -> None:
    values = inner = json.loads(plan.encode())
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = 12345678
    payload = json.dumps(values).replace("12345678", number).encode()
    with pytest.raises(PeerProtocolError, match="root sent a malformed SessionPlan"):
        SessionPlan.decode(payload, "root")


@pytest.mark.parametrize(
    "changes", [{"available_bytes": -1}, {"available_bytes": 1 << 70}, {"n_threads": 0}, {"n_threads": 10**9}]
)
def test_impossible_welcomes(changes: dict[str, int]) -> None:
    values = json.loads(MESSAGES[1].encode()) | changes
    with pytest.raises(PeerProtocolError, match="peer sent a malformed Welcome"):
        Welcome.decode(json.dumps(values).encode(), "peer")


@pytest.mark.parametrize("name", IMPOSSIBLE_PLANS)
def test_impossible_plans(name: str, plan: SessionPlan) -> None:
    values = json.loads(plan.encode())
    IMPOSSIBLE_PLANS[name](values)
    with pytest.raises(PeerProtocolError, match="root sent a malformed SessionPlan"):
        SessionPlan.decode(json.dumps(values).encode(), "root")


@pytest.mark.parametrize("other", ["f16", "q40"])
def test_stacks_that_are_packed_together_have_one_type(other: str) -> None:
    """Their worker failed at the first of the weights."""
    model = open_checkpoint(GOLDENS / "qwen3-moe", ElementType.F32).model
    plan = dataclasses.replace(small_plan(), model=model, shards=plan_spans(model.axes, [1.0, 1.0]))
    values = json.loads(plan.encode())
    assert SessionPlan.decode(json.dumps(values).encode(), "root") == plan
    for name in ("experts_down", "experts_gate"):
        values["model"]["types"]["kinds"][0][name] = other
    with pytest.raises(PeerProtocolError, match="stacks of two types"):
        SessionPlan.decode(json.dumps(values).encode(), "root")
