#!/usr/bin/env python3
"""Talks to a running gateway with the official OpenAI client.

    pip install openai
    python chat.py [--base-url http://127.0.0.1:8000/v1] [--model chat] [question]
"""

import argparse
import json

from openai import OpenAI


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask a question, once whole and once streamed, and for JSON.")
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", default="chat", help="a route's name, or the model's")
    parser.add_argument("--api-key", default="none", help="ignored by a gateway without keys")
    parser.add_argument("question", nargs="?", default="Why is the sky blue?")
    args = parser.parse_args()

    client = OpenAI(base_url=args.base_url, api_key=args.api_key)
    messages = [{"role": "user", "content": args.question}]

    whole = client.chat.completions.create(
        model=args.model, messages=messages, max_tokens=64, temperature=0
    )
    print("whole:   ", whole.choices[0].message.content)
    print("usage:   ", whole.usage.prompt_tokens, "+", whole.usage.completion_tokens, "tokens")

    print("streamed: ", end="", flush=True)
    stream = client.chat.completions.create(
        model=args.model,
        messages=messages,
        max_tokens=64,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        elif chunk.usage:
            print(f"\nusage:    {chunk.usage.prompt_tokens} + {chunk.usage.completion_tokens} tokens")

    city = client.chat.completions.create(
        model=args.model,
        messages=[{"role": "user", "content": "Give me a city of Central Java as JSON."}],
        max_tokens=64,
        temperature=0,
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "city",
                "strict": True,
                "schema": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string", "maxLength": 30},
                        "population": {"type": "integer", "minimum": 0, "maximum": 99_999_999},
                    },
                    "required": ["name", "population"],
                    "additionalProperties": False,
                },
            },
        },
    )
    print("as JSON: ", json.loads(city.choices[0].message.content))


if __name__ == "__main__":
    main()
