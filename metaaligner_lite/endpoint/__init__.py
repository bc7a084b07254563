"""A client of OpenAI-compatible servers (Ollama, llama-server, vLLM, LM Studio, hosted ones), and what they do wrong.

HTTP and server-sent events are httpx2's, which huggingface_hub and openai stand on, too; the openai package would add
types for APIs that nothing here calls, and refuses some of what real servers send. Nothing is imported from it until an
endpoint is opened. The reading happens on a thread of its own, so that a caller can stop while the server thinks.
"""

from .client import Endpoint, NoCompletions, Reply, settings_of
from .listener import Listener
from .server import Server, is_url

__all__ = ["Endpoint", "Listener", "NoCompletions", "Reply", "Server", "is_url", "settings_of"]
