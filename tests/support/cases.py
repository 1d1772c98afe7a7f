"""Which cases of a parametrised test run by default."""

from collections.abc import Sequence

import pytest


def slow_after_first(cases: Sequence, count: int = 2) -> list:
    """`cases` for `parametrize`; all but the first `count` are marked slow."""
    rest = (case if isinstance(case, tuple) else (case,) for case in cases[count:])
    return [*cases[:count], *(pytest.param(*case, marks=pytest.mark.slow) for case in rest)]
