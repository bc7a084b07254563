"""Demo data and the tiny base model: everything needed to train our own pair from nothing.

``generate`` writes dialogues with rated answers (standard library only); ``base`` trains a small Llama on them.
"""
