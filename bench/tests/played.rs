//! The bench on the GPU that `PROSPECT_GPU` names, else on one played by the CPU: every operator, and steps by part.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

#[test]
fn a_gpu_is_measured_as_the_cpu_is() {
    if !Command::new("c++").arg("--version").output().is_ok_and(|o| o.status.success()) {
        return println!("emulation: skipped, there is no c++ (apt-get install g++)");
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/golden");
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench");
    let output = scratch.join("found");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    match std::env::var("PROSPECT_GPU") {
        Ok(number) if !number.is_empty() => bench.args(["--device", &format!("cuda:{number}")]),
        _ => {
            let kernels = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda");
            bench.args(["--device", "cuda"]).env("PROSPECT_PLAYED_GPU", kernels)
        }
    };
    bench.args(["--operators", "--steps", "--tuning", "lora", "--batch", "2", "--count", "2", "--json"]);
    bench.arg("--model").arg(format!("qwen2={}", golden.join("models/qwen2").display()));
    bench.arg("--sft").arg(golden.join("data/sft_prompt_completion.jsonl"));
    bench.arg("--scratch").arg(&scratch).arg("--output").arg(&output);
    let ended = bench.output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let found: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert!(found["machine"]["gpu"]["memory_bytes"].as_u64() > Some(0) && found["bf16"] == true, "{found}");
    let operators = found["operators"].as_array().unwrap();
    assert!(operators.len() > 40, "{} operators", operators.len());
    for operator in operators {
        assert!(operator["seconds"].as_f64() > Some(0.0), "{operator}");
    }
    let steps = &found["steps"][0];
    assert!(steps["seconds"].as_array().unwrap().len() == 2 && steps["last_loss"].as_f64() > Some(0.0), "{steps}");
    let parts: f64 = steps["parts"].as_array().unwrap().iter().map(|part| part[1].as_f64().unwrap()).sum();
    let wall: f64 = steps["seconds"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).sum();
    assert!((2.0 * parts / wall - 1.0).abs() < 1e-6, "{steps}");
    let page = std::fs::read_to_string(output.join("README.md")).unwrap();
    assert!(page.contains("## Operators") && page.contains("Memory of programs: "), "{page}");
    std::fs::remove_dir_all(scratch).unwrap();
}
