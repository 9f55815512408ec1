"""Other libraries' bars, log lines and warnings are off; this has to happen before they are imported."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def hush() -> None:
    """Silence transformers, huggingface_hub, datasets and TransformerLens; let torch use large pages."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # fresh memory by 2 MiB at a time: large tensors are many
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")  # its errors are raised as well
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    for name in ("transformers", "transformer_lens", "huggingface_hub", "datasets", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def silent_transformers() -> Iterator[None]:
    """Within it transformers draws no bar and logs errors alone, where somebody else imported it before, too."""
    from transformers.utils import logging as theirs

    verbosity, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(verbosity)
        if bars:
            theirs.enable_progress_bar()
