"""Answers the prompts of a JSONL file together, greedily, with transformers; prints one line of JSON.

Conversations go through the model's chat template. What is counted is `generate` alone, after a short call that is not.
"""

import argparse
import json
import os
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("prompts")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()

    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).to(args.device).eval()
    with open(args.prompts) as rows:
        prompts = [json.loads(row)["prompt"] for row in rows]
    texts = [p if isinstance(p, str) else tokenizer.apply_chat_template(p, add_generation_prompt=True, tokenize=False) for p in prompts]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=isinstance(prompts[0], str)).to(args.device)

    def generate(tokens):
        settings = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "pad_token_id": tokenizer.pad_token_id}
        with torch.inference_mode():
            answers = model.generate(**batch, min_new_tokens=tokens, max_new_tokens=tokens, **settings)
        return answers[:, batch["input_ids"].shape[1] :].tolist()

    generate(4)
    begin = time.perf_counter()
    token_ids = generate(args.new_tokens)
    seconds = time.perf_counter() - begin
    print(
        json.dumps(
            {
                "tokens_per_second": sum(map(len, token_ids)) / seconds,
                "token_ids": token_ids,
                "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            }
        )
    )


if __name__ == "__main__":
    main()
