"""What to do about operators that stay without a bound: part of their refusal."""

from __future__ import annotations

_JUMPS = "it jumps"
_QUANTISED = f"{_JUMPS}; certify the network without it"
_COMPARED = f"{_JUMPS}; relu, maximum, minimum, clamp and abs do not, nor does where with a mask that is fixed"
_PLACES = "places jump; the largest and least values (amax, amin, max over a dimension) do not"
_RANDOM = "a network that draws random numbers is not one function; draw them once, into a buffer"
_SIGNAL = "a fixed transform is linear: multiply by its matrix"
_RECURRENT = "write the steps out over time, with nn.RNNCell, LSTMCell or GRUCell"
_COMPLEX = "keep real and imaginary parts in two tensors"

ALTERNATIVES: dict[str, str] = {
    **dict.fromkeys(("sign", "sgn"), f"{_JUMPS}; hardtanh or tanh of a multiple of x does not"),
    **dict.fromkeys(("round", "floor", "ceil", "trunc", "fix", "frac", "remainder", "fmod"), _QUANTISED),
    **dict.fromkeys(("fake_quantize_per_tensor_affine", "fake_quantize_per_channel_affine"), _QUANTISED),
    **dict.fromkeys(("gt", "ge", "lt", "le", "eq", "ne", "heaviside", "signbit"), _COMPARED),
    **dict.fromkeys(("argmax", "argmin", "argsort", "sort", "topk", "kthvalue", "median", "nanmedian"), _PLACES),
    **dict.fromkeys(
        ("rand_like", "randn_like", "randint_like", "rand", "randn", "bernoulli", "normal", "uniform", "multinomial"),
        _RANDOM,
    ),
    **dict.fromkeys(
        (f"fft_{kind}fft{size}" for kind in ("", "i", "r", "ir", "h", "ih") for size in ("", "2", "n")),
        _SIGNAL,
    ),
    **dict.fromkeys(("stft", "istft"), _SIGNAL),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _RECURRENT),
    **dict.fromkeys(("complex", "view_as_complex", "view_as_real", "real", "imag", "polar"), _COMPLEX),
    "hardshrink": f"{_JUMPS}; softshrink does not",
    "threshold": f"{_JUMPS}, unless the threshold is the value that stands for what lies below",
}
"""By the name of an ATen call, without its overload."""


def advice(call: str) -> str:
    """For a call such as "aten.sign.default"."""
    name = call.removeprefix("aten.").partition(".")[0].rstrip("_")
    return ALTERNATIVES.get(name, "docs/operators.md lists those that have one, docs/extending.md says how to add one")
