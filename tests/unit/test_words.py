"""Words of the code: what docstrings begin with."""

import ast
import re
from pathlib import Path

import circuitcli

FILES = sorted(Path(circuitcli.__file__).parent.rglob("*.py"))
# As of “E of each firing”, where the text below says e; but not “A model”.
VARIABLE = re.compile(r"[B-HJ-Z]\d?\b(?!-)")


def docstrings(path: Path) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, kinds))
    return [text for node in nodes if (text := ast.get_docstring(node))]


def test_no_docstring_makes_a_capital_of_a_variable() -> None:
    texts = [(path, text) for path in FILES for text in docstrings(path)]
    assert len(texts) > 1000
    assert not [(path.name, text[:60]) for path, text in texts if VARIABLE.match(text)]
