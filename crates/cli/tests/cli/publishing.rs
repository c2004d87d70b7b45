//! `export` of adapters and `push`, from a run and to a local server that stands for the Hub.

use crate::fake_hub::FakeHub;
use crate::pulling::command;
use crate::server::HostileServer;
use crate::{Scratch, golden, objects, stderr, text};
use serde_json::{Value, json};

#[test]
fn a_run_is_exported_for_mlx_and_comes_back_as_it_was() {
    let scratch = Scratch::new();
    let run = scratch.kto_run("max_steps: 2\nsave_steps: 1");
    scratch.succeeds(&["train", text(&run)]);
    let written = objects(&scratch.succeeds(&["export", "npz", "run", "--output", "npz", "--json"]));
    let names: Vec<&str> = written.iter().map(|w| w["files"][0].as_str().unwrap()).collect();
    assert_eq!(names, ["npz/lora_adapters.npz", "npz/checkpoint_step_1.npz", "npz/checkpoint_step_2.npz"]);
    scratch.succeeds(&["export", "mlx-lm", "npz", "--output", "lm"]);
    let config: Value =
        serde_json::from_slice(&std::fs::read(scratch.join("lm/adapter_config.json")).unwrap()).unwrap();
    assert_eq!(
        (&config["fine_tune_type"], &config["lora_parameters"]["scale"]),
        (&json!("lora"), &written[0]["scale"])
    );
    scratch.succeeds(&["export", "peft", "lm", "--output", "peft"]);
    let bytes = |path: &str| std::fs::read(scratch.join(path).join("adapter_model.safetensors")).unwrap();
    assert!(bytes("peft") == bytes("run/final"));
    // What came back answers as the run does.
    let model = golden("models/qwen2");
    let ask = |adapter: &str| {
        let args = ["generate", text(&model), "--adapter", adapter, "--prompt", "2 + 3?", "--json"];
        scratch.succeeds(&[&args[..], &["--max-new-tokens", "4"]].concat())
    };
    assert_eq!(ask("peft"), ask("run/final"));

    std::fs::remove_file(scratch.join("npz/lora_adapters.json")).unwrap();
    let unscaled = scratch.prospect(&["export", "peft", "npz/lora_adapters.npz", "--output", "again"]);
    assert_eq!((unscaled.status.code(), stderr(&unscaled).contains("give --alpha")), (Some(6), true));
    let taken = scratch.prospect(&["export", "peft", "run", "--output", "peft"]);
    assert_eq!(taken.status.code(), Some(2));
}

#[test]
fn a_run_is_pushed_with_all_that_is_made_of_it_in_one_commit() {
    let scratch = Scratch::new();
    let run = scratch.kto_run("max_steps: 1");
    scratch.succeeds(&["train", text(&run)]);
    let hub = FakeHub::default();
    let serving = hub.clone();
    let server = HostileServer::start(move |request| serving.answer(request));
    let push = ["push", "run", "org/tiny", "--what", "adapter,merged", "--gguf", "Q8_0", "--private"];
    let told = [&push[..], &["--token", "hf_CANARY_told", "--license", "mit", "--json"]].concat();
    let output = command(&scratch, &server, &told).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("--token can be read by") && !said.contains("hf_CANARY"), "{said}");
    let report = objects(&String::from_utf8(output.stdout).unwrap()).remove(0);
    assert_eq!((&report["commit"], &report["unchanged"]), (&json!(hub.commit()), &json!(0)));
    {
        let state = hub.state.lock().unwrap();
        assert!(state.private && state.commits == 1);
        for name in
            ["adapter/adapter_model.safetensors", "config.json", "model.safetensors", "tiny-Q8_0.gguf", "Modelfile"]
        {
            assert!(state.files.contains_key(name), "{name} of {:?}", state.files.keys());
        }
        let card = String::from_utf8(state.files["README.md"].0.clone()).unwrap();
        assert!(card.contains("license: \"mit\"") && card.contains("| tiny-Q8_0.gguf |"), "{card}");
        assert!(card.contains("kto_chat.jsonl |") && card.contains("![plots/training.png]"), "{card}");
        assert!(!card.contains(text(&scratch.0)), "{card}");
        assert!(
            state.files["adapter/adapter_model.safetensors"].0
                == std::fs::read(scratch.join("run/final/adapter_model.safetensors")).unwrap()
        );
    }
    assert!(!scratch.join("run/final/.cache").exists());
    let again =
        command(&scratch, &server, &["push", "run/final", "org/tiny", "--save-method", "lora"]).output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    assert!(hub.state.lock().unwrap().files.contains_key("adapter_config.json"));

    let mut without = command(&scratch, &server, &push);
    let output = without.env_remove("HF_TOKEN").output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).contains("no token")), (Some(2), true));
    let whole =
        command(&scratch, &server, &["push", text(&golden("models/qwen2")), "org/tiny", "--what", "adapter"]).output();
    assert_eq!(whole.unwrap().status.code(), Some(2));
}

#[test]
fn the_doctor_trains_a_little_and_says_what_is_in_the_way() {
    let scratch = Scratch::new();
    let findings = objects(&scratch.succeeds(&["doctor", "--offline", "--json"]));
    let of = |check: &str| findings.iter().find(|finding| finding["check"] == check).unwrap();
    assert_eq!(of("a small training run")["state"], "ok");
    assert!(of("GPU")["found"].is_string());
    assert!(of("Hugging Face Hub")["found"].as_str().unwrap().contains("not asked"));
    assert!(findings.iter().all(|finding| finding["state"] != "ok" || finding["todo"].is_null()), "{findings:?}");
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0, "it leaves nothing behind");
    let script = scratch.succeeds(&["completions", "bash"]);
    assert!(script.contains("push") && script.contains("--what"), "{} bytes", script.len());
    scratch.succeeds(&["__man", "man"]);
    let page = std::fs::read_to_string(scratch.join("man/prospect-push.1")).unwrap();
    assert!(page.contains("Upload a result"), "{page}");
}
