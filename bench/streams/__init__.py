"""The choices of docs/performance.md, measured: ``script/bench``."""
