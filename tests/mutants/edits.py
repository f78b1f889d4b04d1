"""What a mutation does to the sources: dict(name, edits=[(file, text, replacement)], ...)."""

import sys


def applied(mutation, root):
    """The files under `root` that a mutation changes, with their new text; or why it does not apply."""
    files = {}
    for name, text, replacement in mutation["edits"]:
        path = root / name
        if not path.exists():
            return None, f"{name} does not exist"
        source = files.get(name) or path.read_text()
        if (count := source.count(text)) != 1:
            return None, f"{name} has {count} places like {text.strip()[:60]!r}, expected one"
        files[name] = source.replace(text, replacement)
    return files, None


def check(mutations, root, program):
    """Whether all apply; says which do not."""
    problems = [(m["name"], problem) for m in mutations if (problem := applied(m, root)[1])]
    for name, problem in problems:
        print(f"{program}: {name}: {problem}", file=sys.stderr)
    return not problems
