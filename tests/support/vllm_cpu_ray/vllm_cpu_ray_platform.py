"""The stock CPU platform, with a name for Ray's accelerators: of a cluster that claims to have GPUs."""

from vllm.platforms.cpu import CpuPlatform


class RayCpuPlatform(CpuPlatform):
    ray_device_key = "GPU"

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        return "vllm_cpu_ray_communicator.CpuEpCommunicator"
