"""The world outside: devices, TransformerLens, and Graphviz, each imported in one module only."""
