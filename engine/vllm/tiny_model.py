"""A tiny model folder that real vLLM serves: 2 layers, a 4,096 word byte-level tokenizer, seeded random weights.

What it writes is noise, but noise that depends on the whole context, so greedy output and log-probabilities tell two
prompts or two KV caches apart. The same arguments give the same folder on the same Python and tokenizers version.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import struct
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointsman.engine.vllm.errors import MissingExtraError

TINY = "tiny"
TINY_MOE = "tiny-moe"
"""The model names that mean this one: dense, and with four experts."""

CORPUS_CHARACTERS_MAX = 6_000_000
"""The tokenizer learns from this much of Python's standard library: 1.5 s, and the vocabulary is full."""

_VOCABULARY = 4096
_LAYERS = 2
_HIDDEN = 64
_HEADS = 2
_HEAD_DIM = 32  # The least vLLM's CPU attention accepts.
_EXPERTS = 4
_CONTEXT = 32_768
_END_OF_TEXT, _TURN_START, _TURN_END = _SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_RECIPE = 1
"""Goes into the name of the cached folder: raise it when the files change."""


def cached_tiny_model(cache: Path | None = None, *, experts: bool = False) -> Path:
    """Folder of the model in the cache, made when it is not there; two processes may ask at once.

    `experts`: whether the model is one with experts, else dense.
    `cache`: by default `$XDG_CACHE_HOME/pointsman` or `~/.cache/pointsman`.

    The folder's name holds a digest of all that decides its content. Raises what `make_tiny_model` raises.
    """
    root = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pointsman"
    made_of = json.dumps([_RECIPE, platform.python_version(), _version("tokenizers")])
    folder = root / f"{TINY_MOE if experts else TINY}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=root))
    try:
        make_tiny_model(draft, experts=experts)
        draft.chmod(0o755)
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():  # Not because another process was first.
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def make_tiny_model(out: Path, *, experts: bool = False) -> None:
    """Write the model's files into `out`. Raises MissingExtraError without tokenizers (it comes with vLLM)."""
    out.mkdir(parents=True, exist_ok=True)
    end_of_turn, padding = _write_tokenizer(out)
    _write_json(out / "config.json", _model_config(experts, end_of_turn, padding))
    generation = {"eos_token_id": end_of_turn, "pad_token_id": padding, "do_sample": True, "temperature": 1.0}
    _write_json(out / "generation_config.json", generation)
    _write_weights(out / "model.safetensors", experts)


def _write_tokenizer(out: Path) -> tuple[int, int]:
    """Train and write the tokenizer; answers the ids of end-of-turn and padding."""
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError as error:
        raise MissingExtraError("tokenizers") from error
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(_SPECIAL),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.save(str(out / "tokenizer.json"))
    ids = {word: int(tokenizer.token_to_id(word)) for word in _SPECIAL}
    plain = {"special": True, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    _write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": None,
            "eos_token": _TURN_END,
            "pad_token": _END_OF_TEXT,
            "unk_token": None,
            "add_bos_token": False,
            "additional_special_tokens": [_TURN_START, _TURN_END],
            "added_tokens_decoder": {str(ids[word]): {"content": word, **plain} for word in _SPECIAL},
            "chat_template": _CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "model_max_length": _CONTEXT,
        },
    )
    return ids[_TURN_END], ids[_END_OF_TEXT]


def _corpus() -> Iterator[str]:
    left = CORPUS_CHARACTERS_MAX
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")[:left]
        left -= len(text)
        yield text


def _model_config(experts: bool, end_of_turn: int, padding: int) -> dict[str, object]:
    config: dict[str, object] = {
        "vocab_size": _VOCABULARY,
        "hidden_size": _HIDDEN,
        "intermediate_size": 2 * _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS,
        "head_dim": _HEAD_DIM,
        "max_position_embeddings": _CONTEXT,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": padding,
        "eos_token_id": end_of_turn,
        "pad_token_id": padding,
    }
    if not experts:
        return config | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
    return config | {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_experts": _EXPERTS,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": _HIDDEN,
        "decoder_sparse_step": 1,
        "norm_topk_prob": True,
        "mlp_only_layers": [],
        "router_aux_loss_coef": 0.001,
    }


def _shapes(experts: bool) -> dict[str, tuple[int, ...]]:
    """Tensors of a checkpoint by their Hugging Face names. The output layer is the embedding's (tied)."""
    inner = _HEADS * _HEAD_DIM
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (_VOCABULARY, _HIDDEN),
        "model.norm.weight": (_HIDDEN,),
    }
    for layer in range(_LAYERS):
        at = f"model.layers.{layer}"
        shapes[f"{at}.input_layernorm.weight"] = (_HIDDEN,)
        shapes[f"{at}.post_attention_layernorm.weight"] = (_HIDDEN,)
        for name in ("q_proj", "k_proj", "v_proj"):
            shapes[f"{at}.self_attn.{name}.weight"] = (inner, _HIDDEN)
        shapes[f"{at}.self_attn.o_proj.weight"] = (_HIDDEN, inner)
        shapes[f"{at}.self_attn.q_norm.weight"] = (_HEAD_DIM,)
        shapes[f"{at}.self_attn.k_norm.weight"] = (_HEAD_DIM,)
        if experts:
            shapes[f"{at}.mlp.gate.weight"] = (_EXPERTS, _HIDDEN)
            for expert in range(_EXPERTS):
                shapes |= _feed_forward(f"{at}.mlp.experts.{expert}", _HIDDEN)
        else:
            shapes |= _feed_forward(f"{at}.mlp", 2 * _HIDDEN)
    return shapes


def _feed_forward(at: str, width: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{at}.gate_proj.weight": (width, _HIDDEN),
        f"{at}.up_proj.weight": (width, _HIDDEN),
        f"{at}.down_proj.weight": (_HIDDEN, width),
    }


def _write_weights(path: Path, experts: bool) -> None:
    """A safetensors file: header length (u64), header (JSON, padded to 8 bytes), tensors. numpy has no bfloat16."""
    rng = np.random.default_rng(0)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    tensors: list[bytes] = []
    at = 0
    for name, shape in _shapes(experts).items():
        # The upper half of each float is its bfloat16.
        tensors.append((_values(rng, name, shape).view(np.uint32) >> 16).astype("<u2").tobytes())
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + len(tensors[-1])]}
        at += len(tensors[-1])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(b"".join([struct.pack("<Q", len(text)), text, *tensors]))


def _values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if len(shape) == 1:  # A norm's scale.
        return np.ones(shape, np.float32)
    # Wide enough that the context moves the logits well beyond the rounding of bfloat16.
    spread = 0.6 if "embed" in name else 1.5 / shape[-1] ** 0.5
    return rng.normal(0.0, spread, shape).astype(np.float32)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")
