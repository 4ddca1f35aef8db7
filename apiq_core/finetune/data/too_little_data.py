"""A dataset of which nothing can be held out; the service may know before anything is tokenized."""

from apiq_core.errors import UserError


def too_little_data(rows: int) -> UserError:
    return UserError(
        "too_little_data",
        f"the dataset has {'one row' if rows == 1 else f'{rows} rows'} to train on; legal: two or "
        "more, so that one can be held out, or a validation set of its own",
        param="dataset",
        value=rows,
        legal={"at_least": 2},
    )


def too_few_windows(tokens: int, max_length: int, at_least: int) -> UserError:
    """Of a text of one window; one of `at_least` tokens has two."""
    return UserError(
        "too_little_data",
        f"the text has {tokens} tokens to train on, a single window; legal: two windows or more, "
        f"so that one can be held out: {at_least} tokens, or a max_length smaller than "
        f"{max_length}, or a validation set of its own",
        param="dataset",
        value=tokens,
        legal={"at_least": at_least},
    )
