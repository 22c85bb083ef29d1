"""What every device promises of latent attention, against plain NumPy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dllama.dtypes import ElementType, row_bytes
from dllama.kernels import Buffer, Cpu, Device, MatrixStack, Reference, oracle
from kernels.checks import EPS, Float32, assert_within

DEVICES: dict[str, Callable[[], Device]] = {"cpu": lambda: Cpu(2), "reference": Reference}
H, N, R, L, V = 5, 24, 8, 56, 20
PAGE = 4
CACHES: dict[str, Any] = {"f32": np.float32, "f16": np.float16, "q80": np.uint8}


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Device:
    return DEVICES[request.param]()


def normal(*shape: int, seed: int = 1) -> Float32:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def angles(n: int, n_turned: int) -> Float32:
    angle = np.arange(n)[:, None] * 0.3 ** np.arange(n_turned // 2)
    return np.stack([np.cos(angle), np.sin(angle)], axis=2).astype(np.float32)


@dataclasses.dataclass
class Rows:
    """Rows of two sequences, in pages that lie anywhere."""

    device: Device

    def __post_init__(self) -> None:
        self.positions = np.array([0, 1, 2, 3, 4, 5, 0, 1, 2], np.int32)
        self.sequence = np.array([0] * 6 + [1] * 3, np.int32)
        self.table = np.array([[3, 1], [0, 2]], np.int32)
        self.n = len(self.positions)
        bind = self.device.bind
        self.places = bind(self.positions), bind(self.sequence), bind(self.table)

    def cache(self, name: str, width: int) -> np.ndarray:
        of_row = row_bytes(ElementType.Q80, width) if name == "q80" else width
        return np.zeros((4, 1, PAGE, of_row), CACHES[name])

    def stored(self, cache: np.ndarray, width: int) -> np.ndarray:
        """[T, width] float64: what the cache has of each row."""
        pages = self.table[self.sequence, self.positions // PAGE]
        rows = cache[pages, 0, self.positions % PAGE]
        if cache.dtype == np.uint8:
            return oracle.decode(ElementType.Q80, rows, width).astype(np.float64)
        return rows.astype(np.float64)


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("name", CACHES)
def test_latents_are_normed_turned_and_stored(device: Device, name: str, halves: bool) -> None:
    of, x, weight, table = Rows(device), 2 * normal(9, L + R), 1 + normal(L) / 4, angles(6, R)
    rows, cache = x.copy(), of.cache(name, L + R)
    device.latent_store(
        device.bind(rows),
        device.bind(weight),
        1e-5,
        device.bind(table),
        *of.places,
        device.bind(cache),
        halves,
        9,
    )
    wanted = np.concatenate(
        [
            oracle.rms_norm(x[:, :L], weight, 1e-5),
            oracle.rope(x[:, None, L:], table[of.positions], R if halves else 0)[:, 0],
        ],
        axis=1,
    )
    size = np.abs(wanted).max(axis=1, keepdims=True)
    step = {"f32": 0.0, "f16": 2**-11, "q80": 0.5 / 127 + 2**-11}[name]
    assert_within(of.stored(cache, L + R), wanted, (step + 40 * EPS) * size * np.ones_like(wanted))


@pytest.mark.parametrize("halves", [False, True])
def test_queries_are_taken_apart(device: Device, halves: bool) -> None:
    of, queries, table = Rows(device), normal(9, H * (N + R)), angles(6, R)
    content, absorbed = np.zeros((H * 9, N), np.float32), normal(9, H * (L + R), seed=2)
    before = absorbed.copy().reshape(9, H, L + R)
    operands = (device.bind(each) for each in (content, absorbed, queries, table))
    device.latent_queries(*operands, of.places[0], H, halves, 9)
    heads, got = queries.reshape(9, H, N + R), absorbed.reshape(9, H, L + R)
    np.testing.assert_array_equal(content.reshape(H, 9, N), heads[:, :, :N].swapaxes(0, 1))
    np.testing.assert_array_equal(got[:, :, :L], before[:, :, :L])
    wanted = oracle.rope(heads[:, :, N:], table[of.positions], R if halves else 0)
    assert_within(got[:, :, L:], wanted, 4 * EPS * np.abs(heads[:, :, N:]).max() * np.ones_like(wanted))


def stack_of(device: Device, matrices: Float32) -> MatrixStack:
    stack = device.stack(ElementType.F32, *matrices.shape)
    for index, matrix in enumerate(matrices):
        assert stack.pack(index, 0, oracle.encode(ElementType.F32, matrix))
    return stack


@pytest.mark.parametrize("n_rows", [1, 9])
def test_each_head_has_a_matrix(device: Device, n_rows: int) -> None:
    matrices, x = normal(H, L, N), normal(H * n_rows, N, seed=2)
    out = normal(n_rows, H * (L + R), seed=3)
    before = out.copy().reshape(n_rows, H, L + R)
    device.head_products(device.bind(out), stack_of(device, matrices), device.bind(x), n_rows)
    got = out.reshape(n_rows, H, L + R)
    rows = x.reshape(H, n_rows, N).astype(np.float64)
    wanted = np.einsum("hon,htn->tho", matrices.astype(np.float64), rows)
    sizes = np.einsum("hon,htn->tho", np.abs(matrices), np.abs(rows))
    assert_within(got[:, :, :L], wanted, 2.2 * N * EPS * sizes)
    np.testing.assert_array_equal(got[:, :, L:], before[:, :, L:])


@pytest.mark.parametrize(
    ("n_heads", "latent", "turned"), [(H, L, R), (1, L, R), (19, 24, 8), (66, 24, 8), (17, 512, 64)]
)
@pytest.mark.parametrize("name", CACHES)
def test_heads_attend_to_latents(device: Device, name: str, n_heads: int, latent: int, turned: int) -> None:
    of, width, scale = Rows(device), latent + turned, 0.3
    cache = of.cache(name, width)
    values = normal(*cache.shape[:3], width)
    cache[:] = (
        oracle.encode(ElementType.Q80, values.reshape(-1, width)).reshape(cache.shape)
        if name == "q80"
        else values
    )
    queries = normal(9, n_heads * width, seed=2) / np.float32(width**0.5)
    out = np.zeros((n_heads * 9, latent), np.float32)

    def attend(to: Float32, rows: slice) -> None:
        n = rows.stop - rows.start
        places = (device.bind(each[rows].copy()) for each in (of.positions, of.sequence))
        device.latent_attention(
            device.bind(to),
            device.bind(queries[rows].copy()),
            *places,
            of.places[2],
            device.bind(cache),
            scale,
            n,
        )

    attend(out, slice(0, 9))
    stored, got = of.stored(cache, width), out.reshape(n_heads, 9, latent)
    for row in range(9):
        seen = stored[[i for i in range(row + 1) if of.sequence[i] == of.sequence[row]]]
        heads = queries[row].reshape(n_heads, width).astype(np.float64)
        scores = scale * heads @ seen.T
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        # Scores are off by a rounding of each term, and by two more in the exponential.
        error = (width + 20) * EPS * (1 + np.abs(scale * heads) @ np.abs(seen).max(axis=0))
        bound = error[:, None] * (2 * weights @ np.abs(seen[:, :latent]))
        assert_within(got[:, row], weights @ seen[:, :latent], bound)
        alone = np.zeros((n_heads, latent), np.float32)
        attend(alone, slice(row, row + 1))
        np.testing.assert_array_equal(alone, got[:, row])


def test_wrong_operands_are_told(device: Device) -> None:
    of = Rows(device)
    bind, cache = device.bind, device.bind(of.cache("f32", L + R))
    rows, weight, table = device.buffer(9, L + R), device.buffer(L), bind(angles(6, R))
    two_heads: Buffer = device.buffer(4, 2, PAGE, L + R)
    queries, absorbed, content = (
        device.buffer(9, H * (N + R)),
        device.buffer(9, H * (L + R)),
        device.buffer(H * 9, N),
    )
    mixed, stack = device.buffer(H * 9, L), stack_of(device, normal(H, L, N))
    for call in (
        lambda: device.latent_store(rows, weight, 1e-5, table, *of.places, two_heads, False, 9),
        lambda: device.latent_store(rows, weight, 1e-5, table, *of.places, cache, False, 10),
        lambda: device.latent_store(rows, device.buffer(L - 2), 1e-5, table, *of.places, cache, False, 9),
        lambda: device.latent_store(rows, weight, 1e-5, bind(angles(5, R)), *of.places, cache, False, 9),
        lambda: device.latent_queries(content, absorbed, queries, table, of.places[0], 3, False, 9),
        lambda: device.latent_queries(
            device.buffer(9, N), absorbed, queries, table, of.places[0], H, False, 9
        ),
        lambda: device.latent_queries(
            content, absorbed, queries, bind(angles(5, R)), of.places[0], H, False, 9
        ),
        lambda: device.head_products(device.buffer(9, H * (L - 1)), stack, content, 9),
        lambda: device.head_products(absorbed, stack, mixed, 9),
        lambda: device.head_products(absorbed, stack, content, 10),
        lambda: device.latent_attention(mixed, queries, *of.places, cache, 1.0, 9),
        lambda: device.latent_attention(device.buffer(9, L), absorbed, *of.places, cache, 1.0, 9),
        lambda: device.latent_attention(mixed, absorbed, *of.places, cache, 0.0, 9),
        lambda: device.latent_attention(mixed, absorbed, *of.places, two_heads, 1.0, 9),
    ):
        with pytest.raises(ValueError, match=r".+"):
            call()
    with pytest.raises(TypeError):
        device.head_products(absorbed, object(), content, 9)  # type: ignore[arg-type]
