#!/usr/bin/env python3
"""Write a small right GGUF file for the fuzzer to begin with: seed_gguf.py FILE."""

import struct
import sys

U32, F32, STRING, ARRAY, I32 = 4, 6, 8, 9, 5


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def entry(key, kind, value):
    if kind == STRING:
        data = text(value)
    elif kind == ARRAY:
        inner, items = value
        data = struct.pack("<IQ", inner, len(items))
        data += b"".join(text(i) if inner == STRING else struct.pack("<i", i) for i in items)
    else:
        data = struct.pack({U32: "<I", F32: "<f"}[kind], value)
    return text(key) + struct.pack("<I", kind) + data


def main():
    sizes = {"context_length": 64, "embedding_length": 32, "block_count": 1, "feed_forward_length": 64,
             "attention.head_count": 2, "attention.head_count_kv": 1, "rope.dimension_count": 16}
    metadata = [entry("general.architecture", STRING, "llama")]
    metadata += [entry(f"llama.{key}", U32, value) for key, value in sizes.items()]
    metadata += [
        entry("llama.rope.freq_base", F32, 500.0), entry("tokenizer.ggml.model", STRING, "gpt2"),
        entry("tokenizer.ggml.pre", STRING, "smollm"),
        entry("tokenizer.ggml.tokens", ARRAY, (STRING, ["<|im_end|>", "a", "b", "ab", "Ġ"])),
        entry("tokenizer.ggml.token_type", ARRAY, (I32, [3, 1, 1, 1, 1])),
        entry("tokenizer.ggml.merges", ARRAY, (STRING, ["a b"])), entry("tokenizer.ggml.eos_token_id", U32, 0),
    ]
    shapes = {"token_embd.weight": [32, 5], "output_norm.weight": [32]}
    for name, shape in {"attn_norm": [32], "attn_q": [32, 32], "attn_k": [32, 16], "attn_v": [32, 16], "attn_output": [32, 32],
                        "ffn_norm": [32], "ffn_gate": [32, 64], "ffn_up": [32, 64], "ffn_down": [64, 32]}.items():
        shapes[f"blk.0.{name}.weight"] = shape
    tensors, data = b"", b""
    for name, shape in shapes.items():
        count = 1
        for size in shape:
            count *= size
        tensors += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        data += struct.pack(f"<{count}f", *(0.01 * (i % 7) for i in range(count)))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(metadata)) + b"".join(metadata) + tensors
    with open(sys.argv[1], "wb") as file:
        file.write(head + bytes(-len(head) % 32) + data)


if __name__ == "__main__":
    main()
