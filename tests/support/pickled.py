"""Old SAEs as they were pickled: with an object of a training library that isn't here any more."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

MODULES = ("sae_training.config", "sae_lens.training.config")


def save_first_format(
    path: Path, module: str | None, config: Mapping[str, Any], weights: Mapping[str, Tensor], *, archive: bool = True
) -> Path:
    """A file of res-jb's first format, whose configuration is an object of `module`, or a dict where that is None.

    The module exists only while the file is written.
    """
    with pytest.MonkeyPatch.context() as patch:
        holder: Any = dict(config)
        if module is not None:
            kind = type("LanguageModelSAERunnerConfig", (), {"__module__": module})
            parts = module.split(".")
            for name in (".".join(parts[:end]) for end in range(1, len(parts))):
                if name not in sys.modules:
                    patch.setitem(sys.modules, name, ModuleType(name))
            patch.setitem(sys.modules, module, fake := ModuleType(module))
            fake.LanguageModelSAERunnerConfig = kind  # type: ignore[attr-defined]
            holder = kind()
            vars(holder).update(config)
        torch.save({"cfg": holder, "state_dict": dict(weights)}, path, _use_new_zipfile_serialization=archive)
    return path
