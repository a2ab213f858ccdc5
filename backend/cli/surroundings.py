"""The environment variables of whoever starts the backend, before a library reads them.

A notebook, a studio's wrapper or another program's settings must neither stop a run nor change its bytes.
"""

from __future__ import annotations

import os
import socket
import warnings

SPIN = "30000"  # rounds, 0.1 ms, that torch's idle threads wait awake: libgomp's own 300,000 take the cores from Warp's
OURS = {
    "MPLBACKEND": "Agg",  # Jupyter's and Colab's own is not installed here, and matplotlib refuses it
    "OMP_DYNAMIC": "FALSE",  # else the load of the machine decides how many threads sum, and so the last bits
    "MKL_DYNAMIC": "FALSE",
}
# Settings of other programs' own for libraries that read local files here.
OTHERS = (
    "TRANSFORMERS_",
    "DIFFUSERS_",
    "ACCELERATE_",
    "PEFT_",
    "SAFETENSORS_",
    "HF_HUB_",
    "OMP_THREAD_LIMIT",
)
WHERE_MODELS_ARE = ("HF_HUB_CACHE",)  # of OTHERS, what says something that a run asks


def ignore_others(for_the_hub: bool) -> None:
    """Set or remove them in this process, which is to import the libraries later.

    for_the_hub  `models`, which is to obey huggingface_hub's own settings
    """
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
    os.environ.update(OURS)
    # else urllib3, which diffusers imports and a run does not use, binds a socket to find out
    if not for_the_hub:
        socket.has_ipv6 = False
    kept = ("HF_HUB_",) if for_the_hub else WHERE_MODELS_ARE
    for name in list(os.environ):
        if name.startswith(OTHERS) and not name.startswith(kept):
            del os.environ[name]
    if os.environ.pop("PYTHONWARNINGS", ""):  # "error" would end a run at a library's first deprecation
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
