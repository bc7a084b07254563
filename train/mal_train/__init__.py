"""From rows with ratings to a trained aligner: reformulation (Algorithm 1), LoRA, merge."""
