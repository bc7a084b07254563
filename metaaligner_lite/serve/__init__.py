"""`mal serve`: a pair behind OpenAI's protocol, for the clients that people already have."""
