"""`.m` files of early 2024: nine values in place of keys, and no word on the type of weights."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from dllama.checkpoint import convert_model, open_checkpoint
from dllama.dtypes import ElementType
from dllama.errors import ModelFileError, UsageError
from dllama.formats.m_file import MFile, MKey

GOLDEN = Path(__file__).resolve().parents[2] / "goldens" / "llama-gqa"
KEYS = (
    MKey.DIM, MKey.FFN_DIM, MKey.N_LAYERS, MKey.N_HEADS, MKey.N_KV_HEADS, MKey.N_EXPERTS, MKey.N_ACTIVE_EXPERTS,
    MKey.VOCAB_SIZE, MKey.MAX_SEQ_LEN,
)  # fmt: skip
TYPES = [ElementType.F32, ElementType.F16, ElementType.Q40, ElementType.Q80]


def old_file(tmp_path: Path, weight_type: ElementType) -> tuple[Path, Path]:
    """The golden's model as it is written today, and as it was."""
    new, old = tmp_path / "new.m", tmp_path / "old.m"
    convert_model(open_checkpoint(GOLDEN, weight_type), new)
    file = MFile(new)
    header = struct.pack("<10i", 0xABCD00, *(file.pairs[key] for key in KEYS))
    old.write_bytes(header + file.tensor_bytes.tobytes())
    return new, old


@pytest.mark.parametrize("weight_type", TYPES)
def test_it_is_the_same_model(weight_type: ElementType, tmp_path: Path) -> None:
    new, old = (open_checkpoint(path) for path in old_file(tmp_path, weight_type))
    assert old.model.types.uniform is weight_type
    assert old.config.max_seq_len == new.config.max_seq_len
    for name, tensor in new.tensors.items():
        whole = (0, tensor.n_rows), (0, tensor.n_cols)
        np.testing.assert_array_equal(old.read(name, *whole), new.read(name, *whole), err_msg=name)


def test_bad_input(tmp_path: Path) -> None:
    _, old = old_file(tmp_path, ElementType.Q40)
    with pytest.raises(UsageError, match="its weights are q40, not q80"):
        open_checkpoint(old, ElementType.Q80)
    old.write_bytes(old.read_bytes()[:-1])
    with pytest.raises(ModelFileError, match="its size fits weights of none of the types q40, q80, f16, f32"):
        open_checkpoint(old)
