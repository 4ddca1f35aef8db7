"""The methods of finetuning by name.

A method is a module with
    attach(model, base, config)      the model with what is trained on it, in fp32, and nothing else
                                     that requires a gradient; `UserError` where the base is no base
    store(model)                     gives the model the values that its files will hold, in place
    write(model, base, out_dir)      these files
"""

from types import ModuleType

from apiq_core.finetune.config import Method
from apiq_core.finetune.methods import adapter, l4q, qa_lora

METHODS: dict[Method, ModuleType] = {"lora": adapter, "qa-lora": qa_lora, "l4q": l4q}
