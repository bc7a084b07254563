"""`python -m metaaligner_lite`: the same as `mal`."""

from .cli import main

if __name__ == "__main__":
    main()
