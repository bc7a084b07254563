"""llama.cpp, through llama-cpp-python's low-level API. The only package that imports llama_cpp.

machine (threads, processor) and library (loading, log) <- model (weights, vocabulary) <- context (KV cache)
<- decode (generation) <- engine.
"""
