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
