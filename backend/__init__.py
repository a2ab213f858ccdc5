"""DreamFlow's backend: a prompt becomes a textured mesh by approximate probability flow (APFO)."""

__version__ = "0.1.0"
