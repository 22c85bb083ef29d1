"""GGUF files (github.com/ggml-org/ggml, docs/gguf.md): the models of llama.cpp.

file = GgufFile(path)                                     # the first part leads to the others
file.metadata.need("general.architecture", str)           # an error that names file and key when it is not there
file.metadata.find("tokenizer.ggml.add_bos_token", bool)  # None when it is not there
file.metadata.need("tokenizer.ggml.tokens", Texts).as_text()
file.tensors["blk.0.attn_q.weight"].shape                 # [out, in]
file.bytes_of("blk.0.attn_q.weight")                      # a view of the map

    with write_gguf(path, {"general.architecture": "llama"}, [NewTensor("t", (4, 32), GgmlType.Q8_0)]) as writer:
        writer.write("t", piece)

`dequantize` reads those types that are none of dllama's element types; kernels/blocks.py decodes the others.
"""

from dllama.formats.gguf.dequantize import can_dequantize, dequantize
from dllama.formats.gguf.file import GgufFile
from dllama.formats.gguf.header import GgufTensor
from dllama.formats.gguf.metadata import Metadata, Texts, Value, ValueType
from dllama.formats.gguf.types import GgmlType
from dllama.formats.gguf.writer import GgufWriter, NewTensor, NewValue, as_read, write_gguf

__all__ = [
    "GgmlType",
    "GgufFile",
    "GgufTensor",
    "GgufWriter",
    "Metadata",
    "NewTensor",
    "NewValue",
    "Texts",
    "Value",
    "ValueType",
    "as_read",
    "can_dequantize",
    "dequantize",
    "write_gguf",
]
