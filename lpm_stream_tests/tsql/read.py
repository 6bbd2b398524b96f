"""Reads T-SQL with sqlglot; what is beyond it, by its parts."""

import re
from collections.abc import Sequence

import sqlglot
from sqlglot import exp

_CAUGHT = re.compile(r"BEGIN TRY (.+) END TRY BEGIN CATCH (.+) END CATCH", re.DOTALL)
_OPTION = re.compile(r"ALTER DATABASE (\[.+\]) (SET [A-Z_]+ ON)")
_DENIED = re.compile(r"DENY (.+(?<! WITH GRANT OPTION))", re.DOTALL)  # as GRANT, but for that


def read(statement: str) -> list[exp.Expr]:
    """The statements in one text.

    Raises:
        ParseError: if it is not T-SQL.
        ValueError: if the parser has given up on a part of it.
    """
    found = [
        one
        for part in _parts(statement)
        for one in sqlglot.parse(part, dialect="tsql", error_level=sqlglot.ErrorLevel.RAISE)
        if one
    ]
    if not found or any(isinstance(one, exp.Command) for one in found):
        raise ValueError(f"not understood: {statement}")
    return found


def _parts(statement: str) -> Sequence[str]:
    if caught := _CAUGHT.fullmatch(statement):
        return caught.groups()
    if option := _OPTION.fullmatch(statement):
        return f"CREATE DATABASE {option[1]}", option[2]
    if denied := _DENIED.fullmatch(statement):
        return (f"GRANT {denied[1]}",)
    return (statement,)
