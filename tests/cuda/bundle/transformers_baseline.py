#!/usr/bin/env python3
"""Time transformers' generate on random weights of Gemma 2 9B's shape: what users run today.

    python3 transformers_baseline.py [--batches 1 8 32] [--minutes 8]

float16 (what today's server loads) and bfloat16, eager attention; then a static cache with
torch.compile at batch 1. Decode speed is the time of many new tokens less that of few, of the same
prompts. Each result is one line of JSON, as bench_device prints.
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


def build(dtype):
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


def seconds(model, ids, new_tokens, **options):
    torch.cuda.synchronize()
    start = time.perf_counter()
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=new_tokens,
                         max_new_tokens=new_tokens, **options)
    torch.cuda.synchronize()
    assert out.shape[1] == ids.shape[1] + new_tokens, out.shape
    return time.perf_counter() - start


def measure(model, batch, repetitions=2, **options):
    ids = torch.randint(10, 250000, (batch, PROMPT), device="cuda", generator=torch.Generator("cuda").manual_seed(batch))
    seconds(model, ids, FEW, **options)
    few = min(seconds(model, ids, FEW, **options) for _ in range(repetitions))
    many = min(seconds(model, ids, MANY, **options) for _ in range(repetitions))
    return batch * (MANY - FEW) / (many - few), few


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--minutes", type=float, default=8)
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    versions = dict(torch=torch.__version__, transformers=transformers.__version__, gpu=torch.cuda.get_device_name())
    torch.manual_seed(0)
    with torch.inference_mode():
        for dtype in (torch.float16, torch.bfloat16):
            model = build(dtype)
            for batch in args.batches:
                rate, few = measure(model, batch)
                report(dtype=str(dtype), cache="dynamic", batch=batch, prompt=PROMPT, tokens_per_s=rate,
                       first_tokens_s=few, **versions)
            if dtype == torch.bfloat16 and time.monotonic() < end:
                options = dict(cache_implementation="static")
                rate, few = measure(model, 1, repetitions=1, **options)
                report(dtype=str(dtype), cache="static", compiled="by generate's default", batch=1, prompt=PROMPT,
                       tokens_per_s=rate, first_tokens_s=few, **versions)
                model.forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=False)
                rate, few = measure(model, 1, repetitions=1, **options)
                report(dtype=str(dtype), cache="static", compiled="reduce-overhead", batch=1, prompt=PROMPT,
                       tokens_per_s=rate, first_tokens_s=few, **versions)
            del model
            torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
