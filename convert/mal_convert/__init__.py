"""From a trained folder to a quantized GGUF that is the same model; see convert()."""
