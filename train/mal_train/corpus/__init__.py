"""The corpus of the real aligner: real answers, made worse and better by rules, as rows for `mal train-lora`."""
