"""The product's modules from their source in a process of its own, where a build has compiled them: an experiment that
puts a rule of its own into a class can do so only there, for compiled code calls its own methods directly."""

from __future__ import annotations

import pickle
import sys
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, SourceFileLoader
from typing import Any

__all__ = ["again_from_source"]


def again_from_source(module: str, name: str, value: Any) -> tuple[Any, Any]:
    """Import the product and the measurement again, source first; return `name` of the module as it is now, and the
    value made of the classes that there are now."""
    kept = pickle.dumps(value)
    for known in [known for known in sys.modules if known.split(".")[0] == "fcgi_core" or known.startswith("bench.")]:
        del sys.modules[known]
    loaders = (SourceFileLoader, SOURCE_SUFFIXES), (ExtensionFileLoader, EXTENSION_SUFFIXES)
    sys.path_hooks.insert(0, FileFinder.path_hook(*loaders))
    sys.path_importer_cache.clear()
    return getattr(import_module(module), name), pickle.loads(kept)
