#!/usr/bin/env python3
"""Write a GGUF file of Gemma 2 9B's shape with random weights in bf16, for llama.cpp to measure.

    random_gguf.py FILE [--tiny]

It has no vocabulary, only the size of one. One block of random values is repeated in every matrix.
"""

import argparse
import struct
from pathlib import Path

import numpy

ALIGNMENT = 32
U32, F32_VALUE, STRING = 4, 6, 8
F32, BF16 = 0, 30
MOSTLY_BF16 = 32
FULL = dict(layers=42, hidden=3584, inner=14336, heads=16, kv_heads=8, head_dim=256, vocab=256000, window=4096, context=8192)
TINY = dict(layers=2, hidden=256, inner=512, heads=4, kv_heads=2, head_dim=64, vocab=512, window=64, context=512)


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def metadata(sizes):
    numbers = {
        "context_length": sizes["context"], "embedding_length": sizes["hidden"], "block_count": sizes["layers"],
        "feed_forward_length": sizes["inner"], "attention.head_count": sizes["heads"],
        "attention.head_count_kv": sizes["kv_heads"], "attention.key_length": sizes["head_dim"],
        "attention.value_length": sizes["head_dim"], "attention.sliding_window": sizes["window"],
        "vocab_size": sizes["vocab"], "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 10000.0,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    }
    values = {"general.architecture": "gemma2", "general.file_type": MOSTLY_BF16, "tokenizer.ggml.model": "none"}
    values |= {f"gemma2.{name}": number for name, number in numbers.items()}
    packed = b""
    for name, value in values.items():
        packed += string(name)
        if isinstance(value, str):
            packed += struct.pack("<I", STRING) + string(value)
        elif isinstance(value, float):
            packed += struct.pack("<If", F32_VALUE, value)
        else:
            packed += struct.pack("<II", U32, value)
    return len(values), packed


def tensors(sizes):
    """(name, shape) as GGUF has them: what lies side by side first."""
    hidden, inner = sizes["hidden"], sizes["inner"]
    q, kv = sizes["heads"] * sizes["head_dim"], sizes["kv_heads"] * sizes["head_dim"]
    yield "token_embd", (hidden, sizes["vocab"])
    yield "output_norm", (hidden,)
    for layer in range(sizes["layers"]):
        for name, shape in {
            "attn_q": (hidden, q), "attn_k": (hidden, kv), "attn_v": (hidden, kv), "attn_output": (q, hidden),
            "ffn_gate": (hidden, inner), "ffn_up": (hidden, inner), "ffn_down": (inner, hidden),
            "attn_norm": (hidden,), "post_attention_norm": (hidden,), "ffn_norm": (hidden,), "post_ffw_norm": (hidden,),
        }.items():
            yield f"blk.{layer}.{name}", shape


def padding(count):
    return b"\0" * (-count % ALIGNMENT)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    sizes = TINY if args.tiny else FULL
    normal = numpy.random.default_rng(2).standard_normal(1 << (20 if args.tiny else 26), numpy.float32) * numpy.float32(0.02)
    # The upper half of a float32 is a bf16; what is cut off does not matter here.
    block = memoryview((normal.view(numpy.uint32) >> 16).astype(numpy.uint16)).cast("B")
    listed = list(tensors(sizes))
    infos, end = b"", 0
    for name, shape in listed:
        kind, size = (F32, 4) if len(shape) == 1 else (BF16, 2)
        infos += string(f"{name}.weight") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, end)
        bytes_ = size * int(numpy.prod(shape))
        end += bytes_ + len(padding(bytes_))
    count, values = metadata(sizes)
    header = b"GGUF" + struct.pack("<IQQ", 3, len(listed), count) + values + infos
    with open(args.file, "wb") as file:
        file.write(header + padding(len(header)))
        for _, shape in listed:
            if len(shape) == 1:
                file.write(numpy.ones(shape, numpy.float32).tobytes())
            else:
                left = 2 * int(numpy.prod(shape))
                while left > 0:
                    left -= file.write(block[:left])
            file.write(padding(file.tell()))


if __name__ == "__main__":
    main()
