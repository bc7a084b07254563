"""The miniature reproduction of MetaAligner's paper: README.md."""
