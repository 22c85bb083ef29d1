"""One face for a model's weights, whatever file they are in."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dllama.checkpoint.gguf.source import GgufSource
from dllama.checkpoint.hf.source import CONFIG_FILE, HfSource
from dllama.checkpoint.importance import Importance, importance_file, read_importance
from dllama.checkpoint.m.source import MSource
from dllama.checkpoint.meta.files import is_published_so
from dllama.checkpoint.meta.source import MetaSource
from dllama.checkpoint.recipes import Recipe, fill
from dllama.checkpoint.source import TensorSource
from dllama.checkpoint.weight_types import WEIGHT_TYPES
from dllama.dtypes import ElementType, cut_row_bytes
from dllama.errors import ModelFileError, TokenizerError, UnsupportedModelError, UsageError
from dllama.formats.gguf.folder import gguf_file
from dllama.formats.hf_folders import missing, model_folder, what_instead
from dllama.formats.safetensors import has_tensors
from dllama.model import ModelConfig, ModelSpec


class Checkpoint:
    """A model's config and tensors. Every method may be called from several threads at once."""

    def __init__(
        self,
        path: Path,
        model: ModelSpec,
        source: TensorSource,
        header: Mapping[str, str] | None = None,
    ) -> None:
        """`header` is what a file says of itself, for people; None for a directory."""
        self.path = path
        self.model = model
        self.header = header
        self.tensors = model.by_name
        self.importance: Importance = {}
        """What `read` weighs errors by where it quantises; it may be set before the first one."""
        self._source = source

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def recipe(self, name: str) -> Recipe:
        """How the tensor is read, before it becomes the type in which it is used."""
        return self._source.recipe(name)

    def read(
        self,
        name: str,
        rows: tuple[int, int],
        cols: tuple[int, int],
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Rows and columns `[start, stop)` of a tensor, uint8 [n, bytes of a row], in the type that it is used in. Rows
        of a stack are counted through all of its matrices.

        Columns of blocked types start and stop at multiples of 32. Without `out` the result may be a read-only
        view of the map, whose numbers nobody has looked at; `out` (C-contiguous) is always filled and
        checked. Raises NumericalError, naming file and tensor, where converting met NaN, infinity or, for
        F16, a number too large.
        """
        tensor = self.tensors[name]
        assert 0 <= rows[0] <= rows[1] <= tensor.stacked_rows, (name, rows)
        assert 0 <= cols[0] <= cols[1] <= tensor.n_cols, (name, cols)
        recipe = self._source.recipe(name)
        if out is None and recipe.dtype is tensor.dtype:
            return recipe.take(range(*rows), range(*cols))
        shape = (rows[1] - rows[0], cut_row_bytes(tensor.dtype, *cols))
        if out is None:
            out = np.empty(shape, dtype=np.uint8)
        assert out.shape == shape, name
        fill(out, tensor.dtype, recipe, range(*rows), range(*cols), self.importance.get(name))
        return out

    def is_stored(self, name: str) -> bool:
        """Whether `read` of whole rows without `out` is a view of the map: nothing is copied or converted."""
        recipe = self._source.recipe(name)
        return recipe.is_view and recipe.dtype is self.tensors[name].dtype

    @property
    def has_tied_head(self) -> bool:
        """Whether the head is the embedding, which files hold once."""
        return self.recipe("head").where == self.recipe("embedding").where

    def quantises(self, *types: ElementType) -> bool:
        """Whether matrices of these types have another one in the files."""
        return any(
            tensor.is_packed and tensor.dtype in types and self.recipe(name).dtype is not tensor.dtype
            for name, tensor in self.tensors.items()
        )

    def embed(self, token_ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """Rows of the embedding: float32 [T, D]. Raises TokenizerError for an id outside the vocabulary, ModelFileError
        when the file has been written to since it was opened."""
        ids = np.asarray(token_ids, dtype=np.int64).reshape(-1)
        n_known, few = (
            self.config.vocab_size,
            ids.tolist(),
        )  # of one id NumPy takes longer to find the largest
        if few and not 0 <= min(few) <= max(few) < n_known:
            outside = ids[(ids < 0) | (ids >= n_known)]
            raise TokenizerError(
                f"{self.path}: the token id {outside[0]} is outside the model's vocabulary of"
                f" {n_known}; the tokenizer has more tokens than the model, or is another's"
            )
        self._check_embedding()
        out = np.empty((len(ids), 4 * self.config.dim), dtype=np.uint8)
        fill(out, ElementType.F32, self._embedding, ids, range(self.config.dim))
        return out.view(np.float32)

    @functools.cached_property
    def _embedding(self) -> Recipe:
        """Asked for once: a token waits for its row."""
        return self._source.recipe("embedding")

    @functools.cached_property
    def _check_embedding(self) -> Callable[[], None]:
        return self._source.check_of("embedding")

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


def open_checkpoint(
    path: Path, weight_type: ElementType | None = None, *, with_importance: bool = True
) -> Checkpoint:
    """The model in a `.m` or GGUF file, in a Hugging Face directory, or in its folder in the Hub's cache. Reads no
    weights. A directory may hold a GGUF file instead; of a split one, `path` is the first part.

    `weight_type` is what a directory's weights become (weight_types.py) and those of a GGUF file, which otherwise have
    the types that the file has; a directory's have those that hold them where they come quantised, else are iq4nl. A
    `.m` file has a type of its own, and a different `weight_type` is a UsageError; so is a blocked type where rows are
    not whole blocks. Without `with_importance` nobody looks for what is known of the weights that are quantised. Raises
    ModelFileError or UnsupportedModelError for whatever is wrong with the files.
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
    gguf = gguf_file(path)
    if gguf is not None:
        gguf_source = GgufSource(gguf, weight_type)
        checkpoint = Checkpoint(path, gguf_source.model, gguf_source, gguf_source.metadata)
        _check_blocks(checkpoint)
        if with_importance and weight_type is not None:
            _find_importance(checkpoint)
        return checkpoint
    if not is_directory:
        m_source = MSource(path, weight_type)
        return Checkpoint(path, m_source.model, m_source, m_source.header)
    folder = model_folder(path)
    if not has_tensors(folder) and is_published_so(folder):
        meta_source = MetaSource(folder, weight_type)
        return _of_directory(path, meta_source.model, meta_source, with_importance)
    if not os.path.lexists(folder / CONFIG_FILE):
        instead = what_instead(folder)
        if instead is not None:
            raise UnsupportedModelError(f"{path}: {instead}")
    source = HfSource(folder, weight_type)
    return _of_directory(path, source.model, source, with_importance)


def _of_directory(path: Path, model: ModelSpec, source: TensorSource, with_importance: bool) -> Checkpoint:
    checkpoint = Checkpoint(path, model, source)
    _check_blocks(checkpoint)
    if with_importance:
        _find_importance(checkpoint)
    return checkpoint


def _find_importance(checkpoint: Checkpoint) -> None:
    if checkpoint.model.types.is_blocked:
        checkpoint.importance = read_importance(importance_file(checkpoint.path), checkpoint.tensors)


def _check_blocks(checkpoint: Checkpoint) -> None:
    for tensor in checkpoint.tensors.values():
        if not tensor.fits_blocks:
            raise UsageError(
                f"{checkpoint.path}: {tensor.name} has rows of {tensor.n_cols} elements, and {tensor.dtype.label}"
                f" needs multiples of {tensor.dtype.block}; use the weight type f16 or f32"
            )
