"""Why a command of another room failed, from what it wrote."""

import pytest

from apiq_client.errors import ApiqError
from apiq_client.rooms import run, told

TRACEBACK = "Traceback (most recent call last):\n  File ...\nValueError: of a library\n"


def test_an_error_of_ours_is_told_whatever_stands_before_it() -> None:
    error = told(f"{TRACEBACK}error: rank is 0; legal: 1 to 64 [invalid]\n")
    assert error is not None
    assert (error.code, error.message) == ("invalid", "rank is 0; legal: 1 to 64")
    assert told(TRACEBACK) is None and told("") is None


def test_another_error_is_told_in_its_last_words() -> None:
    with pytest.raises(ApiqError, match="No module named") as caught:
        run("apiq_client.no_such_room", code="a_code")
    assert caught.value.code == "a_code"
