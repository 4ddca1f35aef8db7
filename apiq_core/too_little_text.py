"""The error of a text that is too short for the windows that are drawn of it. Torch-free."""

from apiq_core.errors import UserError


def too_little_text(
    part: str, *, samples: int, held_out: int = 0, length: int, available: int, there_is: str
) -> UserError:
    """`part` of the config asks for more windows of `length` tokens than there are `available`.

    It names the count that is to be smaller: `samples`, as far as that helps, else `held_out`.
    """
    name, value, others = "samples", samples, held_out
    if held_out and (samples == 0 or available <= held_out):
        name, value, others = "held_out", held_out, min(samples, 1)
    at_most = max(0, available - others)
    also = f", and {held_out} held out" if held_out else ""
    return UserError(
        "too_little_text",
        f"{part} asks for {samples} windows of {length} tokens{also}; {there_is} {available} "
        f"windows; legal: {name} of at most {at_most}",
        param=f"{part}.{name}",
        value=value,
        legal={"at_most": at_most},
    )
