"""The embedded prior: procedural objects, and (once trained) the tiny networks that know them."""
