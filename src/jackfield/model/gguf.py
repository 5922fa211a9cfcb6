"""GGUF files (llama.cpp): read as a `transformers` model, dequantised, with its tokenizer.

`transformers` reads weights, config and vocabulary. We add two things that it leaves out: the
rule by which text is cut before byte pairs are merged (`tokenizer.ggml.pre`), without which
"  12" becomes other tokens than those the model was trained on, and the longest context.
"""

import contextlib
import io
import mmap
import struct
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jackfield.core.errors import warn
from jackfield.core.extras import need
from jackfield.model.folders import quiet, readable

# Names of cutting rules (llama.cpp's src/llama-vocab.cpp). Each digit alone, then GPT-2's regex:
SINGLE_DIGITS = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"})
# GPT-2's regex only, which is what `transformers` gives to every rule that it does not know:
PLAIN = frozenset({"gpt-2", "phi-2", "mpt", "olmo", "jais"})

_OPENABLE = "a GGUF file that transformers can read"


def open_gguf(
    path: Path, *, dtype: torch.dtype | None = None, device_map: Any = None
) -> tuple[nn.Module, Any]:
    """The module (eval mode, dense weights in `dtype`, default float32) and the tokenizer.

    Raises:
        SourceError: the file is damaged or of an architecture that `transformers` cannot read.
        MissingExtraError: the package gguf or accelerate is not installed.
    """
    need("gguf", extra="all", purpose="Reading a .gguf file")
    need("accelerate", extra="accelerate", purpose="Reading a .gguf file")
    import transformers

    models: Any = transformers.AutoModelForCausalLM
    tokenizers: Any = transformers.AutoTokenizer
    file = {"gguf_file": path.name, "local_files_only": True}
    # Newer versions would keep the weights packed where they can; ours are to be read and edited.
    packing = getattr(transformers, "GgufConfig", None)
    dense = {"quantization_config": packing(dequantize=True)} if packing else {}
    # The loader draws its own progress bar, which no setting turns off.
    with readable(path, _OPENABLE), quiet(), contextlib.redirect_stderr(io.StringIO()):
        module = models.from_pretrained(
            path.parent, dtype=dtype or torch.float32, device_map=device_map, **file, **dense
        )
        tokenizer = tokenizers.from_pretrained(path.parent, **file)
    tokenizer.model_max_length = module.config.max_position_embeddings
    _mend_cutting_rule(tokenizer, path)
    return module, tokenizer


def convert_gguf(path: Path, folder: Path) -> None:
    """Writes the model of a GGUF file as a folder with safetensors in float32."""
    module: Any
    module, tokenizer = open_gguf(path)
    with quiet():
        module.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _mend_cutting_rule(tokenizer: Any, path: Path) -> None:
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    rule = _text_field(path, "tokenizer.ggml.pre")
    backend = tokenizer.backend_tokenizer
    if rule in SINGLE_DIGITS:
        backend.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
        )
    elif rule is not None and rule not in PLAIN and isinstance(backend.pre_tokenizer, ByteLevel):
        warn(
            f"{path.name}: its rule for cutting text, '{rule}', is not known here and GPT-2's is "
            "used; digits and runs of blanks may become other tokens than in its training."
        )


def _text_field(path: Path, key: str) -> str | None:
    """A string of the header. Each key is stored as length, bytes, type (8: string), value."""
    mark = struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", 8)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = data.find(mark)
        if start < 0:
            return None
        start += len(mark)
        (length,) = struct.unpack_from("<Q", data, start)
        return data[start + 8 : start + 8 + length].decode(errors="replace")
