"""Makes `names.json`: the public names that each module of torch 2.13's quantization defines.

Never run by the suite: ``python -m tests.golden.make_names``. Read off the source files, so that
constants and type aliases count; a name that starts with an underscore does not. The sparse
modules and pruning are other subjects.
"""

import ast
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

PATH = Path(__file__).with_name("names.json")
ROOT = Path(torch.__file__).with_name("ao")
PARTS = ("nn", "ns", "quantization")
LEFT_OUT = ("nn.sparse", "quantization.pt2e")


def defined(statements: Iterable[ast.stmt]) -> Iterator[str]:
    """Names that statements of a module bind, imports left out."""
    for statement in statements:
        match statement:
            case ast.FunctionDef() | ast.ClassDef():
                yield statement.name
            case ast.Assign():
                for target in statement.targets:
                    yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.If() | ast.Try():
                yield from defined(statement.body)


def main() -> None:
    """Writes the file."""
    found: dict[str, list[str]] = {}
    for part in PARTS:
        for path in sorted((ROOT / part).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            module = module.removesuffix(".__init__")
            if not module.startswith(LEFT_OUT):
                names = set(defined(ast.parse(path.read_text(encoding="utf-8")).body))
                found[module] = sorted(name for name in names if not name.startswith("_"))
    lines = ",\n".join(f"{json.dumps(m)}: {json.dumps(names)}" for m, names in found.items())
    PATH.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    print(f"{len(found)} modules, {sum(map(len, found.values()))} names")


if __name__ == "__main__":
    main()
