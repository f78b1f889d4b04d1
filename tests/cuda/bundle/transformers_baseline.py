#!/usr/bin/env python3
"""Time transformers' generate on a model of Gemma 2 9B's shape: what users run today.

    python3 transformers_baseline.py [--weights DIR] [--batches 1 8 32] [--minutes 8]

float16 (what today's server loads) and bfloat16, eager attention: with the default cache, which
grows; with a static cache; with a static cache and torch.compile, as generate does it by itself.
Most worth comes first. What the minutes do not suffice for is left out, and the last line says so.
Weights are random, or those of a safetensors checkpoint (DIR), such as bench_device writes.
Decode speed is the time of many new tokens less that of few, of the same prompts. Each result is
one line of JSON, as bench_device prints.
"""

import argparse
import json
import sys
import time

import torch
import transformers

PROMPT = 512
FEW, MANY = 8, 72
CONFIG = dict(
    attn_logit_softcapping=50.0, final_logit_softcapping=30.0, head_dim=256, hidden_activation="gelu_pytorch_tanh",
    hidden_size=3584, intermediate_size=14336, max_position_embeddings=8192, num_attention_heads=16,
    num_hidden_layers=42, num_key_value_heads=8, query_pre_attn_scalar=256, rms_norm_eps=1e-6,
    sliding_window=4096, vocab_size=256000, bos_token_id=2, eos_token_id=1, pad_token_id=0,
)


def report(**result):
    print(json.dumps({"part": "transformers", "result": result}), flush=True)


# The least seconds that an entry takes, its warming up and compiling included.
SECONDS = {"dynamic": 20, "static": 30, "compiled": 150}


def build(dtype, weights):
    if weights:
        model = transformers.Gemma2ForCausalLM.from_pretrained(weights, dtype=dtype, attn_implementation="eager")
        return model.to("cuda").eval()
    config = transformers.Gemma2Config(**CONFIG)
    config._attn_implementation = "eager"
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("cuda"):
            model = transformers.Gemma2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval()


def seconds(model, ids, new_tokens, options):
    torch.cuda.synchronize()
    start = time.perf_counter()
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=new_tokens,
                         max_new_tokens=new_tokens, **options)
    torch.cuda.synchronize()
    assert out.shape[1] == ids.shape[1] + new_tokens, out.shape
    return time.perf_counter() - start


def measure(model, kind, batch):
    """Tokens a second while decoding, seconds for the prompts and a few tokens."""
    options = {
        "dynamic": {},
        "static": dict(cache_implementation="static", disable_compile=True),
        "compiled": dict(cache_implementation="static"),
    }[kind]
    if kind == "compiled":
        # Nothing of another batch or dtype, so that shapes are compiled as they are.
        torch._dynamo.reset()
        model.__dict__.pop("_compiled_call", None)
    random = torch.Generator("cuda").manual_seed(batch)
    ids = torch.randint(10, model.config.vocab_size - 10, (batch, PROMPT), device="cuda", generator=random)
    # The longer first: a static cache keeps the greatest length.
    for new_tokens in (MANY, FEW):
        seconds(model, ids, new_tokens, options)
    few = min(seconds(model, ids, FEW, options) for _ in range(2))
    many = min(seconds(model, ids, MANY, options) for _ in range(2))
    return batch * (MANY - FEW) / (many - few), few


def entries(batches):
    """(kind, dtype, batch), most worth first, with few changes of the dtype."""
    bf16, fp16 = torch.bfloat16, torch.float16
    yield from (("dynamic", dtype, batch) for dtype in (bf16, fp16) for batch in batches)
    first, others = batches[0], batches[1:]
    yield from (("static", dtype, first) for dtype in (fp16, bf16))
    yield from (("compiled", dtype, first) for dtype in (bf16, fp16))
    for dtype in (fp16, bf16):
        yield from ((kind, dtype, batch) for kind in ("static", "compiled") for batch in others)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", help="folder of a safetensors checkpoint; without it, random ones")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--minutes", type=float, default=8)
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    torch.manual_seed(0)
    todo = list(entries(args.batches))
    left_out = []
    model = build(todo[0][1], args.weights)
    weights = "of a file" if args.weights else "random"
    report(torch=torch.__version__, transformers=transformers.__version__, gpu=torch.cuda.get_device_name(), weights=weights)
    for kind, dtype, batch in todo:
        name = str(dtype).removeprefix("torch.")
        if time.monotonic() + SECONDS[kind] > end:
            left_out.append(f"{kind} {name} batch {batch}")
            continue
        # In place. What that rounds changes no time.
        model.to(dtype)
        result = dict(dtype=name, kind=kind, batch=batch, prompt=PROMPT)
        try:
            # Compiling knows tensors of inference mode less well.
            with torch.no_grad() if kind == "compiled" else torch.inference_mode():
                rate, few = measure(model, kind, batch)
            result |= dict(tokens_per_s=rate, first_tokens_s=few)
            if kind == "compiled":
                result["is_compiled"] = getattr(model, "_compiled_call", None) is not None
        # One that fails does not keep the others from being measured.
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {error}"[:300]
        report(**result)
        torch.cuda.empty_cache()
    report(left_out=left_out)


if __name__ == "__main__":
    sys.exit(main())
