"""Where settings and remembered measurements live, per operating system; MAL_HOME overrides both."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_APP = "metaaligner-lite"


def config_dir() -> Path:
    """The folder of the user's own settings (objectives.toml); it need not exist."""
    return _user_dir("XDG_CONFIG_HOME", ".config", "APPDATA", "Library/Application Support")


def cache_dir() -> Path:
    """The folder of what can be measured again (probe results); it need not exist."""
    return _user_dir("XDG_CACHE_HOME", ".cache", "LOCALAPPDATA", "Library/Caches")


def state_dir() -> Path:
    """The folder of what is kept between runs and belongs to the user (conversations); it need not exist."""
    return _user_dir("XDG_STATE_HOME", ".local/state", "LOCALAPPDATA", "Library/Application Support")


def _user_dir(xdg: str, xdg_default: str, windows: str, macos: str) -> Path:
    if home := os.environ.get("MAL_HOME"):
        return Path(home)
    if sys.platform == "win32":
        return Path(os.environ.get(windows) or Path.home()) / _APP
    if sys.platform == "darwin":
        return Path.home() / macos / _APP
    return Path(os.environ.get(xdg) or Path.home() / xdg_default) / _APP
