"""Finds, in Python source, what qlab must not use: torch's own, deprecated quantization."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

#: Dotted names that qlab may not touch; what hangs below a name is banned with it.
BANNED = (
    "torch.*",
    "torch.ao",
    "torch.quantization",
    "torch.nn.intrinsic",
    "torch.nn.qat",
    "torch.nn.quantizable",
    "torch.nn.quantized",
    "torch.quint8",
    "torch.qint8",
    "torch.qint32",
    "torch.quint4x2",
    "torch.quint2x4",
    "torch.ops.quantized",
    "torch.ops.quantized_decomposed",
)
#: Names that begin like this are banned whatever follows.
BANNED_PREFIXES = ("torch.quantize_per_", "torch.ops.aten.quantize_per_", "torch.quantized_")

IMPORTERS = ("importlib.import_module", "import_module", "__import__")


@dataclass(frozen=True)
class Finding:
    """A banned name and the line that uses it."""

    name: str
    line: int


def is_banned(name: str) -> bool:
    """Whether a dotted name is banned, itself or by what it hangs below."""
    below = any(name == banned or name.startswith(f"{banned}.") for banned in BANNED)
    return below or name.startswith(BANNED_PREFIXES)


def banned_uses(source: str) -> list[Finding]:
    """Every banned import, attribute, `getattr` and dynamic import in `source`."""
    tree = ast.parse(source)
    aliases = _aliases(tree)
    found = {
        Finding(name, node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt | ast.expr)
        for name in _names(node, aliases)
        if is_banned(name)
    }
    return sorted(found, key=lambda finding: (finding.line, finding.name))


def _aliases(tree: ast.AST) -> dict[str, str]:
    """Local names bound by an import or a plain assignment, and the dotted names behind them."""
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            aliases |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Assign) and (name := _dotted(node.value, aliases)):
            targets = [target.id for target in node.targets if isinstance(target, ast.Name)]
            aliases |= dict.fromkeys((t for t in targets if name.startswith("torch.")), name)
    return aliases


def _names(node: ast.AST, aliases: dict[str, str]) -> Iterator[str]:
    """The dotted names that one node imports or reads."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Attribute | ast.Call) and (name := _dotted(node, aliases)):
        yield name


def _dotted(node: ast.AST, aliases: dict[str, str]) -> str | None:
    """`a.b.c` for an attribute chain, a `getattr` or a dynamic import with literal names."""
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        owner = _dotted(node.value, aliases)
        return owner and f"{owner}.{node.attr}"
    if isinstance(node, ast.Call):
        called = _dotted(node.func, aliases)
        literals = [a.value for a in node.args if isinstance(a, ast.Constant)]
        if called in IMPORTERS and literals:
            return str(literals[0])
        if called == "getattr" and literals and (owner := _dotted(node.args[0], aliases)):
            return f"{owner}.{literals[0]}"
    return None
