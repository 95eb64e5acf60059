#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a folder that vLLM serves at the speed of a llama GGUF file: its configuration and vocabulary, no weights.

usage: hf_folder.py MODEL.gguf FOLDER          (run with vLLM's python and the package `gguf`)

vLLM takes random weights of the right shapes with --load-format dummy; speed does not depend on their values. The
tokenizer is a byte-level BPE of the file's tokens and merges, as much as a client that sends token ids needs.
"""
import json
import os
import sys

import gguf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    reader = gguf.GGUFReader(sys.argv[1])
    folder = sys.argv[2]

    def value(key, default=None):
        field = reader.fields.get(key)
        return field.contents() if field is not None else default

    if value("general.architecture") != "llama" or value("tokenizer.ggml.model") != "gpt2":
        sys.exit("hf_folder: only llama models with a gpt2 vocabulary are known here")
    heads = value("llama.attention.head_count")
    hidden = value("llama.embedding_length")
    tokens = value("tokenizer.ggml.tokens")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_act": "silu",
        "hidden_size": hidden, "intermediate_size": value("llama.feed_forward_length"),
        "num_hidden_layers": value("llama.block_count"), "num_attention_heads": heads,
        "num_key_value_heads": value("llama.attention.head_count_kv", heads),
        "head_dim": value("llama.attention.key_length", hidden // heads),
        "max_position_embeddings": value("llama.context_length"), "vocab_size": len(tokens),
        "rms_norm_eps": value("llama.attention.layer_norm_rms_epsilon"), "rope_theta": value("llama.rope.freq_base", 10000.0),
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in reader.tensors),
        "bos_token_id": value("tokenizer.ggml.bos_token_id"), "eos_token_id": value("tokenizer.ggml.eos_token_id"),
    }
    merges = [tuple(merge.split(" ", 1)) for merge in value("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, value("tokenizer.ggml.token_type")) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    os.makedirs(folder, exist_ok=True)
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    with open(os.path.join(folder, "config.json"), "w") as out:
        json.dump(config, out, indent=1)
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as out:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": tokens[config["eos_token_id"]]}, out, indent=1)


main()
