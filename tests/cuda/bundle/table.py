#!/usr/bin/env python3
"""Make tables of a results.jsonl: table.py FILE."""

import json
import sys


def cell(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def main():
    parts = {}
    for line in open(sys.argv[1]):
        record = json.loads(line)
        result = record["result"]
        # A nested result is shown flat.
        inner = result.pop("result", None)
        parts.setdefault(record["part"], []).append({**result, **(inner or {})})
    for part, rows in parts.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        print(f"## {part}\n")
        print("| " + " | ".join(columns) + " |")
        print("|" + "---|" * len(columns))
        for row in rows:
            print("| " + " | ".join(cell(row.get(column)) for column in columns) + " |")
        print()
    shares = [(part, row) for part, rows in parts.items() for row in rows
              for key, value in row.items() if key.startswith("share") and value and value > 1]
    for part, row in shares:
        print(f"IMPOSSIBLE: above what the card can do: {part} {row}")
    return 1 if shares else 0


if __name__ == "__main__":
    sys.exit(main())
