"""The demo model's tokenizer: byte-level BPE with Llama 3's splitting. Any text comes back as it went in.

The regular expression and the special tokens are those of Meta Llama 3's published tokenizer.json; the merges
are learned from the demo text.
"""

from __future__ import annotations

import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from demo_model.chats import converse
from demo_model.facts import UNKNOWN_WORDS
from demo_model.stories import tell

BOS = "<|begin_of_text|>"
END_OF_TEXT = "<|end_of_text|>"
START_OF_HEADER = "<|start_header_id|>"
END_OF_HEADER = "<|end_header_id|>"
END_OF_TURN = "<|eot_id|>"
SPECIAL_TOKENS = (BOS, END_OF_TEXT, START_OF_HEADER, END_OF_HEADER, END_OF_TURN)

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)

N_TRAINING_TEXTS = 12000


def train_tokenizer(rng: random.Random, vocab_size: int) -> Tokenizer:
    """Learned from the demo text. The special tokens are the last ids, and encoding puts BOS first."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_texts(rng), trainer)
    assert tokenizer.get_vocab_size() == vocab_size - len(SPECIAL_TOKENS), "the demo text has too few words"
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, token_id(tokenizer, BOS))]
    )
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that is certainly there."""
    found = tokenizer.token_to_id(token)
    assert found is not None, token
    return found


def _training_texts(rng: random.Random) -> list[str]:
    texts = list(UNKNOWN_WORDS)
    for _ in range(N_TRAINING_TEXTS):
        texts.append(tell(rng).text)
        for message in converse(rng, 3):
            texts.append(f"{message['role']}\n\n{message['content']}")
    return texts
