#!/usr/bin/env python3
"""Write the reference's token ids of corpus.jsonl: gemma2.ids, gemma3.ids, smollm2.ids.

    python3 tests/tokenizer/make_ids.py

Gemma 2's are those of the `tokenizers` package with the model's own tokenizer.json; Gemma 3's and
SmolLM2's those of llama.cpp with the vocabulary inside their GGUF files. For each text there are
two lists: with the names of special tokens read as text, and read as special tokens.

A file is a list of lists of numbers: each number 7 bits a byte, low bits first, the high bit set
on all bytes but the last; before each list its length. The second list has the length 0 plus the
flag 1 where it is the same: lengths are written doubled, and odd means "as the one before".
"""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "verify"))

import fetch_gemma2  # noqa: E402
import llamacpp_env  # noqa: E402

TOKENIZERS = "tokenizers==0.22.1"
CORPUS = [json.loads(line) for line in (HERE / "corpus.jsonl").read_text().splitlines()]


def by_tokenizers():
    """(text, special) lists by the tokenizers package; run under its environment."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(fetch_gemma2.FOLDER / "tokenizer.json"))
    lists = []
    for text in CORPUS:
        pair = []
        for as_text in (True, False):
            tokenizer.encode_special_tokens = as_text
            pair.append(tokenizer.encode(text, add_special_tokens=False).ids)
        lists.append(pair)
    return lists


def by_llamacpp(name):
    """The same by llama.cpp; run under its environment."""
    import llama_cpp

    llm = llama_cpp.Llama(str(llamacpp_env.MODELS[name]), vocab_only=True, verbose=False)
    # llama.cpp takes `</s>` for an end token wherever a vocabulary has it. In Gemma's it is a tag
    # of HTML, which the file calls user-defined: one that is cut out of any text before all else.
    tags = llm.tokenize(b"</s>", add_bos=False, special=True) if name == "gemma3" else []

    def as_text(text):
        parts = text.split("</s>") if tags else [text]
        ids = [llm.tokenize(part.encode(), add_bos=False, special=False) for part in parts]
        return sum(([*tags, *part] for part in ids[1:]), ids[0])

    return [[as_text(text), llm.tokenize(text.encode(), add_bos=False, special=True)] for text in CORPUS]


def number(value):
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def packed(lists):
    out = b""
    for text, special in lists:
        out += number(2 * len(text)) + b"".join(map(number, text))
        out += number(1) if special == text else number(2 * len(special)) + b"".join(map(number, special))
    return out


def main():
    if len(sys.argv) == 2:
        lists = by_tokenizers() if sys.argv[1] == "gemma2" else by_llamacpp(sys.argv[1])
        print(json.dumps(lists))
        return
    fetch_gemma2.fetch()
    environment = llamacpp_env.CACHE / "tokenizers-venv"
    if not (environment / "bin/python").exists():
        venv.create(environment, with_pip=True)
        subprocess.run([environment / "bin/python", "-m", "pip", "install", "--quiet", TOKENIZERS], check=True)
    pythons = {"gemma2": environment / "bin/python", "gemma3": llamacpp_env.python(), "smollm2": llamacpp_env.python()}
    for name, python in pythons.items():
        done = subprocess.run([python, __file__, name], check=True, stdout=subprocess.PIPE, env=os.environ)
        lists = json.loads(done.stdout.splitlines()[-1])
        data = packed(lists)
        (HERE / f"{name}.ids").write_bytes(data)
        print(f"{name}: {len(lists)} texts, {sum(len(text) for text, _ in lists)} ids, {len(data)} bytes")


if __name__ == "__main__":
    main()
