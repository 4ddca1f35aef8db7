"""What a gradient phase is run with unless a job says otherwise. Torch-free."""

from apiq_core.config import Training

_FAST = Training(
    epochs=2,
    batch_size=4,
    lr_quantizer=3e-3,
    lr_adapter=3e-3,
    weight_decay=0.0,
    lr_rounding=0.0,
    polish_epochs=0,
    polish_lr=1e-3,
)
_PAPER = Training(
    epochs=20,
    batch_size=1,
    lr_quantizer=5e-3,
    lr_adapter=5e-4,
    weight_decay=0.1,
    lr_rounding=0.0,
    polish_epochs=0,
    polish_lr=1e-3,
)

OMNIQUANT_EPOCHS_AT_2_BITS = 40  # as its authors run it

# by recipe, or by method where it has none
TRAINING_DEFAULTS: dict[str, Training] = {
    "fast": _FAST,
    "best": _FAST.model_copy(update={"epochs": 4, "lr_rounding": 3e-2, "polish_epochs": 4}),
    "paper": _PAPER,
    "omniquant": _PAPER.model_copy(update={"lr_adapter": 0.0, "weight_decay": 0.0}),
}
