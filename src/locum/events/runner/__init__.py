"""The runner process: starts event scripts, one at a time, and reports how they ended."""
