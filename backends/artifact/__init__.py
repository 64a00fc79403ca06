"""Artifacts: memory plan, weights, C source, linking and manifest. `write.write` makes one of a program."""
