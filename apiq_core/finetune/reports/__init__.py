"""What a finetune run says of itself: its figures, their page and the model card."""
