"""The ways in which a line may be wrong: each mutant differs from the module in one expression or statement.

Left alone are texts for people (docstrings, messages: all that holds a blank), annotations, `assert`, which stands for
the type checker, and `zip(strict=True)`, which stands for what the code before it has made certain.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

COMPARED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
COMPUTED: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Pow: ast.Mult,
}
CALLED: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}
"""Functions that are easily taken for each other."""
_LONGEST: Final = 100
_AROUND: Final = 30
"""Characters, as that above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A change of a module. `name` says where and what, and stays the same when other lines move.

    `place` and `number` are those of the node among all, and of the change among those of the node.
    """

    module: str
    name: str
    line: int
    place: int
    number: int


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """Give every mutant of a module, in the order of its lines."""
    seen: Counter[str] = Counter()
    for place, node in enumerate(_nodes(ast.parse(source))):
        for number, change in enumerate(_changes(node.inner)):
            twin = copy.deepcopy(node.shown)
            own = list(ast.walk(node.shown)).index(node.inner)
            before, after = _apart(_shown(node.shown), _shown(_changed(twin, list(ast.walk(twin))[own], change)))
            name = f"{module} {node.scope}: {before} -> {after}"
            seen[name] += 1
            told = name if seen[name] == 1 else f"{name} ({seen[name]})"
            line = getattr(node.inner, "lineno", 0)
            yield Mutant(module=module, name=told, line=line, place=place, number=number)


def mutated(mutant: Mutant, source: str) -> ast.Module:
    """Return the module with the change."""
    tree = ast.parse(source)
    node = _nodes(tree)[mutant.place].inner
    _changed(tree, node, _changes(node)[mutant.number])
    return ast.fix_missing_locations(tree)


@dataclass(frozen=True, slots=True)
class _Node:
    """A node that may be changed, the function or class that it is in, and what shows it: itself, or its parent."""

    inner: ast.AST
    scope: str
    shown: ast.AST


_LEAVES: Final = (ast.Constant, ast.Slice, ast.Compare, ast.BinOp, ast.UnaryOp)
_PARENTS: Final = (ast.expr, ast.Assign, ast.AnnAssign, ast.Return, ast.AugAssign)
_UNREAD: Final = ("annotation", "returns", "type_params", "decorator_list", "bases", "type_comment")
"""The fields of nodes that no test can notice at run time."""


def _nodes(tree: ast.Module) -> list[_Node]:
    """Return all that may be changed."""
    found: list[_Node] = []

    def walk(node: ast.AST, parent: ast.AST, scope: str) -> None:
        if isinstance(node, ast.Assert | ast.Import | ast.ImportFrom) or _is_for_types(node) or _is_text(node):
            return
        if _is_certain(node):
            return
        shown = parent if isinstance(node, _LEAVES) and isinstance(parent, _PARENTS) else node
        found.append(_Node(node, scope or "module", shown))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            scope = f"{scope}.{node.name}" if scope else node.name
        for name, value in ast.iter_fields(node):
            if name not in _UNREAD:
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        walk(child, node, scope)

    walk(tree, tree, "")
    return found


def _is_text(node: ast.AST) -> bool:
    """Whether it is a docstring, of whatever it stands behind."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_certain(node: ast.AST) -> bool:
    """Whether it is the `strict=True` of a zip."""
    return (
        isinstance(node, ast.keyword)
        and node.arg == "strict"
        and isinstance(node.value, ast.Constant)
        and node.value.value is True
    )


