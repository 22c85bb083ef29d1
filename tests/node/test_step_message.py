"""A step and its answer come back as they were sent; everything else is a PeerProtocolError naming the sender."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dllama.dtypes import ElementType
from dllama.errors import PeerProtocolError
from dllama.model import VOCABULARY, LogitEdits, LogitMasks, LogitRows, RankCandidates, StepBatch
from dllama.model.candidates import edit_logits, select_candidates
from dllama.model.page_tables import PageTables
from dllama.node import input_rows
from dllama.node.input_rows import encode_inputs
from dllama.node.messages import SessionPlan
from dllama.node.step_message import (
    answer_bytes,
    decode_answer,
    decode_step,
    encode_answer,
    encode_steps,
    max_step_bytes,
)
from dllama.node.timing import NodeTimes
from dllama.sharding import Span
from support.candidates import DEVICE

from .conftest import make_plan

NUMBERS = st.sampled_from([-(2**31), -1, 0, 1, 2, 3, 7, 17, 100, 2**31 - 1]) | st.integers(-9, 200)


def logit_rows(n_rows: int, n_wanted: int, vocab_size: int, n_edits: int = 0, n_masks: int = 0) -> LogitRows:
    """The last rows of a step, with edits and masks of the first of them."""
    random = np.random.default_rng([n_rows, n_wanted, n_edits])
    each = np.sort(random.choice(n_wanted * vocab_size, n_edits, replace=False)).astype(np.int32)
    edits = LogitEdits(
        index=each // vocab_size,
        ids=each % vocab_size,
        scale=random.uniform(0.5, 2, n_edits).astype(np.float32),
        add=random.normal(0, 2, n_edits).astype(np.float32),
    )
    mask_shape = (n_masks, -(-vocab_size // 8))
    masks = LogitMasks(
        index=np.arange(n_masks, dtype=np.int32), allowed=random.integers(0, 256, mask_shape, np.uint8)
    )
    return LogitRows(
        rows=np.arange(n_rows - n_wanted, n_rows, dtype=np.int32),
        n_candidates=5,
        temperature=random.uniform(0, 1, n_wanted).astype(np.float32),
        targets=random.integers(-1, vocab_size, n_wanted, np.int32),
        edits=edits if n_edits else None,
        masks=masks if n_masks else None,
    )


def step_of(
    plan: SessionPlan, lengths: list[int], starts: list[int], n_wanted: int = 2, **counts: int
) -> tuple[StepBatch, NDArray[np.float32]]:
    random = np.random.default_rng(len(lengths))
    n_rows = sum(lengths)
    batch = StepBatch(
        token_ids=np.zeros(n_rows, np.int32),
        positions=np.concatenate(
            [np.arange(s, s + n, dtype=np.int32) for s, n in zip(starts, lengths, strict=True)]
        ),
        sequence=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        page_tables=tuple(
            random.integers(0, group.n_pages, (len(lengths), most), np.int32)
            for group, most in zip(plan.cache.groups, most_pages(plan), strict=True)
        ),
        wanted=logit_rows(n_rows, n_wanted, plan.config.vocab_size, **counts),
    )
    return batch, random.standard_normal((n_rows, plan.config.dim)).astype(np.float32)


def most_pages(plan: SessionPlan) -> list[int]:
    """Those that a step may name of one sequence, in each group."""
    limits, cache = plan.limits, plan.cache
    return [
        group.most_pages(limits.max_positions, limits.max_rows, cache.page_size) for group in cache.groups
    ]


def vocab_of(plan: SessionPlan) -> Span:
    """Not that of the plan's rank: one whose edges are in the middle of a mask's bytes."""
    return Span(13, plan.config.vocab_size - 5)


def encoded(plan: SessionPlan, batch: StepBatch, inputs: NDArray[np.float32]) -> bytes:
    (payload,) = encode_steps(batch, encode_inputs(inputs), [vocab_of(plan)])
    return bytes(payload)


def decoded(plan: SessionPlan, payload: bytes) -> tuple[StepBatch, NDArray[np.float32]]:
    batch, inputs = decode_step(payload, plan.config, plan.limits, plan.cache, vocab_of(plan), "root")
    return batch, inputs.decode()


def part_of(wanted: LogitRows, vocab: Span) -> LogitRows:
    """What the rank with that span has to know: its edits, and the bytes of its masks."""
    edits, masks = wanted.edits, wanted.masks
    if edits is not None:
        here = [vocab.start <= token_id < vocab.stop for token_id in edits.ids]
        edits = (
            LogitEdits(**{name: values[here] for name, values in vars(edits).items()}) if any(here) else None
        )
    if masks is not None:
        allowed = masks.allowed.copy()
        allowed[:, : vocab.start // 8] = allowed[:, (vocab.stop - 1) // 8 + 1 :] = 0
        masks = LogitMasks(index=masks.index, allowed=allowed)
    return dataclasses.replace(wanted, edits=edits, masks=masks)


def assert_equal(back: Any, sent: Any, name: str = "step") -> None:
    """Arrays, or dataclasses of arrays, are equal, types included."""
    if isinstance(sent, tuple):
        for index, (one_back, one_sent) in enumerate(zip(back, sent, strict=True)):
            assert_equal(one_back, one_sent, f"{name}[{index}]")
    elif dataclasses.is_dataclass(sent):
        for field in dataclasses.fields(sent):
            assert_equal(getattr(back, field.name), getattr(sent, field.name), f"{name}.{field.name}")
    else:
        np.testing.assert_array_equal(back, sent, err_msg=name)
        assert getattr(back, "dtype", None) == getattr(sent, "dtype", None), name


# Steps


@functools.cache
def plan_of(name: str) -> SessionPlan:
    return make_plan(name, ElementType.F32, n_ranks=2)


@given(name=st.sampled_from(["llama-gqa", "mistral-window", "gemma3-two-kinds"]), data=st.data())
def test_a_step_comes_back(name: str, data: st.DataObject) -> None:
    plan = plan_of(name)
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    starts = data.draw(st.lists(st.integers(0, 90), min_size=len(lengths), max_size=len(lengths)))
    n_wanted = data.draw(st.integers(0, min(sum(lengths), 4)))
    n_edits = data.draw(st.integers(0, 9)) if n_wanted else 0
    batch, inputs = step_of(
        plan, lengths, starts, n_wanted, n_edits=n_edits, n_masks=data.draw(st.integers(0, n_wanted))
    )
    payload = encoded(plan, batch, inputs)
    assert len(payload) <= max_step_bytes(plan.config, plan.limits, plan.cache, vocab_of(plan))
    back, back_inputs = decoded(plan, payload)
    assert_equal(back, dataclasses.replace(batch, wanted=part_of(batch.wanted, vocab_of(plan))))
    assert_equal(back_inputs, inputs)
    narrow = encoded(plan, batch, (inputs.view(np.uint32) & 0xFFFF0000).view(np.float32))
    assert len(narrow) == len(payload) - 2 * inputs.size
    assert_equal(decoded(plan, narrow)[1], (inputs.view(np.uint32) & 0xFFFF0000).view(np.float32))


def test_of_a_window_only_pages_that_it_reaches_travel() -> None:
    """A text of 96 tokens has 6 pages; the window of 12 reaches back to one before that of the next token."""
    plan = plan_of("gemma3-two-kinds")
    assert [group.window for group in plan.cache.groups] == [None, 12]
    pages = plan.cache.lone_pages(96, 1)
    batch, inputs = step_of(plan, [1], [96], n_wanted=1)
    tables = tuple(np.asarray([of_group], np.int32) for of_group in pages)
    back, _ = decoded(plan, encoded(plan, dataclasses.replace(batch, page_tables=tables), inputs))
    assert [table.tolist() for table in back.page_tables] == [[[0, 1, 2, 3, 4, 5, 6]], [[5, 6]]]


def test_too_few_pages_of_a_window_are_refused() -> None:
    plan = plan_of("gemma3-two-kinds")
    batch, inputs = step_of(plan, [1], [96], n_wanted=1)
    tables = (batch.page_tables[0], np.zeros((1, 1), np.int32))
    with pytest.raises(PeerProtocolError, match="impossible positions"):
        decoded(plan, encoded(plan, dataclasses.replace(batch, page_tables=tables), inputs))


def test_many_inputs_are_not_in_the_message(plan: SessionPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, inputs = step_of(plan, [3, 1], [0, 9], n_edits=3, n_masks=2)
    whole = encoded(plan, batch, inputs)
    monkeypatch.setattr(input_rows, "APART_BYTES", inputs.nbytes)
    apart = encoded(plan, batch, inputs)
    assert len(whole) - len(apart) == inputs.nbytes
    vocab = vocab_of(plan)
    back, to_come = decode_step(apart, plan.config, plan.limits, plan.cache, vocab, "root")
    assert_equal(back, dataclasses.replace(batch, wanted=part_of(batch.wanted, vocab)))
    assert to_come.travel_apart
    assert (to_come.dtype, to_come.stored.shape) == (ElementType.F32, inputs.shape)
    assert to_come.stored.flags.writeable
    with pytest.raises(PeerProtocolError, match="impossible size"):
        decoded(plan, whole)


def test_the_largest_step_fits_its_limit(plan: SessionPlan) -> None:
    n, n_wanted = plan.limits.max_rows, plan.limits.max_logit_rows
    n_edits = n_wanted * plan.config.vocab_size
    payload = encoded(plan, *step_of(plan, [1] * n, [99] * n, n_wanted, n_edits=n_edits, n_masks=n_wanted))
    assert len(payload) == max_step_bytes(plan.config, plan.limits, plan.cache, vocab_of(plan))
    decoded(plan, payload)


@settings(max_examples=600)
@given(name=st.sampled_from(["llama-gqa", "mistral-window", "gemma3-two-kinds"]), data=st.data())
def test_a_step_with_any_number_in_any_place(name: str, data: st.DataObject) -> None:
    """Refused, or within everything that the kernels index; never a large allocation."""
    plan = plan_of(name)
    payload = bytearray(encoded(plan, *step_of(plan, [3, 1, 2], [0, 99, 60], n_edits=3, n_masks=1)))
    n_words = 8 + len(plan.cache.groups) + 3 + 3 + 3 * sum(most_pages(plan)) + 2 + 2 + 3 + 3 + 1 + 2 + 3 + 3
    place, number = data.draw(st.integers(0, n_words - 1)), data.draw(NUMBERS)
    payload[4 * place : 4 * place + 4] = int(number).to_bytes(4, "little", signed=True)
    with contextlib.suppress(PeerProtocolError):
        batch, inputs = decoded(plan, bytes(payload))
        assert len(inputs) == batch.n_rows == len(batch.sequence) <= plan.limits.max_rows
        assert 0 <= batch.positions.min() <= batch.positions.max() < plan.limits.max_positions
        assert 0 <= batch.sequence.min() <= batch.sequence.max() < batch.n_sequences
        for table, group in zip(batch.page_tables, plan.cache.groups, strict=True):
            assert 0 <= table.min() <= table.max() < group.n_pages
        assert_no_other_page_is_read(plan, batch)
        assert_sound(batch.wanted, batch.n_rows, plan.config.vocab_size, vocab_of(plan))


def assert_no_other_page_is_read(plan: SessionPlan, batch: StepBatch) -> None:
    """What the rows attend to is in the tables that the kernels follow, and of this step."""
    size, limits = plan.cache.page_size, plan.limits
    tables = PageTables(plan.cache, limits.max_rows, limits.max_positions)
    for table in tables.tables:
        table[:] = -1
    tables.place(batch)
    for table, group in zip(tables.tables, plan.cache.groups, strict=True):
        for sequence, position in zip(batch.sequence, batch.positions, strict=True):
            first = 0 if group.window is None else max(0, position - group.window + 1)
            seen = table[sequence, first // size : position // size + 1]
            assert 0 <= seen.min() <= seen.max() < group.n_pages


def assert_sound(wanted: LogitRows, n_rows: int, vocab_size: int, vocab: Span) -> None:
    n_wanted = len(wanted.rows)
    assert all(0 <= row < n_rows for row in wanted.rows)
    assert 0 < wanted.n_candidates <= vocab_size
    assert len(wanted.temperature) == len(wanted.targets) == n_wanted
    assert all(0 <= temperature < np.inf for temperature in wanted.temperature)
    assert all(-1 <= target < vocab_size for target in wanted.targets)
    if wanted.edits is not None:
        pairs = list(zip(wanted.edits.index, wanted.edits.ids, strict=True))
        assert all(
            0 <= index < n_wanted and vocab.start <= token_id < vocab.stop for index, token_id in pairs
        )
        assert len(set(pairs)) == len(pairs) == len(wanted.edits.scale) == len(wanted.edits.add)
        assert all(0 < scale < np.inf for scale in wanted.edits.scale)
        assert np.isfinite(wanted.edits.add).all()
    if wanted.masks is not None:
        assert all(0 <= index < n_wanted for index in wanted.masks.index)
        assert wanted.masks.allowed.shape == (len(wanted.masks.index), -(-vocab_size // 8))


@settings(max_examples=200)
@given(
    payload=st.binary(max_size=200)
    | st.lists(st.integers(-3, 20), max_size=40).map(lambda n: np.int32(n).tobytes())
)
def test_any_bytes_as_a_step(plan: SessionPlan, payload: bytes) -> None:
    with pytest.raises(PeerProtocolError, match="root sent a malformed step"):
        decoded(plan, payload)


@pytest.mark.parametrize("n_bytes", [-4, -1, 1, 4])
def test_a_step_of_another_size(plan: SessionPlan, n_bytes: int) -> None:
    payload = encoded(plan, *step_of(plan, [3], [0])) + bytes(4)
    with pytest.raises(PeerProtocolError, match="impossible size"):
        decoded(plan, payload[: len(payload) - 4 + n_bytes])


def test_each_rank_gets_what_concerns_its_vocabulary(plan: SessionPlan) -> None:
    """And computes from that what it would from the whole."""
    batch, embedded = step_of(plan, [3, 1, 2], [0, 9, 60], n_edits=40, n_masks=2)
    inputs = encode_inputs(embedded)
    vocabs = [spans[VOCABULARY] for spans in plan.shards.ranks] + [Span(13, 27)]
    whole = len(bytes(encode_steps(batch, inputs, [Span(0, plan.config.vocab_size)])[0]))
    logits = np.random.default_rng(1).normal(0, 3, (2, plan.config.vocab_size)).astype(np.float32)
    for vocab, payload in zip(vocabs, encode_steps(batch, inputs, vocabs), strict=True):
        assert whole - len(bytes(payload)) >= 2 * ((plan.config.vocab_size - len(vocab)) // 8 - 1)
        back, _ = decode_step(bytes(payload), plan.config, plan.limits, plan.cache, vocab, "root")
        own = logits[:, vocab.start : vocab.stop]
        from_part, from_whole = own.copy(), own.copy()
        edit_logits(from_part, back.wanted, vocab.start)
        edit_logits(from_whole, batch.wanted, vocab.start)
        assert not np.array_equal(from_part, own)
        assert_equal(from_part, from_whole)


def test_a_step_without_edits_and_masks_is_one_buffer(plan: SessionPlan) -> None:
    batch, inputs = step_of(plan, [3], [0])
    first, second = encode_steps(batch, encode_inputs(inputs), [Span(0, 32), Span(32, 64)])
    assert first is second


def test_an_edit_of_another_rank_is_refused(plan: SessionPlan) -> None:
    batch, inputs = step_of(plan, [3, 1], [0, 9], n_edits=3)
    (payload,) = encode_steps(batch, encode_inputs(inputs), [Span(0, plan.config.vocab_size)])
    with pytest.raises(PeerProtocolError, match="impossible edits"):
        decode_step(bytes(payload), plan.config, plan.limits, plan.cache, Span(0, 8), "root")


# Answers

VOCAB = Span(100, 140)
TIMES = NodeTimes(compute_s=0.25, wait_s=0.0, wire_s=1e-6)


def answer_of(wanted: LogitRows) -> RankCandidates:
    random = np.random.default_rng(len(wanted.rows))
    logits = random.normal(0, 3, (len(wanted.rows), len(VOCAB))).astype(np.float32)
    return select_candidates(DEVICE, DEVICE.bind(logits), wanted, VOCAB.start)


@pytest.mark.parametrize("n_candidates", [1, 7, 40, 1000])
@pytest.mark.parametrize("n_wanted", [0, 1, 3])
def test_an_answer_comes_back(n_wanted: int, n_candidates: int) -> None:
    wanted = dataclasses.replace(logit_rows(4, n_wanted, 200), n_candidates=n_candidates)
    part = answer_of(wanted)
    payload = encode_answer(TIMES, part)
    assert len(payload) == answer_bytes(wanted, VOCAB)
    times, back = decode_answer(payload, wanted, VOCAB, "worker")
    assert times == TIMES
    assert_equal(back, part)


def test_an_answer_of_logits_that_are_no_numbers_comes_back() -> None:
    wanted = logit_rows(1, 1, 200)
    logits = DEVICE.bind(np.full((1, len(VOCAB)), np.nan, np.float32))
    part = select_candidates(DEVICE, logits, wanted, VOCAB.start)
    assert_equal(decode_answer(encode_answer(TIMES, part), wanted, VOCAB, "worker")[1], part)


@settings(max_examples=300)
@given(data=st.data())
def test_an_answer_with_anything_in_any_place(data: st.DataObject) -> None:
    """Refused, or candidates that a draw may walk over."""
    wanted = logit_rows(3, 2, 200)
    payload = bytearray(encode_answer(TIMES, answer_of(wanted)))
    place = data.draw(st.integers(0, len(payload) // 4 - 1))
    floats = st.sampled_from([np.nan, np.inf, -np.inf, -1.0, 0.0, 1e30])
    word = data.draw(NUMBERS.map(np.int32) | floats.map(np.float32))
    payload[4 * place : 4 * place + 4] = word.tobytes()
    with contextlib.suppress(PeerProtocolError):
        times, part = decode_answer(payload, wanted, VOCAB, "10.0.0.1:9990")
        assert all(0 <= value < np.inf for value in vars(times).values())
        assert all(VOCAB.start <= token_id < VOCAB.stop for token_id in part.ids.reshape(-1))
        assert not (np.diff(part.logits, axis=1) > 0).any()
        assert not (part.logits == np.inf).any()
        assert not ((part.sums < 0) | np.isinf(part.sums)).any()


@pytest.mark.parametrize(
    ("place", "number"), [(24 + 4 * 8, 99), (24 + 4 * 8, 140), (24, -(2**30)), (0, -(2**30))]
)
def test_impossible_answers_name_the_sender(place: int, number: int) -> None:
    wanted = logit_rows(3, 2, 200)
    payload = bytearray(encode_answer(TIMES, answer_of(wanted)))
    payload[place : place + 8] = 2 * np.int32(number).tobytes()
    with pytest.raises(PeerProtocolError, match=r"10.0.0.1:9990 sent a malformed answer to a step"):
        decode_answer(payload, wanted, VOCAB, "10.0.0.1:9990")


def test_more_pages_than_a_text_can_have(plan: SessionPlan) -> None:
    """There are more in the cache, but none of its texts has so many positions."""
    limits = dataclasses.replace(plan.limits, max_positions=3 * plan.cache.page_size)
    few = dataclasses.replace(plan, limits=limits)
    batch, inputs = step_of(plan, [1], [0], n_wanted=1)
    assert decoded(plan, encoded(plan, batch, inputs))[0].page_tables[0].shape == (1, 7)
    with pytest.raises(PeerProtocolError, match="impossible number of pages"):
        decoded(few, encoded(plan, batch, inputs))


def test_more_candidates_than_anybody_may_ask_for(plan: SessionPlan) -> None:
    config = dataclasses.replace(plan.config, vocab_size=1 << 17)
    large = dataclasses.replace(plan, model=dataclasses.replace(plan.model, config=config))
    batch, inputs = step_of(large, [1], [0], n_wanted=1)
    for n_candidates, is_allowed in ((4096, True), (4097, False)):
        wanted = dataclasses.replace(batch.wanted, n_candidates=n_candidates)
        payload = encoded(large, dataclasses.replace(batch, wanted=wanted), inputs)
        if is_allowed:
            assert decoded(large, payload)[0].wanted.n_candidates == n_candidates
        else:
            with pytest.raises(PeerProtocolError, match="impossible number of candidates"):
                decoded(large, payload)
