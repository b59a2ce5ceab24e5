"""Reads the flags of `vllm serve` from vLLM's sources and writes their names and arity as data.

    python tools/vllm_flags.py UNPACKED_VLLM_SOURCES VERSION

Nothing of vLLM is imported (that needs torch): the calls of `add_argument` and the annotations behind them are read as
syntax, by the rules of `vllm/engine/arg_utils.py` (`_compute_kwargs`).
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

TARGET = Path(__file__).parent.parent / "simulator/ghostfleet_simulator/data/vllm_flags.json"
ENGINE = "vllm/engine/arg_utils.py"
FRONTEND = "vllm/entrypoints/common/cli_args.py"
# FrontendArgs._customize_cli_kwargs takes `nargs` away from these.
ONE_VALUE = {"allowed_origins", "allowed_methods", "allowed_headers", "middleware", "disable_access_log_for_endpoints"}

NONE, ONE, OPTIONAL, MANY = "none", "one", "optional", "many"


class Sources:
    """Annotations of vLLM's configuration classes and its type aliases, found without importing them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.classes: dict[str, tuple[dict[str, ast.expr], list[str]]] = {}
        self.aliases: dict[str, ast.expr] = {}
        for path in [*sorted(root.glob("vllm/config/**/*.py")), root / ENGINE, root / FRONTEND]:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    fields = {
                        item.target.id: item.annotation
                        for item in node.body
                        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
                    }
                    self.classes.setdefault(node.name, (fields, [ast.unparse(base) for base in node.bases]))
        for path in sorted(root.glob("vllm/**/*.py")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    self.aliases.setdefault(node.targets[0].id, node.value)
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                    self.aliases.setdefault(node.target.id, node.value)

    def fields(self, name: str) -> dict[str, ast.expr]:
        """Annotations of a class and its bases."""
        own, bases = self.classes[name]
        return {k: v for base in bases if base in self.classes for k, v in self.fields(base).items()} | own

    def hints(self, annotation: ast.expr) -> set[str]:
        """Names of the types that an annotation is a union of; a subscript counts by its origin."""
        match annotation:
            case ast.Constant(value=str(text)):
                inner = [ast.parse(text, mode="eval").body]
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                inner = [left, right]
            case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[first, *_])):
                inner = [first]
            case ast.Subscript(value=ast.Name(id="SkipValidation"), slice=first):
                inner = [first]
            case ast.Name(id=name) if isinstance(self.aliases.get(name), ast.Subscript | ast.BinOp):
                inner = [self.aliases[name]]
            case ast.Subscript(value=origin):
                return {ast.unparse(origin)}
            case _:
                return {ast.unparse(annotation)}
        return {hint for part in inner for hint in self.hints(part)}

    def arity(self, annotation: ast.expr) -> str:
        """How many values a flag with this annotation takes."""
        hints = self.hints(annotation)
        if hints == {"bool", "str", "None"}:
            return OPTIONAL
        if any(hint in self.classes for hint in hints):
            return ONE
        if "bool" in hints:
            return NONE
        return MANY if hints & {"list", "set", "tuple"} and "Literal" not in hints else ONE


def called(tree: ast.AST, attribute: str) -> list[ast.Call]:
    """Calls of a method by its name."""
    return [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr == attribute
    ]


def of_call(call: ast.Call, sources: Sources, kwargs: dict[str, str]) -> tuple[str, bool]:
    """Arity of one `add_argument` and whether argparse adds `--no-...` to it."""
    arity, negatable = ONE, False
    for keyword in call.keywords:
        if keyword.arg is None:
            for node in ast.walk(keyword.value):
                if (
                    isinstance(node, ast.Subscript)
                    and isinstance(node.value, ast.Name)
                    and isinstance(node.slice, ast.Constant)
                ):
                    arity = sources.arity(sources.fields(kwargs[node.value.id])[str(node.slice.value)])
                    negatable = arity == NONE
        elif keyword.arg == "action" and "store_true" in ast.unparse(keyword.value):
            arity, negatable = NONE, False
        elif keyword.arg == "action" and "BooleanOptional" in ast.unparse(keyword.value):
            arity, negatable = NONE, True
        elif keyword.arg == "nargs" and isinstance(keyword.value, ast.Constant):
            arity = {"?": OPTIONAL, "+": MANY, "*": MANY}[str(keyword.value.value)]
    return arity, negatable


def flags(sources: Sources) -> list[tuple[list[str], str, bool]]:
    """Every flag of `vllm serve`: its spellings, its arity, whether `--no-...` exists."""
    found = []
    engine, frontend = (ast.parse((sources.root / path).read_text()) for path in (ENGINE, FRONTEND))
    methods = [m for c in engine.body if isinstance(c, ast.ClassDef) for m in c.body if isinstance(m, ast.FunctionDef)]
    makers = [f for f in frontend.body if isinstance(f, ast.FunctionDef) and f.name == "make_arg_parser"]
    for function in [m for m in methods if m.name == "add_cli_args"] + makers:
        kwargs = {
            n.targets[0].id: ast.unparse(n.value.args[0])
            for n in ast.walk(function)
            if isinstance(n, ast.Assign)
            and isinstance(n.targets[0], ast.Name)
            and isinstance(n.value, ast.Call)
            and ast.unparse(n.value.func) == "get_kwargs"
        }
        for call in called(function, "add_argument"):
            names = [str(a.value) for a in call.args if isinstance(a, ast.Constant)]
            if names[0].startswith("-"):
                found.append((names, *of_call(call, sources, kwargs)))
    for name, annotation in sources.fields("FrontendArgs").items():
        arity = ONE if name in ONE_VALUE else sources.arity(annotation)
        found.append((["--" + name.replace("_", "-")], arity, arity == NONE))
    return found


def main() -> None:
    """Writes the data file."""
    root, version = Path(sys.argv[1]), sys.argv[2]
    arity: dict[str, str] = {}
    for names, kind, negatable in flags(Sources(root)):
        arity |= dict.fromkeys(names, kind)
        if negatable:
            arity |= {f"--no-{name[2:]}": kind for name in names if name.startswith("--")}
    data = {"program": "vllm serve", "version": version, "flags": dict(sorted(arity.items()))}
    TARGET.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