def _is_for_types(node: ast.AST) -> bool:
    """Whether a statement is a type alias or a variable of types, which nothing at run time reads."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.annotation, ast.Name):
        return node.annotation.id == "TypeAlias"
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
        return node.value.func.id in ("TypeVar", "ParamSpec")
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name):
        return node.test.id == "TYPE_CHECKING"
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == "__slots__" for target in targets)


Change = Callable[[Any], "ast.AST | None"]
"""Gives what stands in the place of a node, or None where it has changed the node itself."""


def _changes(node: ast.AST) -> list[Change]:
    """Return the changes of a node."""
    found = _OF.get(type(node))
    return found(node) if found is not None else []


def _of_constant(node: ast.Constant) -> list[Change]:
    match node.value:
        case bool():
            return [lambda node: ast.Constant(not node.value)]
        case int() | float():
            return [lambda node: ast.Constant(node.value + 1)]
        case str(text) if " " not in text:
            return [lambda node: ast.Constant(f"{node.value}X")]
        case bytes(text) if b" " not in text:
            return [lambda node: ast.Constant(node.value + b"X")]
        case _:
            return []


def _of_return(node: ast.Return) -> list[Change]:
    is_plain = node.value is None or isinstance(node.value, ast.Constant | ast.Tuple | ast.List | ast.Dict)
    return [] if is_plain else [_none]


def _of_call(node: ast.Call) -> list[Change]:
    return [_call] if isinstance(node.func, ast.Name) and node.func.id in CALLED else []


_OF: Final[dict[type[ast.AST], Callable[[Any], list[Change]]]] = {
    ast.Compare: lambda node: [_compare(at) for at, op in enumerate(node.ops) if type(op) in COMPARED],
    ast.BoolOp: lambda node: [_other_word, *(_without(at) for at in range(len(node.values)))],
    ast.UnaryOp: lambda node: [_operand] if isinstance(node.op, ast.Not) else [],
    ast.BinOp: lambda node: [_compute] if type(node.op) in COMPUTED else [],
    ast.AugAssign: lambda node: [_nothing, *([_compute] if type(node.op) in COMPUTED else [])],
    ast.Constant: _of_constant,
    ast.Return: _of_return,
    ast.Call: _of_call,
    ast.Expr: lambda node: [_nothing] if isinstance(node.value, ast.Call | ast.Await) else [],
    ast.Raise: lambda _: [_nothing],
    ast.Delete: lambda _: [_nothing],
    ast.Continue: lambda _: [lambda _: ast.Break()],
    ast.Break: lambda _: [lambda _: ast.Continue()],
    ast.IfExp: lambda _: [lambda node: node.body, lambda node: node.orelse],
    ast.Slice: lambda node: [_all_of_it] if node.lower or node.upper else [],
}


def _compare(at: int) -> Change:
    def change(node: ast.Compare) -> None:
        node.ops[at] = COMPARED[type(node.ops[at])]()

    return change


def _without(at: int) -> Change:
    def change(node: ast.BoolOp) -> ast.AST | None:
        del node.values[at]
        return node.values[0] if len(node.values) == 1 else None

    return change


def _other_word(node: ast.BoolOp) -> None:
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()


def _compute(node: ast.BinOp | ast.AugAssign) -> None:
    node.op = COMPUTED[type(node.op)]()


def _call(node: ast.Call) -> None:
    assert isinstance(node.func, ast.Name)
    node.func = ast.Name(CALLED[node.func.id], ast.Load())


def _operand(node: ast.UnaryOp) -> ast.AST:
    return node.operand


def _all_of_it(node: ast.Slice) -> ast.AST:
    return ast.Slice(None, None, node.step)


def _none(_: ast.AST) -> ast.AST:
    return ast.Return(ast.Constant(None))


def _nothing(_: ast.AST) -> ast.AST:
    return ast.Pass()


def _changed(root: ast.AST, node: ast.AST, change: Change) -> ast.AST:
    """Make the change below `root`; returns what is there now, which is another node where `node` was the root."""
    other = change(node)
    if other is None:
        return root
    changed: ast.AST = _Replaced(node, ast.copy_location(other, node)).visit(root)
    return changed


class _Replaced(ast.NodeTransformer):
    """Puts a node in the place of another one."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self._old, self._new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        """See ast.NodeTransformer."""
        if node is self._old:
            return self._new
        visited: ast.AST = self.generic_visit(node)
        return visited


def _shown(node: ast.AST) -> str:
    """Return a node as one line of code."""
    return " ".join(ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).split())


def _alike(one: str, other: str) -> int:
    """Return how many characters two texts begin with are the same."""
    length = min(len(one), len(other))
    return next((at for at in range(length) if one[at] != other[at]), length)


def _apart(before: str, after: str) -> tuple[str, str]:
    """Return two lines of code; of long ones what differs, and a little around it."""
    if max(len(before), len(after)) <= _LONGEST:
        return before, after
    first = _alike(before, after)
    last = _alike(before[first:][::-1], after[first:][::-1])
    begin = max(0, first - _AROUND)

    def part(text: str) -> str:
        end = min(len(text), len(text) - last + _AROUND)
        middle = text[begin:end] if end - begin <= _LONGEST else f"{text[begin : begin + _LONGEST]}…"
        return f"{'…' if begin else ''}{middle}{'…' if end < len(text) and not middle.endswith('…') else ''}"

    return part(before), part(after)
