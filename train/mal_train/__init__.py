"""From rows with ratings to a trained aligner: reformulation (Algorithm 1), LoRA, merge."""

from metaaligner_lite.llama.machine import bound_spinning

bound_spinning()  # here, since every module that imports torch is imported after this one
