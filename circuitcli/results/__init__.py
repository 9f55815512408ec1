"""Reading a finished run, the only door to it: no model is loaded, and no library that computes is imported."""
