"""Steps of TRL's trainers on a model folder and a JSONL file; prints one line of JSON.

The first step is not counted. Speed is that of the others, memory the high-water mark of the whole process.
"""

import argparse
import json
import os
import statistics
import tempfile
import time

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import peft
import torch
import transformers
import trl

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class StepTimes(transformers.TrainerCallback):
    def __init__(self):
        self.seconds = []

    def on_step_begin(self, args, state, control, **kwargs):
        finish()
        self.begin = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        finish()
        self.seconds.append(time.perf_counter() - self.begin)


def finish():
    """Waits for what a GPU has still to do."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def high_water():
    """Resident peak of this process in bytes. `ru_maxrss` would begin at the size of the process that started us."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def trainer_of(args, rows, folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.model, dtype=getattr(torch, args.dtype), attn_implementation="sdpa"
    )
    adapter = None
    if args.lora:
        adapter = peft.LoraConfig(
            r=args.lora, lora_alpha=2 * args.lora, lora_dropout=0.0, target_modules=LINEAR, task_type="CAUSAL_LM"
        )
    settings = dict(
        output_dir=folder,
        per_device_train_batch_size=args.batch,
        gradient_accumulation_steps=1,
        max_steps=args.steps,
        learning_rate=1e-5,
        max_length=1024,
        gradient_checkpointing=args.checkpointing,
        bf16=args.bf16,
        use_cpu=args.device == "cpu",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    kind, config = {"kto": (trl.KTOTrainer, trl.KTOConfig), "sft": (trl.SFTTrainer, trl.SFTConfig)}[args.objective]
    return kind(model=model, args=config(**settings), train_dataset=rows, processing_class=tokenizer, peft_config=adapter)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("objective", choices=["kto", "sft"])
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--lora", type=int, default=0, help="rank; 0 trains all weights")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--checkpointing", action=argparse.BooleanOptionalAction, default=True, help="as TRL's default")
    parser.add_argument("--bf16", action="store_true", help="autocast")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the weights")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    rows = datasets.load_dataset("json", data_files=args.data, split="train")
    rows = rows.select(range(min(args.batch * args.steps, len(rows))))
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(args, rows, folder)
        times = StepTimes()
        trainer.add_callback(times)
        trainer.train()
    log = [line for line in trainer.state.log_history if "loss" in line]
    counted = times.seconds[1:]
    tokens = log[-1]["num_tokens"] - log[0]["num_tokens"]
    print(
        json.dumps(
            {
                "rows_per_second": args.batch * len(counted) / sum(counted),
                "tokens_per_second": tokens / sum(counted),
                "median_step_seconds": statistics.median(counted),
                "step_seconds": times.seconds,
                "peak_bytes": high_water(),
                "last_loss": log[-1]["loss"],
                "versions": {m.__name__: str(m.__version__) for m in (trl, transformers, peft, torch)}
                | ({"cuda": torch.version.cuda, "gpu": torch.cuda.get_device_name()} if args.device == "cuda" else {}),
            }
        )
    )


if __name__ == "__main__":
    main()
