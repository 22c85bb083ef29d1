"""GGUF files (github.com/ggml-org/ggml, docs/gguf.md): the models of llama.cpp.

file = GgufFile(path)                                     # the first part leads to the others
file.metadata.need("general.architecture", str)           # an error that names file and key when it is not there
file.metadata.find("tokenizer.ggml.add_bos_token", bool)  # None when it is not there
file.metadata.need("tokenizer.ggml.tokens", Texts).as_text()
file.tensors["blk.0.attn_q.weight"].shape                 # [out, in]
file.bytes_of("blk.0.attn_q.weight")                      # a view of the map

`dequantize` reads those types that are none of dllama's element types; kernels/blocks.py decodes the others.
"""

from dllama.formats.gguf.dequantize import can_dequantize, dequantize
from dllama.formats.gguf.file import GgufFile
from dllama.formats.gguf.header import GgufTensor
from dllama.formats.gguf.metadata import Metadata, Texts, Value, ValueType
from dllama.formats.gguf.types import GgmlType

__all__ = [
    "GgmlType",
    "GgufFile",
    "GgufTensor",
    "Metadata",
    "Texts",
    "Value",
    "ValueType",
    "can_dequantize",
    "dequantize",
]
