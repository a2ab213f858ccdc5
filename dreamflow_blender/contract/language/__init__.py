"""The language of the built-in models: its words (vocabulary.py), and how a prompt is read (reading.py)."""
