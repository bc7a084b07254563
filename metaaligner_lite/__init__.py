"""metaaligner-lite: edit the answers of any language model toward objectives named in plain words."""

__version__ = "0.1.0"
