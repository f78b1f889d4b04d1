#!/usr/bin/env python3
"""Compare what the gateway gives in bf16 with what transformers gives in float32, on one checkpoint.

    gate.py --gapura FILE --device cuda|interpreter --plugins DIR --weights DIR

Both score the same prompts of random tokens. The differences of the logprobs must be small, and no
more than half as large again as those of transformers' own bf16. Exit code 1 where they are not.
Without a GPU the gateway scores on the CPU, and nothing is compared.
"""

import argparse
import http.client
import json
import random
import sys

from serve import gateway

PROMPTS, TOKENS = 12, 400
# The ids of single bytes in the vocabulary that bench_device gives its checkpoints; 2 is <bos>.
IDS = range(6, 262)
MOST_MEAN, MOST_P99, MOST_OF_PEER = 0.06, 0.20, 1.5


def scored_by_gateway(port, prompts):
    scores = []
    for prompt in prompts:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        body = {"model": "template", "prompt": prompt, "echo": True, "logprobs": 0, "max_tokens": 0}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        if response.status != 200:
            sys.exit(f"gate.py: the gateway answered {response.status}: {text[:300]!r}")
        found = json.loads(text)["choices"][0]["logprobs"]["token_logprobs"]
        if len(found) != len(prompt):
            sys.exit(f"gate.py: {len(found)} logprobs for {len(prompt)} tokens")
        scores += found[1:]
    return scores


def scored_by_transformers(weights, dtype, prompts):
    import torch
    import transformers
    model = transformers.Gemma2ForCausalLM.from_pretrained(weights, dtype=getattr(torch, dtype), attn_implementation="eager")
    model = model.to("cuda").eval()
    scores = []
    with torch.no_grad():
        for prompt in prompts:
            ids = torch.tensor([prompt], device="cuda")
            logprobs = model(ids).logits[0, :-1].float().log_softmax(-1)
            scores += logprobs.gather(-1, ids[0, 1:, None])[:, 0].tolist()
    del model
    torch.cuda.empty_cache()
    return scores


def differences(found, expected):
    """Their mean, and what one in a hundred is above."""
    all_ = sorted(abs(a - b) for a, b in zip(found, expected, strict=True))
    return sum(all_) / len(all_), all_[len(all_) * 99 // 100]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("gapura", "device", "plugins", "weights"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    is_cuda = args.device == "cuda"
    draw = random.Random(2)
    prompts = [[2, *draw.choices(IDS, k=TOKENS)] for _ in range(PROMPTS)]
    with gateway(args.gapura, "cuda" if is_cuda else "cpu", args.weights, args.plugins) as port:
        ours = scored_by_gateway(port, prompts)
    result = {"logprobs": len(ours), "mean_logprob": sum(ours) / len(ours)}
    passes = True
    if is_cuda:
        expected = scored_by_transformers(args.weights, "float32", prompts)
        mean, p99 = differences(ours, expected)
        peer_mean, peer_p99 = differences(scored_by_transformers(args.weights, "bfloat16", prompts), expected)
        passes = mean <= MOST_MEAN and p99 <= MOST_P99 and mean <= MOST_OF_PEER * peer_mean
        result |= {"mean": mean, "p99": p99, "transformers_bf16_mean": peer_mean, "transformers_bf16_p99": peer_p99, "passes": passes}
    print(json.dumps({"part": "gate", "result": result}), flush=True)
    return 0 if passes else 1


if __name__ == "__main__":
    sys.exit(main())
