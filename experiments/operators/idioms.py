"""What people's networks are made of, call by call, each as a function of images "b 4 4 4" in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Function: TypeAlias = Callable[[Tensor], Tensor]

SHAPE = (4, 4, 4)
_MASK = torch.tensor([True, False, True, True])
_SQUARE = torch.linspace(-1, 1, 16, dtype=torch.float64).view(4, 4)
_PIXELS = _SQUARE > 0
_CUBE = torch.linspace(-1, 1, 64, dtype=torch.float64).view(1, 4, 4, 4)

_TURN = torch.tensor([[[1.0, 0.2, 0], [0, 1, 0.1]]], dtype=torch.float64)
_ATTENTION = nn.MultiheadAttention(4, 2, batch_first=True).double().eval()
_RNN, _LSTM, _GRU = (kind(4, 4, batch_first=True).double() for kind in (nn.RNN, nn.LSTM, nn.GRU))
_RNN_CELL, _LSTM_CELL, _GRU_CELL = (kind(4, 4).double() for kind in (nn.RNNCell, nn.LSTMCell, nn.GRUCell))
_ENCODER = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).double().eval()


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2)


def _volume(x: Tensor) -> Tensor:
    return x.reshape(len(x), 1, 4, 4, 4)


SAME: dict[str, Function] = {
    "float, double, to": lambda x: x.float().double().to(torch.float32).to(x.dtype),
    "to(device), cpu": lambda x: x.to("cpu").cpu(),
    "type_as": lambda x: x.type_as(x),
    "contiguous, clone, detach": lambda x: x.contiguous().clone() + x.detach(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "identity, dropout": nn.Sequential(nn.Identity(), nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout()),
    "view, reshape, flatten, unflatten": lambda x: (
        x.view(len(x), -1).reshape(len(x), 8, 8).flatten(1).unflatten(1, (4, 16))
    ),
    "view_as, reshape_as": lambda x: x.flatten(1).view_as(x).flatten(1).reshape_as(x),
    "squeeze, unsqueeze": lambda x: x.unsqueeze(1).squeeze(1).unsqueeze(-1).squeeze(-1).unsqueeze(1).squeeze((1,)),
    "expand, expand_as, broadcast_to": lambda x: (
        x[:, :1].expand(-1, 4, 4, 4) + x[:, :1].expand_as(x) + x[:, 1:2].broadcast_to(x.shape)
    ),
    "zeros_like, ones_like, full_like": lambda x: (
        x + torch.ones_like(x) * 2 + torch.full_like(x, 3) - torch.zeros_like(x)
    ),
    "new_zeros, new_ones, new_full": lambda x: torch.cat(
        [x, x.new_zeros(len(x), 1, 4, 4), x.new_ones(len(x), 1, 4, 4), x.new_full((len(x), 1, 4, 4), 2)], 1
    ),
    "requires_grad_, checkpoints": lambda x: torch.utils.checkpoint.checkpoint(lambda y: y * 2, x, use_reentrant=False),
    "atleast_1d to 3d": lambda x: torch.atleast_3d(torch.atleast_2d(torch.atleast_1d(x))),
    "positive, negative": lambda x: -(+x).negative(),
}

LINEAR: dict[str, Function] = {
    "Linear": lambda x: F.linear(x, _SQUARE, _SQUARE[0]),
    "Conv1d": lambda x: F.conv1d(_tokens(x), _SQUARE.unsqueeze(2), _SQUARE[0]),
    "Conv2d": lambda x: F.conv2d(x, _CUBE, padding=1),
    "Conv2d, grouped, dilated": lambda x: F.conv2d(x, _CUBE.view(4, 1, 4, 4), None, 2, 3, 2, 4),
    "Conv2d, padding='same'": lambda x: F.conv2d(x, _CUBE[..., :3, :3], padding="same"),
    "Conv3d": lambda x: F.conv3d(_volume(x), _CUBE.view(1, 1, 4, 4, 4), padding=1),
    "ConvTranspose1d": lambda x: F.conv_transpose1d(_tokens(x), _CUBE.view(4, 4, 4), stride=2),
    "ConvTranspose2d": lambda x: F.conv_transpose2d(x, _CUBE.view(4, 1, 4, 4), stride=2, padding=1),
    "ConvTranspose3d": lambda x: F.conv_transpose3d(_volume(x), _CUBE.view(1, 1, 4, 4, 4), stride=2),
    "AvgPool1d": lambda x: F.avg_pool1d(_tokens(x), 3, 2, 1),
    "AvgPool2d": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "AvgPool2d, ceil_mode": lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
    "AvgPool2d, divisor_override": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "AvgPool3d": lambda x: F.avg_pool3d(_volume(x), 2),
    "AdaptiveAvgPool1d": lambda x: F.adaptive_avg_pool1d(_tokens(x), 5),
    "AdaptiveAvgPool2d": lambda x: F.adaptive_avg_pool2d(x, (1, 1)),
    "AdaptiveAvgPool2d, uneven": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "AdaptiveAvgPool3d": lambda x: F.adaptive_avg_pool3d(_volume(x), 3),
    "BatchNorm": nn.BatchNorm2d(4),
    "add, sub, rsub": lambda x: 1 - (x + _SQUARE) - (2 - x) + torch.add(x, x, alpha=2),
    "mul, div by constants": lambda x: x * _SQUARE / 3,
    "lerp": lambda x: torch.lerp(x, _CUBE, 0.3),
    "lerp, tensor": lambda x: torch.lerp(x, _CUBE, _SQUARE),
    "addcmul, addcdiv": lambda x: torch.addcdiv(torch.addcmul(x, x, _SQUARE, value=2), x, _SQUARE + 2),
    "addmm": lambda x: torch.addmm(_SQUARE[0], x.flatten(1), _SQUARE.repeat(16, 1), beta=2, alpha=3),
    "addmm, varying sum": lambda x: torch.addmm(
        x.flatten(1)[:, :4], x.flatten(1), _SQUARE.repeat(16, 1), beta=2, alpha=3
    ),
    "addmv": lambda x: torch.addmv(
        x.flatten(1)[:, 0], x.flatten(1), _SQUARE.flatten().repeat(4), beta=2, alpha=3
    ).unsqueeze(1),
    "mv": lambda x: (x.flatten(1) @ _SQUARE.flatten().repeat(4)).unsqueeze(1),
    "baddbmm": lambda x: torch.baddbmm(x[:, 0], x[:, 1], _SQUARE.expand(len(x), 4, 4), beta=2, alpha=3),
    "bmm with a constant": lambda x: torch.bmm(x[:, 0], _SQUARE.expand(len(x), 4, 4)),
    "mm": lambda x: torch.mm(x.flatten(1), _SQUARE.repeat(16, 1)),
    "matmul, constant right": lambda x: x @ _SQUARE,
    "matmul, constant left": lambda x: _SQUARE @ x,
    "einsum": lambda x: torch.einsum("bchw,cd->bdhw", x, _SQUARE),
    "tensordot": lambda x: torch.tensordot(x, _SQUARE, ([1], [0])),
    "inner": lambda x: torch.inner(x, _SQUARE),
    "kron": lambda x: torch.kron(x.flatten(1), _SQUARE[:1]),
    "slice, select, narrow": lambda x: x[:, :, 1:3] + x.select(1, 2)[:, None, :2] + x.narrow(2, 1, 2),
    "strides, flip": lambda x: x[:, :, ::2].flip(3) + torch.fliplr(x)[:, :, :2],
    "index by a list": lambda x: x[:, [2, 0, 2]],
    "index by a tensor": lambda x: x[:, :, torch.tensor([[0, 1], [3, 2]])],
    "index by two tensors": lambda x: x[:, torch.tensor([0, 1]), torch.tensor([3, 2])],
    "index by a mask": lambda x: x[:, _MASK],
    "index by a mask of pixels": lambda x: x[:, :, _PIXELS],
    "index_select": lambda x: x.index_select(1, torch.tensor([2, 0])),
    "gather": lambda x: x.gather(1, torch.tensor([2, 0]).view(1, 2, 1, 1).expand(len(x), 2, 4, 4)),
    "take_along_dim": lambda x: torch.take_along_dim(x, torch.tensor([2, 0]).view(1, 2, 1, 1), 1),
    "scatter": lambda x: x.scatter(1, torch.tensor([2]).view(1, 1, 1, 1).expand(len(x), 1, 4, 4), 0.5),
    "scatter of a varying source": lambda x: torch.zeros_like(x).scatter(
        1, torch.tensor([2]).view(1, 1, 1, 1).expand(len(x), 1, 4, 4), x[:, :1]
    ),
    "scatter_add": lambda x: torch.zeros_like(x).scatter_add(
        1, torch.tensor([2, 2]).view(1, 2, 1, 1).expand(len(x), 2, 4, 4), x[:, :2]
    ),
    "index_add": lambda x: torch.index_add(x, 1, torch.tensor([1, 1]), x[:, :2], alpha=2),
    "index_copy": lambda x: torch.index_copy(x, 1, torch.tensor([3, 1]), x[:, :2]),
    "index_fill": lambda x: x.index_fill(1, torch.tensor([1, 3]), 0.5),
    "assignment by an index, index_put": lambda x: _assigned(x),
    "select_scatter, slice_scatter": lambda x: torch.slice_scatter(
        torch.select_scatter(x, x[:, 1], 1, 0), x[:, :, :1], 2, 3
    ),
    "diagonal_scatter": lambda x: torch.diagonal_scatter(x, x[:, :, 0], 0, 2, 3),
    "repeat, tile": lambda x: x.repeat(1, 1, 2, 1).tile(1, 2),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "cat, stack": lambda x: torch.stack([torch.cat([x, _CUBE.expand(len(x), 4, 4, 4)], 1)] * 2, 2),
    "hstack, vstack, dstack, column_stack": lambda x: torch.hstack([x, x]) + torch.column_stack([x, x]),
    "chunk, split, unbind, tensor_split": lambda x: (
        x.chunk(2, 1)[0] + x.split([2, 2], 1)[1] + torch.stack(x.unbind(1)[:2], 1) + x.tensor_split(2, 1)[0]
    ),
    "permute, transpose, T": lambda x: x.permute(0, 2, 3, 1).transpose(1, 2) + x.mT,
    "movedim, moveaxis, swapaxes, swapdims": lambda x: x.movedim(1, 3).moveaxis(1, 2).swapaxes(1, 2).swapdims(1, 3),
    "roll, rot90": lambda x: x.roll(1, 2).rot90(1, (2, 3)),
    "tril, triu, diagonal, diag_embed": lambda x: x.tril() + x.triu(1) + torch.diag_embed(x.diagonal(0, 2, 3)),
    "trace": lambda x: x.diagonal(0, 2, 3).sum(-1),
    "masked_fill, where by a constant mask": lambda x: torch.where(_SQUARE > 0, x, _SQUARE).masked_fill(
        _SQUARE < -0.5, 2
    ),
    "pad, all modes": lambda x: F.pad(F.pad(F.pad(x, (1, 1)), (1, 1, 1, 1), "reflect"), (1, 0, 0, 1), "replicate"),
    "pad, circular": lambda x: F.pad(x, (1, 1, 0, 1), "circular"),
    "pad, reflect and replicate in 1 and 3 dimensions": lambda x: (
        F.pad(_tokens(x), (1, 1), "reflect").flatten(1)[:, :64]
        + F.pad(_volume(x), (1, 1, 0, 1, 1, 0), "replicate").flatten(1)[:, :64]
    ),
    "ZeroPad2d, ConstantPad2d": nn.Sequential(nn.ZeroPad2d(1), nn.ConstantPad2d(1, 0.5)),
    "pixel_shuffle, pixel_unshuffle": lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 4),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    "unfold, fold": lambda x: F.fold(F.unfold(x, 3, padding=1), (4, 4), 3, padding=1),
    "Tensor.unfold": lambda x: x.unfold(2, 2, 1),
    "cumsum": lambda x: x.cumsum(2),
    "diff, trapezoid": lambda x: torch.trapezoid(x.diff(dim=2), dim=3),
    "sum, mean": lambda x: x.sum((2, 3)) + x.mean((2, 3)),
    "upsample, nearest": lambda x: F.interpolate(x, scale_factor=2),
    "upsample, nearest-exact": lambda x: F.interpolate(x, (3, 7), mode="nearest-exact"),
    "upsample, linear": lambda x: F.interpolate(_tokens(x), 9, mode="linear"),
    "upsample, bilinear": lambda x: F.interpolate(x, (7, 3), mode="bilinear", align_corners=True),
    "upsample, bilinear, antialias": lambda x: F.interpolate(x, (3, 3), mode="bilinear", antialias=True),
    "upsample, bicubic": lambda x: F.interpolate(x, (7, 5), mode="bicubic"),
    "upsample, trilinear": lambda x: F.interpolate(_volume(x), 5, mode="trilinear"),
    "interpolate, area": lambda x: F.interpolate(x, (2, 2), mode="area"),
    "grid_sample": lambda x: F.grid_sample(x, _SQUARE.view(1, 2, 4, 2).expand(len(x), 2, 4, 2), align_corners=False),
    "affine_grid of constants": lambda x: F.grid_sample(
        x,
        F.affine_grid(_TURN.expand(len(x), 2, 3), [len(x), 4, 4, 4], align_corners=False),
        align_corners=False,
    ),
    "meshgrid and coordinates": lambda x: torch.cat(
        [x, torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")).expand(len(x), 2, 4, 4)], 1
    ),
    "Embedding of constants": lambda x: x + F.embedding(torch.arange(4), _SQUARE),
    "any function of constants": lambda x: x * _SQUARE.sign(),
}


def _assigned(x: Tensor) -> Tensor:
    y = x * 2
    y[:, [0, 2]] = 0.5
    return y


def _written(x: Tensor) -> Tensor:
    y = x * 2
    y[:, 0] = 0.5
    return y


PIECEWISE: dict[str, Function] = {
    "ReLU": nn.ReLU(),
    "ReLU, in place": lambda x: F.relu(x.clone(), inplace=True),
    "LeakyReLU": nn.LeakyReLU(0.1),
    "LeakyReLU, steep": nn.LeakyReLU(1.5),
    "LeakyReLU, negative slope below 0": nn.LeakyReLU(-0.2),
    "PReLU": nn.PReLU(),
    "PReLU, a slope a channel": nn.PReLU(4),
    "RReLU in evaluation": nn.RReLU(),
    "ReLU6": nn.ReLU6(),
    "Hardtanh": nn.Hardtanh(),
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp_min, clamp_max": lambda x: x.clamp_min(-0.5).clamp_max(0.5),
    "clip": lambda x: x.clip(0, 1),
    "clamp by tensors": lambda x: x.clamp(_SQUARE - 1, _SQUARE + 1),
    "Threshold": nn.Threshold(0.1, 0.1),
    "Hardsigmoid": nn.Hardsigmoid(),
    "Softshrink": nn.Softshrink(),
    "Softsign": nn.Softsign(),
    "abs": torch.abs,
    "maximum, minimum": lambda x: torch.minimum(torch.maximum(x[:, :2], x[:, 2:]), x[:, 1:3]),
    "maximum with a constant": lambda x: torch.maximum(x, _SQUARE),
    "max(x, 0)": lambda x: torch.max(x, torch.zeros_like(x)),
    "fmax, fmin": lambda x: torch.fmin(torch.fmax(x[:, :2], x[:, 2:]), x[:, 1:3]),
    "max over a dimension": lambda x: x.max(2).values + x.min(3)[0],
    "amax, amin": lambda x: x.amax((2, 3)) + x.amin((2, 3)),
    "aminmax": lambda x: torch.aminmax(x, dim=2)[1],
    "MaxPool1d": lambda x: F.max_pool1d(_tokens(x), 3, 2, 1),
    "MaxPool2d": nn.MaxPool2d(3, 2, 1),
    "MaxPool2d, dilated": nn.MaxPool2d(2, 1, dilation=2),
    "MaxPool2d, ceil_mode": nn.MaxPool2d(3, 2, ceil_mode=True),
    "MaxPool1d, ceil_mode": lambda x: F.max_pool1d(_tokens(x), 3, 2, ceil_mode=True),
    "MaxPool3d, ceil_mode": lambda x: F.max_pool3d(_volume(x), 3, 2, ceil_mode=True),
    "MaxPool3d": lambda x: F.max_pool3d(_volume(x), 2),
    "AdaptiveMaxPool1d": lambda x: F.adaptive_max_pool1d(_tokens(x), 4),
    "AdaptiveMaxPool2d": nn.AdaptiveMaxPool2d(1),
    "AdaptiveMaxPool2d, uneven": nn.AdaptiveMaxPool2d((3, 3)),
    "AdaptiveMaxPool1d, uneven": lambda x: F.adaptive_max_pool1d(_tokens(x), 5),
    "AdaptiveMaxPool3d, uneven": lambda x: F.adaptive_max_pool3d(_volume(x), 3),
    "maxout": lambda x: x.unflatten(1, (2, 2)).max(2)[0],
    "norm, l1": lambda x: x.flatten(1).norm(1, dim=1, keepdim=True),
    "norm, linf": lambda x: torch.linalg.vector_norm(x.flatten(1), float("inf"), dim=1, keepdim=True),
    "hinge, max(0, 1 - x)": lambda x: F.relu(1 - x),
}

SMOOTH: dict[str, Function] = {
    "Sigmoid": nn.Sigmoid(),
    "Tanh": nn.Tanh(),
    "ELU": nn.ELU(),
    "SELU": nn.SELU(),
    "CELU": nn.CELU(),
    "Softplus": nn.Softplus(),
    "LogSigmoid": nn.LogSigmoid(),
    "GELU": nn.GELU(),
    "GELU, tanh": nn.GELU("tanh"),
    "SiLU": nn.SiLU(),
    "Mish": nn.Mish(),
    "Hardswish": nn.Hardswish(),
    "Tanhshrink": nn.Tanhshrink(),
    "exp": torch.exp,
    "expm1": torch.expm1,
    "exp2": torch.exp2,
    "log": lambda x: torch.log(x.abs() + 1),
    "log1p": lambda x: torch.log1p(x.abs()),
    "log2, log10": lambda x: torch.log2(x.abs() + 1) + torch.log10(x.abs() + 1),
    "sqrt": lambda x: torch.sqrt(x.abs() + 1),
    "rsqrt": lambda x: torch.rsqrt(x.abs() + 1),
    "reciprocal": lambda x: torch.reciprocal(x.abs() + 1),
    "1 / x": lambda x: 1 / (x.abs() + 1),
    "division": lambda x: x / (x.abs() + 1),
    "square, x ** 2": lambda x: x.square() + x**2,
    "x ** 3": lambda x: x**3,
    "x ** 0.5, x ** -1": lambda x: (x.abs() + 1) ** 0.5 + (x.abs() + 1) ** -1,
    "sin, cos": lambda x: torch.sin(x) + torch.cos(x),
    "atan": torch.atan,
    "asinh": torch.asinh,
    "sinh, cosh": lambda x: torch.sinh(x) + torch.cosh(x),
    "erf": torch.erf,
}

PRODUCTS: dict[str, Function] = {
    "x * y": lambda x: x[:, :2] * x[:, 2:],
    "x * x": lambda x: x * x,
    "addcmul, varying": lambda x: torch.addcmul(x, x, x.flip(1)),
    "GLU": nn.GLU(1),
    "gates of channels": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "SwiGLU": lambda x: F.silu(x[:, :2]) * x[:, 2:],
    "matmul of two": lambda x: x[:, :2] @ x[:, 2:],
    "bmm": lambda x: torch.bmm(x[:, 0], x[:, 1]),
    "einsum of two": lambda x: torch.einsum("bij,bjk->bik", x[:, 0], x[:, 1]),
    "Softmax": nn.Softmax(1),
    "Softmin": nn.Softmin(1),
    "Softmax2d": nn.Softmax2d(),
    "LogSoftmax": nn.LogSoftmax(1),
    "logsumexp": lambda x: x.logsumexp(1),
    "LayerNorm": nn.LayerNorm(4),
    "GroupNorm": nn.GroupNorm(2, 4),
    "InstanceNorm": nn.InstanceNorm2d(4),
    "RMSNorm": nn.RMSNorm(4),
    "LocalResponseNorm": nn.LocalResponseNorm(2),
    "F.normalize": lambda x: F.normalize(x, dim=1, eps=0.1),
    "norm, l2": lambda x: x.flatten(1).norm(dim=1, keepdim=True),
    "var, std": lambda x: x.var((2, 3)) + x.std((2, 3)),
    "cosine_similarity": lambda x: F.cosine_similarity(x[:, :2], x[:, 2:], dim=1),
    "prod": lambda x: x.prod(1),
    "scaled_dot_product_attention": lambda x: F.scaled_dot_product_attention(x[:, 0], x[:, 1], x[:, 2]),
    "attention, causal": lambda x: F.scaled_dot_product_attention(x[:, 0], x[:, 1], x[:, 2], is_causal=True),
    "MultiheadAttention": lambda x: _ATTENTION(x[:, 0], x[:, 0], x[:, 0])[0],
    "TransformerEncoderLayer": lambda x: _ENCODER(x[:, 0]),
    "RNNCell, unrolled": lambda x: _unrolled(_RNN_CELL, x),
    "LSTMCell, unrolled": lambda x: _unrolled_pair(_LSTM_CELL, x),
    "GRUCell, unrolled": lambda x: _unrolled(_GRU_CELL, x),
    "Bilinear": lambda x: F.bilinear(x[:, 0], x[:, 1], _CUBE.view(4, 4, 4)),
    "cdist": lambda x: torch.cdist(x[:, 0], _SQUARE),
}

REFUSED: dict[str, Function] = {
    "where by a comparison": lambda x: torch.where(x > 0, x, 0.1 * x),
    "sort, median, topk": lambda x: x.sort(2).values,
    "tan, logit": torch.tan,
    "LPPool": lambda x: F.lp_pool2d(x, 1, 2),
    "assignment to a slice": lambda x: _written(x),
    "sign": torch.sign,
    "round": torch.round,
    "floor, ceil, trunc": torch.floor,
    "frac, remainder, fmod": lambda x: torch.remainder(x, 1),
    "heaviside, comparisons": lambda x: (x > 0).to(x.dtype),
    "argmax, one_hot": lambda x: F.one_hot(x.argmax(1), 4).to(x.dtype),
    "fft": lambda x: torch.fft.rfft2(x).real,
    "Hardshrink": nn.Hardshrink(),
    "Threshold that jumps": nn.Threshold(0.1, 0.0),
    "dropout in training": lambda x: F.dropout(x, 0.5, True),
    "rand, randn": lambda x: x + torch.randn_like(x),
    "a branch on values": lambda x: x if x.sum() > 0 else -x,
    "a loop on values": lambda x: x[:, : int(x[0, 0, 0, 0].item())],
    "RNN": lambda x: _RNN(x[:, 0])[0],
    "LSTM": lambda x: _LSTM(x[:, 0])[0],
    "GRU": lambda x: _GRU(x[:, 0])[0],
    "sum over the batch": lambda x: x - x.mean(0),
    "index by what varies": lambda x: x.gather(1, x.argmax(1, keepdim=True)),
    "grid_sample at places that vary": lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), align_corners=False),
    "cumprod": lambda x: x.cumprod(1),
    "inverse, solve": lambda x: torch.linalg.inv(x),
    "half precision": lambda x: x.half().to(x.dtype),
    "complex": lambda x: torch.view_as_real(torch.complex(x, x)).flatten(1),
    "quantised": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127),
}


def _unrolled(cell: nn.Module, x: Tensor) -> Tensor:
    state = x[:, 3, 0] * 0
    for step in range(3):
        state = cell(x[:, step, 0], state)
    return state


def _unrolled_pair(cell: nn.Module, x: Tensor) -> Tensor:
    state = x[:, 3, 0] * 0, x[:, 3, 0] * 0
    for step in range(3):
        state = cell(x[:, step, 0], state)
    return state[0]


FAMILIES: dict[str, tuple[str, dict[str, Function]]] = {
    "same": ("Same values", SAME),
    "linear": ("Linear", LINEAR),
    "piecewise": ("Piecewise linear", PIECEWISE),
    "smooth": ("Smooth", SMOOTH),
    "products": ("Products, quotients, norms", PRODUCTS),
    "refused": ("Refused", REFUSED),
}
"""By a short name: the title, and the idioms."""
