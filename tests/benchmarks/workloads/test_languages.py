"""Where functions start and end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.workloads.languages import language_of, pieces

PYTHON = '''\
import os


@cached
@other(
    1,
)
def first(
    a,
):
    def inner():
        return 1

    return inner


class Thing(Base):
    """Doc."""

    size = 1

    @property
    async def read(self):
        return self.size

    async def write(self): ...


VALUE = first()
'''
GO = """\
package main

// Add adds.
// It really does.
func Add(a int) int {
\treturn a
}

type Point struct {
\t// X is one.
\tX int
}

func (p *Point) Len() int {
\tif p == nil {
\t\treturn 0
\t}
\treturn 1
}

var x = 1
"""
RUST = """\
use std::io;

/// Points.
#[derive(Debug)]
pub struct Point {
    /// One.
    x: i32,
}

impl<T> Thing for Point<T>
where
    T: Copy,
{
    pub(crate) async fn read(&self) -> i32 {
        1
    }

    fn write<T>(
        &self,
    ) where
        T: Copy,
    {
        let x = 1;
    }
}

fn main() {}
"""
SCRIPT = """\
import x from 'x';

export class Ky {
\tstatic create(input: Input): Ky {
\t\tif (input) {
\t\t\treturn new Ky();
\t\t}
\t}

\tasync #retry<T>(work: T): Promise<T> {
\t}
}

/**
 * Doubles.
 */
export const double = (n: number) => {
\treturn 2 * n;
};

export default async function main() {
}

test('works', async t => {
\tt.is(1, 1);
});
"""


def named(text: str, path: str) -> dict[str, str]:
    language = language_of(path)
    assert language is not None
    return {piece.function: piece.text for piece in pieces(text, language) if piece.function}


def test_python() -> None:
    found = named(PYTHON, "a.py")
    assert list(found) == ["first", "Thing.read", "Thing.write"]
    assert found["first"].startswith("@cached\n")
    assert found["first"].endswith("    return inner")
    assert found["Thing.read"] == "    @property\n    async def read(self):\n        return self.size"
    assert found["Thing.write"] == "    async def write(self): ..."


def test_go() -> None:
    found = named(GO, "a.go")
    assert list(found) == ["Add", "(p *Point) Len"]
    assert found["Add"] == "// Add adds.\n// It really does.\nfunc Add(a int) int {\n\treturn a\n}"
    assert found["(p *Point) Len"].endswith("\treturn 1\n}")
    language = language_of("a.go")
    assert language is not None
    assert "type Point struct {\n\t// X is one.\n\tX int\n}" in [piece.text for piece in pieces(GO, language)]


def test_rust() -> None:
    found = named(RUST, "a.rs")
    assert [name.rpartition(".")[2] for name in found] == ["read", "write", "main"]
    (write,) = (text for name, text in found.items() if name.endswith(".write"))
    assert write.startswith("    fn write<T>(")
    assert "let x = 1;\n    }" in write


def test_typescript() -> None:
    found = named(SCRIPT, "a.ts")
    assert list(found) == ["class Ky.create", "class Ky.#retry", "double", "main", "test('works"]
    assert found["double"].startswith("/**\n * Doubles.")
    assert found["test('works"].endswith("\tt.is(1, 1);\n});")


def test_functions_of_one_name_are_told_apart() -> None:
    assert list(named("if x:\n    def f(): 1\nelse:\n    def f(): 2\n", "a.py")) == [".f", ".f 2"]


def test_a_piece_knows_its_lines() -> None:
    language = language_of("a.py")
    assert language is not None
    lines = PYTHON.split("\n")
    for piece in pieces(PYTHON, language):
        assert piece.text == "\n".join(lines[piece.first - 1 : piece.last])


LINES = ("", "x", "    x", "        x", ")", "}", "    }", "# c", "// c", "@d", "    @d", "class A:", "def f():")
MORE = (
    "    def g():",
    "func F() {",
    "fn f() {",
    "    fn g() {",
    "impl A {",
    "f(a) {",
    "\tg(a) {",
    "/*",
    "type T struct {",
)


@given(st.lists(st.sampled_from(LINES + MORE)), st.sampled_from(("a.py", "a.go", "a.rs", "a.ts")))
def test_no_line_is_lost_and_none_is_there_twice(lines: list[str], path: str) -> None:
    language = language_of(path)
    assert language is not None
    kept = [line for piece in pieces("\n".join(lines), language) for line in piece.text.split("\n") if line.strip()]
    assert kept == [line for line in lines if line.strip()]


@pytest.mark.parametrize("path", ["a.md", "Makefile", "a.pyc", "a"])
def test_what_is_no_source_has_no_language(path: str) -> None:
    assert language_of(path) is None
