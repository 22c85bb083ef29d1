"""What a stored demo model writes: stories and answers, by default with its weights rounded to Q40."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import jinja2
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from demo_model.network import Network, NetworkConfig

PROMPTS = ("Once upon a time", "Hello world", "", "Once upon a time there was a little robot", "One day, Mia")
CONVERSATIONS: tuple[tuple[str, ...], ...] = (
    ("Hi!", "Who are you?", "What can you do?", "thanks, bye"),
    ("Tell me a story about a fox.", "What was the name of the fox?", "Who was in the story?"),
    ("Tell me a story about a dragon and a girl.",),
    ("Can you tell me a story about a lost ball?",),
    ("What is 3 + 4?", "7 - 2", "What is nine plus eight?", "What is 3 times 4?", "Count to 12."),
    ("What colour is a banana?", "What is the opposite of hot?", "What day comes after Friday?"),
    ("What sound does a cow make?", "What is a baby dog called?", "Which month comes before March?"),
    ("My name is Lucy.", "What is 10 + 6?", "What is my name?"),
    ("What is the capital of Norway?", "Explain general relativity.", "Schreibe mir ein Gedicht"),
    (
        "Tom has 3 apples and gets 5 more. How many apples does Tom have?",
        "Name three fruits.",
        "Tell me a joke",
    ),
)


def print_samples(options: argparse.Namespace) -> None:
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    writer = Writer(options.directory, quantised=not options.exact, temperature=options.temperature)
    for prompt in PROMPTS:
        print(f"--- {prompt!r}\n{prompt}{writer.write(writer.tokenizer.encode(prompt).ids)}\n", flush=True)
    for questions in CONVERSATIONS:
        messages: list[dict[str, str]] = []
        for question in questions:
            messages.append({"role": "user", "content": question})
            answer = writer.answer(messages)
            messages.append({"role": "assistant", "content": answer})
            print(f"> {question}\n{answer}", flush=True)
        print(flush=True)


class Writer:
    """Samples from a stored model. It computes the whole text anew for each token."""

    def __init__(self, directory: Path, *, quantised: bool, temperature: float) -> None:
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.template = json.loads((directory / "tokenizer_config.json").read_text())["chat_template"]
        self.end_ids = json.loads((directory / "generation_config.json").read_text())["eos_token_id"]
        self.temperature = temperature
        self.network = Network(NetworkConfig()).eval()
        self.network.load_hugging_face(load_file(directory / "model.safetensors"))
        self.network.set_quantised(quantised)

    def answer(self, messages: list[dict[str, str]]) -> str:
        return self.write(self.prompt(messages))

    def prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """The ids of a conversation up to where the assistant begins."""
        template = jinja2.Template(self.template)
        text = template.render(messages=messages, bos_token="<|begin_of_text|>", add_generation_prompt=True)
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    @torch.no_grad()
    def write(self, ids: list[int], n_most: int = 400) -> str:
        """The text that follows `ids`, up to an end token."""
        ids = list(ids)
        start = len(ids)
        while len(ids) - start < n_most and len(ids) < self.network.config.max_seq_len:
            logits = self.network(torch.tensor([ids]))[0, -1]
            if self.temperature == 0:
                token = int(logits.argmax())
            else:
                token = int(torch.multinomial(torch.softmax(logits / self.temperature, dim=-1), 1))
            if token in self.end_ids:
                break
            ids.append(token)
        return self.tokenizer.decode(ids[start:])
