"""Collectives of expert parallelism over gloo, and experts that skip those of other ranks."""

import functools
import inspect

import torch
import torch.distributed as dist
from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator
from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts


class CpuEpCommunicator(CpuCommunicator):
    """Adds gathering and scattering of unequal parts: padded to the longest, which gloo can gather."""

    def all_gatherv(self, input_, dim=0, sizes=None):
        assert dim == 0
        if isinstance(input_, list | tuple):
            return [self._gather(tensor, sizes) for tensor in input_]
        return self._gather(input_, sizes)

    def reduce_scatterv(self, input_, dim=-1, sizes=None):
        assert dim in (0, -1)
        sizes = sizes or [input_.shape[0] // self.world_size] * self.world_size
        total = input_.float().contiguous()
        dist.all_reduce(total, group=self.cpu_group)
        start = sum(sizes[: self.rank_in_group])
        return total[start : start + sizes[self.rank_in_group]].to(input_.dtype).contiguous()

    def _gather(self, tensor, sizes):
        sizes = sizes or [tensor.shape[0]] * self.world_size
        padded = tensor.new_zeros((max(sizes), *tensor.shape[1:]))
        padded[: tensor.shape[0]] = tensor
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded, group=self.cpu_group)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)], 0)


def _local_experts_only(apply):
    """`apply` with `expert_map` respected: tokens for experts of other ranks weigh nothing here."""

    signature = inspect.signature(apply)

    @functools.wraps(apply)
    def applied(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        if (expert_map := given.get("expert_map")) is not None:
            local = expert_map[given["topk_ids"].long()]
            given["topk_weights"] = given["topk_weights"].masked_fill(local < 0, 0.0)
            given["topk_ids"] = local.clamp_min(0).to(given["topk_ids"].dtype)
        return apply(**given)

    return applied


CPUUnquantizedExperts.apply = _local_experts_only(CPUUnquantizedExperts.apply)
