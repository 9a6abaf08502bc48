"""Opens an onnxruntime session: which execution provider runs a network, and on how many threads.

`cpu` is the default: its maps, and so the bytes of a set, are the same on every machine of one kind. Maps of other
providers differ slightly, so a set records the provider.
"""

import re
from pathlib import Path
from typing import Any

from ..errors import InputError

PROVIDERS = {
    "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu"),
    "tensorrt": ("TensorrtExecutionProvider", "onnxruntime-gpu"),
    "openvino": ("OpenVINOExecutionProvider", "onnxruntime-openvino"),
    "coreml": ("CoreMLExecutionProvider", "onnxruntime"),
    "cpu": ("CPUExecutionProvider", "onnxruntime"),
}
"""Name -> onnxruntime's name, and the package that has it."""
AUTO = ("cuda", "coreml", "openvino", "cpu")
"""What `auto` tries, in this order. TensorRT must be asked for: it compiles a network for minutes."""
MOST_THREADS = 256
_NO_MEMORY = re.compile("bad.?alloc|failed to allocate|out of memory|alloc_failed", re.IGNORECASE)


def open_session(file: Path, provider: str, threads: str) -> tuple[Any, dict[str, Any]]:
    """Opens a model.

    Args:
        file: The ONNX file.
        provider: A key of PROVIDERS, or auto: the first of AUTO that works.
        threads: Threads of one process, as text.

    Returns:
        The session, and the settings that affect its maps: nothing for one thread of the CPU.

    Raises:
        InputError: onnxruntime or the provider is not installed or does not work, or the file is not a model.
    """
    onnxruntime = import_onnxruntime()
    if provider not in (*PROVIDERS, "auto"):
        raise InputError(f"{file}: provider is {provider!r}; allowed: auto, {', '.join(PROVIDERS)}.")
    if not threads.isdecimal() or not 1 <= int(threads) <= MOST_THREADS:
        raise InputError(f"{file}: threads is {threads!r}; allowed: 1 to {MOST_THREADS}.")
    installed = onnxruntime.get_available_providers()
    for name in AUTO if provider == "auto" else (provider,):
        official, package = PROVIDERS[name]
        if official not in installed:
            fault = f"onnxruntime {onnxruntime.__version__} has no {official}; it has {', '.join(installed)}"
        else:
            session = _open(onnxruntime, file, official, int(threads))
            if session.get_providers()[0] == official:  # otherwise onnxruntime fell back to the CPU
                settings = {} if name == "cpu" else {"provider": official}
                return session, settings | ({} if threads == "1" else {"threads": int(threads)})
            fault = f"{official} is installed but does not start; its driver or libraries may be missing"
    raise InputError(f"provider {provider}: {fault}. Install it (pip install {package}), or use --onnx-provider cpu")


def _open(onnxruntime: Any, file: Path, official: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # errors are raised as exceptions
    try:  # by path, because onnxruntime then reads external data from the model's folder
        return onnxruntime.InferenceSession(str(file), options, [official])
    except Exception as fault:  # onnxruntime's own exceptions share no base class
        if lacks_memory(fault):
            raise InputError(
                f"{file} needs more memory to be opened on {official} than there is. Use fewer workers (--jobs), a "
                "smaller network, or a machine with more memory."
            ) from None
        raise InputError(
            f"{file} is not an ONNX model for onnxruntime {onnxruntime.__version__} on {official}: {first_line(fault)} "
            "Export the model again."
        ) from None


def import_onnxruntime() -> Any:
    """-> the module onnxruntime. InputError if it is not installed."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise InputError("onnx:FILE needs onnxruntime, which is not installed: pip install onnxruntime") from None
    return onnxruntime


def lacks_memory(fault: Exception) -> bool:
    """Whether an exception of onnxruntime, or of the library of a provider, is about memory."""
    return bool(_NO_MEMORY.search(str(fault)))


def first_line(fault: Exception) -> str:
    """The first line of an exception of onnxruntime, without the place in its source."""
    line = re.sub(r"/onnxruntime_src/.*\) ", "", str(fault).strip().split("\n")[0])
    return f"{line[:300].rstrip('. ')}."
