import inspect

import pytest

from gsr_core import errors
from gsr_core.errors import GsrError

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, GsrError) and kind is not GsrError
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_also_of_a_builtin_kind(kind):
    builtin = [base for base in kind.__mro__ if base.__module__ == "builtins"]
    assert set(builtin) - {object, BaseException, Exception}
    assert kind.__doc__.splitlines()[0].endswith(".")


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_of_an_error_is_its_sentence(kind):
    assert str(kind("no run 'a'; 'gsr runs' lists them")) == "no run 'a'; 'gsr runs' lists them"
