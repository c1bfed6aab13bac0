"""prototype"""
import math
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
EPS=2.0**-24
_MOVES = {"cat","stack","clone","copy_","_to_copy","constant_pad_nd","reflection_pad1d","reflection_pad2d","replication_pad2d","index","index_select","gather","roll","flip","where","zeros_like","ones_like","zeros","ones","arange","max_pool2d_with_indices","relu","maximum","minimum","amax","amin","max","min","abs_","neg","sign","clamp","clamp_min","clamp_max","round","floor","fill_","zero_","full","full_like","new_zeros","new_ones","new_full","eye","scalar_tensor","lift_fresh_copy","complex","_conj_physical","repeat","tril","triu","index_put","index_put_","scatter","slice_scatter","select_scatter","leaky_relu", "repeat_interleave","linspace","empty_like","empty"}
_SUMS=("fft","conv","mm","bmm","addmm","baddbmm","sum","mean","norm","linalg","dot","einsum","avg_pool","upsample","var","native","matmul","eigh","svd","solve","cumsum")
class Rounding(TorchDispatchMode):
    def __init__(self, seed, stats=None):
        super().__init__()
        self.g=torch.Generator().manual_seed(seed)
        self.stats=stats
        self.count=0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out=func(*args,**(kwargs or {}))
        name=func._schema.name.split("::")[1]
        if name in _MOVES: return out
        outs=out if isinstance(out,(tuple,list)) else (out,)
        schema=func._schema.returns
        for o,r in zip(outs,schema):
            if not isinstance(o,Tensor) or o.dtype not in (torch.float64,torch.complex128): continue
            inplace = r.alias_info is not None and r.alias_info.is_write
            if r.alias_info is not None and not inplace: continue
            if func.is_view: continue
            self.count+=1
            if self.stats is not None: self.stats[name]=self.stats.get(name,0)+1
            self.perturb(o, any(n in name for n in _SUMS))
        return out
    def perturb(self,o,sums):
        x=torch.view_as_real(o.resolve_conj()) if o.is_complex() else o
        if x.numel()==0: return
        noise=(2*torch.rand(x.shape,generator=self.g,dtype=torch.float64)-1)*EPS
        if sums:
            # rms floor
            rms=x.square().mean().sqrt()
            mag=torch.maximum(x.abs(),rms)
        else: mag=x.abs()
        x.add_(noise*mag)
