"""The error of a text that is too short for the windows that are drawn of it. Torch-free."""

from apiq_core.errors import UserError


def too_little_text(
    part: str, *, samples: int, held_out: int = 0, length: int, available: int, there_is: str
) -> UserError:
    """`part` of the config asks for more windows of `length` tokens than there are `available`.

    It names the count that is to be smaller: `samples`, as far as that helps, else `held_out`;
    where the text has no room for one of each, that it is too short.
    """
    name, value, others = "samples", samples, held_out
    if held_out and (samples == 0 or available <= held_out):
        name, value, others = "held_out", held_out, min(samples, 1)
    at_most = max(0, available - others)
    legal: str | dict[str, int] = {"at_most": at_most}
    says = f"{name} of at most {at_most}"
    if name == "held_out" and at_most == 0:  # one is needed
        legal = says = "a longer text, or a smaller length"
    also = f", and {held_out} held out" if held_out else ""
    return UserError(
        "too_little_text",
        f"{part} asks for {samples} windows of {length} tokens{also}; {there_is} {available} "
        f"windows; legal: {says}",
        param=f"{part}.{name}",
        value=value,
        legal=legal,
    )
