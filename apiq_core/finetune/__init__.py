"""From a quantized model and its adapter to a finetuned adapter: ApiQ's second step."""
