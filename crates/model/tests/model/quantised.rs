//! Bases held in codes, made when a model is loaded or read from a file.

use crate::{context, golden_dir, load, load_held};
use kernels::Cpu;
use model::{Built, Keep, Parts, Storage, Tuning};
use nn::Context;
use pack::{Answer, Family, plan_packs};
use std::path::PathBuf;
use weights::{Checkpoint, Code, Scheme};

const SCHEMES: [(Code, bool); 4] = [(Code::Nf4, true), (Code::Nf4, false), (Code::Fp4, true), (Code::Int8, false)];

/// A folder of one test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("model-test-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn logits(cpu: &Cpu<f32>, built: &Built<Cpu<f32>>) -> Vec<f32> {
    logits_in(&context(cpu, built), built)
}

/// Logits of a short text.
pub(crate) fn logits_in(ctx: &Context<Cpu<f32>>, built: &Built<Cpu<f32>>) -> Vec<f32> {
    let tokens: Vec<u32> = (0..24).map(|i| i * 37 % built.decoder.blueprint.vocab as u32).collect();
    let answer = Answer { tokens: &tokens, scored: None, sequence: 0, grad: true };
    let pack = plan_packs(&[Family { prompt: &[], answers: vec![answer] }], 64).remove(0);
    let forward = built.decoder.forward(ctx, &pack, &Parts::new(ctx.backend, &pack), Keep::Nothing);
    built.decoder.logits(ctx, &forward)
}

#[test]
fn a_base_quantised_when_loaded_is_the_one_that_was_written_quantised() {
    let cpu = Cpu::<f32>::new(2);
    let own = load(&cpu, "qwen2", Tuning::Frozen);
    for (i, (code, nested)) in SCHEMES.into_iter().enumerate() {
        let scheme = Scheme { code, nested };
        let skip = vec!["o_proj".to_owned(), "model.layers.1.mlp".to_owned()];
        let storage = Storage { scheme: Some(scheme), skip: skip.clone(), ..Storage::default() };
        let loaded = logits(&cpu, &load_held(&storage, &cpu, "qwen2", Tuning::Frozen));

        let (from, out) = (golden_dir().join("models/qwen2"), Folder::new(&format!("written-{i}")));
        let checkpoint = Checkpoint::open(&from).unwrap();
        weights::quantise_folder(&checkpoint, &out.0, scheme, &skip, &mut |_, _| {}).unwrap();
        let blueprint = model::arch::blueprint(&weights::read_config(&out.0).unwrap()).unwrap();
        let written = Checkpoint::open(&out.0).unwrap();
        let read = Built::new(&cpu, &written, blueprint.clone(), Tuning::Frozen, 256).unwrap();
        assert!(loaded == logits(&cpu, &read), "{code:?}: not the same bits");
        assert!(loaded != logits(&cpu, &own), "{code:?}: the base is not quantised");

        let trained = Built::new(&cpu, &written, blueprint, Tuning::Full, 8).err().unwrap().to_string();
        assert!(trained.contains("held in codes, which cannot be trained; set use_peft"), "{trained}");
    }
}

#[test]
fn experts_and_fused_layers_are_held_in_codes_too() {
    let cpu = Cpu::<f32>::new(2);
    for arch in ["deepseek_v3", "qwen2_moe", "gpt_oss", "phi3", "mixtral"] {
        if !golden_dir().join("models").join(arch).is_dir() {
            continue;
        }
        let own = logits(&cpu, &load(&cpu, arch, Tuning::Frozen));
        let size = own.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        let mut apart = Vec::new();
        for code in [Code::Int8, Code::Nf4] {
            let storage = Storage { scheme: Some(Scheme { code, nested: false }), ..Storage::default() };
            let got = logits(&cpu, &load_held(&storage, &cpu, arch, Tuning::Frozen));
            apart.push(own.iter().zip(&got).map(|(a, b)| f64::from((a - b) * (a - b))).sum::<f64>().sqrt() / size);
        }
        assert!(
            apart[0] > 0.0 && apart[1] > apart[0],
            "{arch}: eight bits are off by {}, four by {}",
            apart[0],
            apart[1]
        );
    }
}
