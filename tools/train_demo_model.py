"""Train dllama's demo model on text that demo_model/ makes up, and store it as a Hugging Face directory.

    python3 -m venv /tmp/train && /tmp/train/bin/pip install torch tokenizers safetensors numpy jinja2
    /tmp/train/bin/python tools/train_demo_model.py train src/dllama/demo_model
    /tmp/train/bin/python tools/train_demo_model.py sample src/dllama/demo_model
    /tmp/train/bin/python tools/train_demo_model.py check src/dllama/demo_model

The program itself needs none of these packages. Where the clock does not end it (`--minutes`), the same seed on
the same machine gives the same model;
docs/demo-model.md tells what came out.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from demo_model.chats import Message, converse
from demo_model.check import print_scores
from demo_model.network import Network, NetworkConfig
from demo_model.samples import print_samples
from demo_model.stories import HELLO_OPENINGS, OPENINGS, tell
from demo_model.tokenizer import (
    BOS,
    CHAT_TEMPLATE,
    END_OF_HEADER,
    END_OF_TEXT,
    END_OF_TURN,
    SPECIAL_TOKENS,
    START_OF_HEADER,
    token_id,
    train_tokenizer,
)

PLAIN_STORY_SHARE = 0.25
"""Documents that are a bare story."""
PLAIN_QUESTION_SHARE = 0.06
"""Documents that are a question and its answer without the chat template. The others are conversations."""
HELLO_WORLD_SHARE = 0.05
TURNS = (1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 6)
"""Turns of a conversation in a row of usual length; long rows hold one conversation of up to 16."""
ROW_LENGTHS = (256,) * 5 + (512,) * 4 + (1024,)
"""Positions of the rows of a step, in turn. A row of 1024 begins with a long conversation."""
WARMUP_STEPS = 60
WEIGHT_DECAY = 0.05

Document = tuple[list[int], list[bool]]
"""Token ids, and which of them the model is to learn to write (not: what the user says)."""


class Corpus:
    """An endless supply of documents and of rows packed with them."""

    def __init__(self, tokenizer: Tokenizer, rng: random.Random) -> None:
        self.rng = rng
        self.tokenizer = tokenizer
        self.ids = {token: token_id(tokenizer, token) for token in SPECIAL_TOKENS}

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def story(self) -> Document:
        openings = HELLO_OPENINGS if self.rng.random() < HELLO_WORLD_SHARE else OPENINGS
        ids = [self.ids[BOS], *self._encode(tell(self.rng, openings=openings).text), self.ids[END_OF_TEXT]]
        return ids, [False] + [True] * (len(ids) - 1)

    def question(self) -> Document:
        """What `--prompt` gives, without a template; the answer comes after an empty line."""
        messages = converse(self.rng, 1)
        question, answer = messages[-2]["content"], messages[-1]["content"]
        asked = [self.ids[BOS], *self._encode(question)]
        answered = [*self._encode("\n\n"), *self._encode(answer), self.ids[END_OF_TEXT]]
        return asked + answered, [False] * len(asked) + [True] * len(answered)

    def conversation(self, n_turns: int) -> Document:
        """As the chat template writes it. Only the assistant's words and its end of turn are learned."""
        ids, learned = [self.ids[BOS]], [False]
        for message in converse(self.rng, n_turns):
            head, body = self._message(message)
            ids += head + body
            learned += [False] * len(head) + [message["role"] == "assistant"] * len(body)
        return ids, learned

    def _message(self, message: Message) -> tuple[list[int], list[int]]:
        role = [self.ids[START_OF_HEADER], *self._encode(message["role"]), self.ids[END_OF_HEADER]]
        return role + self._encode("\n\n"), [*self._encode(message["content"]), self.ids[END_OF_TURN]]

    def document(self, long: bool) -> Document:
        if long:
            return self.conversation(self.rng.randint(6, 16))
        if self.rng.random() < PLAIN_STORY_SHARE:
            return self.story()
        if self.rng.random() < PLAIN_QUESTION_SHARE:
            return self.question()
        return self.conversation(self.rng.choice(TURNS))

    def batch(self, n_rows: int, n_positions: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows packed with whole documents and cut at the end.

        Gives token ids `[n_rows, T + 1]`, which of them are learned `[n_rows, T + 1]`, and the mask
        `[n_rows, 1, T, T]` that lets a position see its own document only. T is n_positions.
        """
        rows, counts, numbers = [], [], []
        for _ in range(n_rows):
            row: list[int] = []
            count: list[bool] = []
            number: list[int] = []
            while len(row) <= n_positions:
                ids, learned = self.document(long=n_positions >= 1024 and not row)
                number += [len(row)] * len(ids)
                row += ids
                count += learned
            rows.append(row[: n_positions + 1])
            counts.append(count[: n_positions + 1])
            numbers.append(number[:n_positions])
        document = torch.tensor(numbers)
        same_document = document[:, None, :, None] == document[:, None, None, :]
        earlier = torch.ones(n_positions, n_positions, dtype=torch.bool).tril()
        return torch.tensor(rows), torch.tensor(counts), same_document & earlier


def loss_of(network: Network, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy in nats over the targets that count."""
    ids, counts, mask = batch
    counted = counts[:, 1:]
    return functional.cross_entropy(network(ids[:, :-1], mask, counted), ids[:, 1:][counted])


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    rng = random.Random(options.seed)
    network = Network(NetworkConfig())
    if options.continue_from is None:
        tokenizer = train_tokenizer(rng, NetworkConfig.vocab_size)
    else:
        tokenizer = Tokenizer.from_file(str(options.continue_from / "tokenizer.json"))
        network.load_hugging_face(load_file(options.continue_from / "model.safetensors"))
    n_parameters = sum(weight.numel() for weight in network.parameters())
    print(f"{n_parameters} parameters, {n_parameters * 2 / 1e6:.2f} MB in bf16", flush=True)
    held_out = Corpus(tokenizer, random.Random(options.seed + 1)).batch(12, 512)
    fit(network, Corpus(tokenizer, rng), held_out, options)
    store(network, tokenizer, options.directory)


def fit(
    network: Network, corpus: Corpus, held_out: tuple[Tensor, Tensor, Tensor], options: argparse.Namespace
) -> None:
    """Trains in place. The last part runs on weights rounded to Q40."""
    matrices = [weight for weight in network.parameters() if weight.dim() == 2]
    norms = [weight for weight in network.parameters() if weight.dim() == 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.95), fused=True)
    start_s = time.monotonic()
    step, progress = 0, 0.0
    while progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = options.lr * schedule(step, progress)
        network.set_quantised(progress >= options.quantise_from)
        n_positions = ROW_LENGTHS[step % len(ROW_LENGTHS)]
        loss = loss_of(network, corpus.batch(max(1, options.batch_tokens // n_positions), n_positions))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        elapsed_s = time.monotonic() - start_s
        progress = max(step / options.steps, elapsed_s / (60 * options.minutes))
        if step % options.report_every == 0 or progress >= 1:
            _report(network, held_out, step, loss.item(), elapsed_s)


def schedule(step: int, progress: float) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine down to 1 % at progress 1."""
    warmed_up = min(1.0, (step + 1) / WARMUP_STEPS)
    return warmed_up * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def _report(
    network: Network, held_out: tuple[Tensor, Tensor, Tensor], step: int, loss: float, elapsed_s: float
) -> None:
    was_quantised = network.quantised
    network.eval()
    with torch.no_grad():
        network.set_quantised(False)
        plain = loss_of(network, held_out).item()
        network.set_quantised(True)
        rounded = loss_of(network, held_out).item()
    network.set_quantised(was_quantised)
    network.train()
    print(
        f"step {step}: loss {loss:.4f}, held out {plain:.4f}, in q40 {rounded:.4f}, {elapsed_s / 60:.1f} min",
        flush=True,
    )


def store(network: Network, tokenizer: Tokenizer, directory: Path) -> None:
    """Writes the directory as Hugging Face's programs and dllama read it."""
    directory.mkdir(parents=True, exist_ok=True)
    bos, end_of_text, end_of_turn = (token_id(tokenizer, token) for token in (BOS, END_OF_TEXT, END_OF_TURN))
    save_file(network.to_hugging_face(), directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "model.safetensors").chmod(0o644)
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    common = {"bos_token_id": bos, "eos_token_id": [end_of_text, end_of_turn]}
    _write_json(
        directory / "config.json",
        network.config.to_hugging_face() | common | {"torch_dtype": "bfloat16"},
    )
    _write_json(
        directory / "generation_config.json", common | {"do_sample": True, "temperature": 0.8, "top_p": 0.9}
    )
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": network.config.max_seq_len,
            "bos_token": BOS,
            "eos_token": END_OF_TURN,
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            "chat_template": CHAT_TEMPLATE,
        },
    )


def _write_json(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train dllama's demo model, or show how good it is.")
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train")
    training.add_argument("directory", type=Path)
    training.add_argument("--continue-from", type=Path, help="start from the model in this directory")
    training.add_argument("--steps", type=int, default=4500)
    training.add_argument(
        "--minutes", type=float, default=600, help="end, with the same schedule, after this time"
    )
    training.add_argument("--batch-tokens", type=int, default=1024)
    training.add_argument("--lr", type=float, default=2.5e-3, help="peak learning rate")
    training.add_argument(
        "--quantise-from", type=float, default=0.7, help="share of the steps before Q40 rounding"
    )
    training.add_argument("--threads", type=int, default=1)
    training.add_argument("--seed", type=int, default=1)
    training.add_argument("--report-every", type=int, default=200)
    training.set_defaults(run=train)
    for name, run in (("sample", print_samples), ("check", print_scores)):
        using = commands.add_parser(name)
        using.add_argument("directory", type=Path)
        using.add_argument(
            "--exact", action="store_true", help="use bf16 weights instead of their Q40 rounding"
        )
        using.add_argument("--temperature", type=float, default=0.8)
        using.add_argument("--seed", type=int, default=1)
        using.set_defaults(run=run)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
