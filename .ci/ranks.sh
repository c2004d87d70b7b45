# Sourced by what runs real ranks: a program with MPI, a scratch folder, tiny runs, and whether two of them ended with the same bits.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 # containers
export RAYON_NUM_THREADS=1
target=${CARGO_TARGET_DIR:-target}

if [[ -z ${PROSPECT:-} ]]; then
    cargo build --locked -p prospect --features mpi
fi
prospect=$(realpath "${PROSPECT:-$target/debug/prospect}")
golden=$(realpath fixtures/golden)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Writes the configuration of a run: its name, trainer, steps, and more lines.
run_of() {
    local data=kto_chat.jsonl
    [[ $2 == sft ]] && data=sft_prompt_completion.jsonl
    cat >"$scratch/$1.yaml" <<YAML
trainer: $2
model_name_or_path: $golden/models/qwen2
dataset_name: $golden/data/$data
output_dir: $scratch/$1
max_length: 128
max_steps: $3
per_device_train_batch_size: 2
train_batch_size: 12
elastic: true
learning_rate: 1e-3
logging_steps: 1
threads: 1
dist_timeout: 20
${4:-}
YAML
    [[ ${4:-} == *save_steps* ]] || echo "save_steps: 2" >>"$scratch/$1.yaml"
}

# The hash of what a run ended with.
result() {
    cat "$scratch/$1"/final/*.safetensors | sha256sum | cut -d' ' -f1
}

same() {
    if [[ $(result "$1") != $(result "$2") ]]; then
        echo "$1 and $2 ended with other bits" >&2
        exit 1
    fi
    echo "$1 = $2: $(result "$1" | cut -c1-16)"
}
