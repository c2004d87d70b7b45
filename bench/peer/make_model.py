"""Writes a model folder with random weights in one of the shapes that are measured.

    python bench/peer/make_model.py small-105m TOKENIZER_DIR models/small-105m
    python bench/peer/make_model.py qwen2.5-0.5b TOKENIZER_DIR models/qwen2.5-0.5b

The tokenizer is copied; any folder that transformers loads one from will do. Speed depends on shapes, not on values.
"""

import argparse

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config


def config(shape, tokenizer):
    tokens = dict(
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
    )
    if shape == "small-105m":
        return LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=512,
            intermediate_size=1408,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=8192,
            **tokens,
        )
    return Qwen2Config(
        vocab_size=max(151936, len(tokenizer)),
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        **tokens,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=["small-105m", "qwen2.5-0.5b"])
    parser.add_argument("tokenizer", help="folder with tokenizer.json")
    parser.add_argument("output", help="folder to write")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    args = parser.parse_args()

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    model = AutoModelForCausalLM.from_config(config(args.shape, tokenizer), dtype=getattr(torch, args.dtype))
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    print(f"{args.output}: {model.num_parameters():,} parameters")


if __name__ == "__main__":
    main()
