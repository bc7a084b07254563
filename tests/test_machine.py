import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import metaaligner_lite

PACKAGE = Path(metaaligner_lite.__file__).parent


def imports(root: Path) -> dict[str, set[str]]:
    """Which modules of a package each one imports, inside functions too; types alone do not count."""
    paths = {".".join(path.relative_to(root.parent).with_suffix("").parts): path for path in root.rglob("*.py")}
    found = {}
    for name, path in paths.items():
        package = name.removesuffix(".__init__").split(".") if path.stem == "__init__" else name.split(".")[:-1]
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for block in [node for node in ast.walk(tree) if isinstance(node, ast.If)]:
            if getattr(block.test, "id", "") == "TYPE_CHECKING":
                block.body = []
        found[name] = set()
        for node in [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            source = ".".join(part for part in base if part)
            for alias in node.names:  # a module of that package, or a name in its __init__ or in the module itself
                wanted = (f"{source}.{alias.name}", f"{source}.{alias.name}.__init__", source, f"{source}.__init__")
                found[name].add(next(module for module in wanted if module in paths))
    return found


def test_no_module_imports_itself_by_way_of_others():
    list(TopologicalSorter(imports(PACKAGE)).static_order())


def test_a_circle_would_be_found(tmp_path):
    package = tmp_path / "p"
    (package / "sub").mkdir(parents=True)
    for name, text in {
        "__init__": "",
        "a": "from .sub import b\n",
        "sub/__init__": "",
        "sub/b": "def f():\n    from ..a import g\n",
    }.items():
        (package / f"{name}.py").write_text(text)
    with pytest.raises(CycleError):
        list(TopologicalSorter(imports(package)).static_order())
    (package / "sub" / "b.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..a import g\n")
    list(TopologicalSorter(imports(package)).static_order())
