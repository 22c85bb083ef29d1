"""One face for a model's weights, whatever file they are in."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama.checkpoint.hf.source import CONFIG_FILE, HfSource
from dllama.checkpoint.m.source import MSource
from dllama.checkpoint.source import StoredMatrix, TensorSource
from dllama.dtypes import BLOCK, ElementType, row_bytes
from dllama.errors import ModelFileError, NumericalError, TokenizerError, UnsupportedModelError, UsageError
from dllama.families import ModelConfig, tensor_specs
from dllama.formats.hf_folders import missing, model_folder, what_instead
from dllama.formats.m_file import MKey
from dllama.kernels import convert

DEFAULT_WEIGHT_TYPE = ElementType.Q40
"""What the weights of a Hugging Face directory become when nobody asks for anything else."""

WEIGHT_TYPES = (ElementType.Q40, ElementType.Q80, ElementType.F16, ElementType.F32)


class Checkpoint:
    """A model's config and tensors. Every method may be called from several threads at once."""

    def __init__(
        self,
        path: Path,
        config: ModelConfig,
        source: TensorSource,
        header: dict[MKey, int] | None = None,
    ) -> None:
        """`header` is what a `.m` file says, None for a directory."""
        self.path = path
        self.config = config
        self.header = header
        self.tensors = {spec.name: spec for spec in tensor_specs(config)}
        self._source = source

    def stored(self, name: str) -> StoredMatrix:
        """The tensor as the file has it, for `info`."""
        return self._source.stored(name)

    def read(
        self,
        name: str,
        rows: tuple[int, int],
        cols: tuple[int, int],
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Rows and columns `[start, stop)` of a tensor, uint8 [n, bytes of a row], in the spec's type.

        Columns of Q40 and Q80 start and stop at whole blocks. Without `out` the result may be a read-only
        view of the map, whose numbers nobody has looked at; `out` (C-contiguous) is always filled and
        checked. Raises NumericalError, naming file and tensor, where converting met NaN, infinity or, for
        F16, a number too large.
        """
        spec = self.tensors[name]
        assert 0 <= rows[0] <= rows[1] <= spec.n_rows, (name, rows)
        assert 0 <= cols[0] <= cols[1] <= spec.n_cols, (name, cols)
        stored = self._source.stored(name)
        part = _take(stored, rows, cols)
        if out is None and stored.dtype is spec.dtype:
            return part
        n_rows, n_cols = rows[1] - rows[0], cols[1] - cols[0]
        if out is None:
            out = np.empty((n_rows, row_bytes(spec.dtype, n_cols)), dtype=np.uint8)
        assert out.shape == (n_rows, row_bytes(spec.dtype, n_cols)), name
        assert out.flags.c_contiguous, name
        _convert(out, spec.dtype, part, stored, n_rows * n_cols)
        return out

    def is_stored(self, name: str) -> bool:
        """Whether `read` of whole rows without `out` is a view of the map: nothing is copied or converted."""
        stored = self._source.stored(name)
        return stored.dtype is self.tensors[name].dtype and stored.half_pairs_width is None

    def embed(self, token_ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """Rows of the embedding: float32 [T, D]. Raises TokenizerError for an id outside the vocabulary, ModelFileError
        when the file has been written to since it was opened."""
        ids = np.asarray(token_ids, dtype=np.int64).reshape(-1)
        outside = ids[(ids < 0) | (ids >= self.config.vocab_size)]
        if len(outside):
            raise TokenizerError(
                f"{self.path}: the token id {outside[0]} is outside the model's vocabulary of"
                f" {self.config.vocab_size}; the tokenizer has more tokens than the model, or is another's"
            )
        self._source.check_tensor("embedding")
        stored = self._source.stored("embedding")
        out = np.empty((len(ids), 4 * self.config.dim), dtype=np.uint8)
        _convert(out, ElementType.F32, stored.rows[ids], stored, len(ids) * self.config.dim)
        return out.view(np.float32)

    def check(self) -> None:
        """Raises ModelFileError when a file has been written to since it was opened: to be asked once all is read, and
        where reading has failed, since a map of such a file has no bytes for the system to send."""
        self._source.check()

    def let_go(self) -> None:
        """Gives mapped pages back to the system; views that `read` returned stay valid."""
        self._source.let_go()

    def close(self) -> None:
        """Ends the use of the files; views that `read` returned stay valid."""
        self._source.close()


def open_checkpoint(path: Path, weight_type: ElementType | None = None) -> Checkpoint:
    """The model in a `.m` file, in a Hugging Face directory, or in its folder in the Hub's cache. Reads headers, no
    weights.

    `weight_type` is what a directory's weights become, q40 when it is None. A `.m` file has a type of its
    own, and a different `weight_type` is a UsageError; so is q40 or q80 where rows are not whole blocks.
    Raises ModelFileError or UnsupportedModelError for whatever is wrong with the files.
    """
    assert weight_type is None or weight_type in WEIGHT_TYPES, weight_type
    try:
        is_directory = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError as error:
        raise missing(path) from error
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error
    if path.suffix in (".safetensors", ".json") and not is_directory:
        raise UsageError(f"{path}: is a part of a model; give the directory that it lies in")
    if not is_directory:
        m_source = MSource(path, weight_type)
        return Checkpoint(path, m_source.config, m_source, m_source.pairs)
    folder = model_folder(path)
    if not os.path.lexists(folder / CONFIG_FILE):
        instead = what_instead(folder)
        if instead is not None:
            raise UnsupportedModelError(f"{path}: {instead}")
    source = HfSource(folder, DEFAULT_WEIGHT_TYPE if weight_type is None else weight_type)
    checkpoint = Checkpoint(path, source.config, source)
    _check_blocks(checkpoint)
    return checkpoint


def _check_blocks(checkpoint: Checkpoint) -> None:
    for spec in checkpoint.tensors.values():
        if not spec.fits_blocks:
            raise UsageError(
                f"{checkpoint.path}: {spec.name} has rows of {spec.n_cols} elements, and {spec.dtype.label}"
                f" needs multiples of {BLOCK}; use the weight type f16 or f32"
            )


def _take(stored: StoredMatrix, rows: tuple[int, int], cols: tuple[int, int]) -> NDArray[np.uint8]:
    """Bytes of our rows and columns: a view where the file has them in our order, else a copy."""
    start, stop = row_bytes(stored.dtype, cols[0]), row_bytes(stored.dtype, cols[1])
    head_width = stored.half_pairs_width
    if head_width is None:
        return stored.rows[rows[0] : rows[1], start:stop]
    return stored.rows[_rows_in_halves(np.arange(*rows), head_width), start:stop]


def _rows_in_halves(rows: NDArray[np.int64], head_width: int) -> NDArray[np.int64]:
    """Where rows of our order, adjacent pairs, lie in Hugging Face's order, halves.

    Within a head, our row 2 j + s is its row s E/2 + j.
    """
    head, within = np.divmod(rows, head_width)
    pair, side = np.divmod(within, 2)
    stored: NDArray[np.int64] = head * head_width + side * (head_width // 2) + pair
    return stored


def _convert(
    out: NDArray[np.uint8], dtype: ElementType, part: NDArray[np.uint8], stored: StoredMatrix, n_elements: int
) -> None:
    src = np.ascontiguousarray(part).reshape(-1).data
    if not convert(out.reshape(-1), dtype, src, stored.dtype, n_elements):
        raise NumericalError(
            f"{stored.where}: has NaN, infinity or a number too large for {dtype.label};"
            " the file is damaged, or take another weight type"
        )
