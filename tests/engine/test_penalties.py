"""What is changed of logits, against the definitions written out token by token."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dllama.engine import SamplingOptions
from dllama.engine.penalties import Penalties, joined_edits
from dllama.model import LogitRows
from dllama.model.candidates import edit_logits

VOCAB = 200
TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=60)


def penalised(
    logits: list[float], options: SamplingOptions, prompt: list[int], text: list[int]
) -> list[float]:
    counts = Counter(text)
    result = []
    for token_id, logit in enumerate(logits):
        if token_id in prompt or token_id in text:
            scale = options.repetition_penalty
            logit = logit / scale if logit > 0 else logit * scale
        logit -= (
            options.presence_penalty * (token_id in counts) + options.frequency_penalty * counts[token_id]
        )
        result.append(logit + options.logit_bias.get(token_id, 0.0))
    return result


@given(
    prompt=TOKENS,
    text=TOKENS,
    draft_ids=st.lists(st.integers(0, VOCAB - 1), max_size=4),
    repetition=st.sampled_from([1.0, 1.3, 0.8]),
    presence=st.sampled_from([0.0, 0.5, -0.5]),
    frequency=st.sampled_from([0.0, 0.25]),
    bias=st.dictionaries(st.integers(0, VOCAB - 1), st.sampled_from([-100.0, 1.5]), max_size=20),
)
def test_the_definitions(
    prompt: list[int],
    text: list[int],
    draft_ids: list[int],
    repetition: float,
    presence: float,
    frequency: float,
    bias: dict[int, float],
) -> None:
    options = SamplingOptions(
        repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency, logit_bias=bias
    )
    penalties = Penalties.of(options, prompt)
    if penalties is None:
        assert (repetition, presence, frequency, bias) == (1, 0, 0, {})
        return
    for token_id in text:
        penalties.count(token_id)
    logits = np.random.default_rng(0).normal(0, 3, VOCAB).astype(np.float32)
    rows = np.tile(logits, (1 + len(draft_ids), 1))
    wanted = LogitRows.greedy(np.arange(len(rows), dtype=np.int32))
    edits = joined_edits(penalties.edits(draft_ids))
    assert edits is not None
    edit_logits(rows, LogitRows(**{**vars(wanted), "edits": edits}), 0)
    for n, row in enumerate(rows):
        wanted_logits = penalised(logits.tolist(), options, prompt, [*text, *draft_ids[:n]])
        # Each of 60 and 4 additions rounds what is below 256 to 24 bits; the quotient once more.
        np.testing.assert_allclose(row, wanted_logits, atol=66 * 256 * 2.0**-24, rtol=0)
    again = penalties.edits(())[0]
    np.testing.assert_array_equal(again[0], penalties.edits(draft_ids)[0][0])  # guesses leave no trace


def test_rows_without_changes_have_no_entries() -> None:
    row = (np.array([5, 3], np.int32), np.ones(2, np.float32), np.full(2, -1, np.float32))
    edits = joined_edits([None, row, None, row])
    assert edits is not None
    assert edits.index.tolist() == [1, 1, 3, 3]
    assert edits.ids.tolist() == [5, 3, 5, 3]
    assert joined_edits([None, None]) is None
