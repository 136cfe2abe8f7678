"""Tiny generated models of each family: real architectures, random weights, a few thousand parameters."""

from __future__ import annotations

import torch
import transformers as tf
from torch import nn

VOCABULARY = 100
_SMALL = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_FEED = {**_SMALL, "intermediate_size": 32, "max_position_embeddings": 64}
_GROUPED = {**_FEED, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

CONFIGS = {
    "bert": lambda: tf.BertConfig(**_FEED),
    "roberta": lambda: tf.RobertaConfig(**_FEED, pad_token_id=1),
    "distilbert": lambda: tf.DistilBertConfig(
        vocab_size=VOCABULARY, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=64
    ),
    "electra": lambda: tf.ElectraConfig(**_FEED, embedding_size=8),
    "deberta-v2": lambda: tf.DebertaV2Config(
        **_FEED, relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False
    ),
    "modernbert": lambda: tf.ModernBertConfig(
        **_FEED, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
        global_attn_every_n_layers=2, local_attention=16,
    ),
    "gpt2": lambda: tf.GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2,
        pad_token_id=0,
    ),
    "llama": lambda: tf.LlamaConfig(**_GROUPED),
    "qwen": lambda: tf.Qwen2Config(**_GROUPED),
    "gemma3": lambda: tf.Gemma3TextConfig(**_GROUPED, sliding_window=16),
    "opt": lambda: tf.OPTConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32,
        max_position_embeddings=64, word_embed_proj_dim=16, pad_token_id=1, bos_token_id=2, eos_token_id=2,
    ),
    "t5": lambda: tf.T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    ),
    "t5-gated": lambda: tf.T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0,
        feed_forward_proj="gated-gelu",
    ),
}  # fmt: skip
ENCODERS = ("bert", "roberta", "distilbert", "electra", "deberta-v2", "modernbert")
DECODERS = ("gpt2", "llama", "qwen", "gemma3", "opt")
BOTH = ("t5", "t5-gated")


def tiny(family: str, head: str | None = None, *, labels: int = 3, seed: int = 0) -> nn.Module:
    """A tiny model. ``head`` defaults to a classifier for encoders and to the language-model head for the others."""
    config = CONFIGS[family]()
    head = head or (
        "sequence-classification" if family in ENCODERS else "seq2seq-lm" if family in BOTH else "causal-lm"
    )
    classes = {
        "sequence-classification": tf.AutoModelForSequenceClassification,
        "token-classification": tf.AutoModelForTokenClassification,
        "causal-lm": tf.AutoModelForCausalLM,
        "seq2seq-lm": tf.AutoModelForSeq2SeqLM,
    }
    if "classification" in head:
        config.num_labels = labels
    torch.manual_seed(seed)
    model = classes[head].from_config(config)
    for parameter in model.parameters():  # random biases and gains: zeros would hide mistakes
        nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


def batch(family: str, rows: int = 3, length: int = 7, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random ids without special tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCABULARY, (rows, length), generator=generator)
    made = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if family in BOTH:
        made["decoder_input_ids"] = ids.flip(1)
    return made
