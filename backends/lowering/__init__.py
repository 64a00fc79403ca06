"""What operators compute: one module for each family; importing this package registers them all.

Every module here is imported, so that a new family is a new file and nothing else (lead: keep it this way).
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
