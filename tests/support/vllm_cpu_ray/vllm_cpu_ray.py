"""What vLLM 0.32 lacks on a CPU for its Ray executor and for expert parallelism: a platform plugin, for tests alone.

Found by its entry point where the folder above is on PYTHONPATH. vLLM's CPU platform names no Ray resource, so its Ray
executor refuses it; the CPU communicator lacks two collectives that experts on several ranks need; and the CPU's
experts ignore which of them are local.
"""


def register() -> str:
    """Entry point of the group `vllm.platform_plugins`: the platform's class."""
    return "vllm_cpu_ray_platform.RayCpuPlatform"
