"""Which devices there are to ask for."""

import pytest

from apiq_core.device import pick_device
from apiq_core.errors import UserError


@pytest.mark.parametrize("name", ["gpu", "meta", "mps"])
def test_another_device_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(UserError) as caught:
        pick_device(name)
    assert (caught.value.code, caught.value.value) == ("illegal_device", name)
    assert "legal: auto, cpu, cuda[:n]" in caught.value.message
