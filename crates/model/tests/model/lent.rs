//! Frozen matrices in parts: a rank's is its share, and all of them give the model again, bit for bit.

use crate::quantised::logits_in;
use crate::{adapters, context, golden_dir, load_held, unfilled};
use kernels::{Backend, Cpu, HostBytes};
use model::{Lending, Lent, Storage, Tuning, Unfilled};
use nn::{Away, Context, Gathered, Params};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use weights::{Code, Scheme};

/// Every rank's parts, unit by unit.
struct Ranks {
    table: nn::Table,
    lent: Vec<Vec<Lent>>,
    /// Bytes of units that are whole.
    whole: Arc<AtomicUsize>,
    units: AtomicUsize,
}

/// The bytes of a unit, counted until they are freed.
struct Counted(Vec<u8>, Arc<AtomicUsize>);

impl HostBytes for Counted {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(self.0.len(), Relaxed);
    }
}

impl<B: Backend> Away<B> for Ranks {
    fn gather(&self, backend: &B, _: &Params<B>, unit: usize) -> Option<Gathered<'_, B>> {
        let bytes: Vec<u8> = self.lent.iter().flat_map(|rank| rank[unit].own().iter().copied()).collect();
        let before = self.whole.fetch_add(bytes.len(), Relaxed);
        assert_eq!(before, 0, "unit {unit} comes while another is there");
        self.units.fetch_add(1, Relaxed);
        let lent = self.lent[0][unit].matrices(backend, Counted(bytes, Arc::clone(&self.whole)));
        Some(Gathered { table: &self.table, values: backend.mat(1, 0), halves: backend.mat(1, 0), lent })
    }

    fn ahead(&self, _: &B, _: &Params<B>, _: usize) {}
}

/// The model in parts on so many ranks gives the logits of the whole one. Returns bytes that ranks have.
fn assert_same_in_parts(arch: &str, storage: &Storage, members: usize, mapped: bool) -> Vec<usize> {
    let cpu = Cpu::<f32>::new(1);
    let whole = load_held(storage, &cpu, arch, Tuning::Frozen);
    let of = |member| {
        let lending = Some(Lending { members, member, mapped });
        unfilled(&Storage { lending, ..storage.clone() }, &cpu, arch, Tuning::Frozen)
    };
    let mut ranks: Vec<Unfilled<_>> = (0..members).map(of).collect();
    let lent: Vec<Vec<Lent>> = ranks.iter_mut().map(|rank| std::mem::take(&mut rank.lent)).collect();
    let bytes = lent.iter().map(|units| units.iter().map(|unit| unit.own().len()).sum()).collect();
    let away = Ranks { table: nn::Table::default(), lent, whole: Arc::default(), units: AtomicUsize::default() };
    let built = ranks.remove(0).whole(&cpu);
    let plain = context(&cpu, &built);
    let ctx = Context { params: Params { away: Some(&away), ..plain.params }, ..plain };
    let expected = logits_in(&context(&cpu, &whole), &whole);
    assert!(logits_in(&ctx, &built) == expected, "{arch}, {storage:?}: not the same bits");
    let units = away.lent[0].len();
    assert!(
        away.units.load(Relaxed) >= units && away.whole.load(Relaxed) == 0,
        "{arch}: not each of {units} units, or not freed"
    );
    bytes
}

#[test]
fn a_base_in_parts_is_the_whole_one() {
    let coded = |code, nested| Storage { scheme: Some(Scheme { code, nested }), ..Storage::default() };
    let bf16 = Storage { bf16: true, ..Storage::default() };
    let cases = [
        ("qwen2", coded(Code::Nf4, true)),
        ("deepseek_v3", coded(Code::Fp4, false)),
        ("qwen2_moe", coded(Code::Int8, false)),
        ("oss_mxfp4", bf16.clone()),
        ("qwen3", bf16),
    ];
    for (arch, storage) in cases.iter().filter(|(arch, _)| golden_dir().join("models").join(arch).is_dir()) {
        let bytes = assert_same_in_parts(arch, storage, 3, false);
        let (least, most) = (bytes.iter().min().unwrap(), bytes.iter().max().unwrap());
        assert!(*least > 0 && most - least < 100, "{arch}: {bytes:?}");
    }
    // What is mapped comes with its unit where a device copies it, and nobody sends it.
    assert_eq!(assert_same_in_parts("llama", &Storage::default(), 2, true), [0, 0]);
    assert_eq!(assert_same_in_parts("llama", &Storage::default(), 2, false), [0, 0]);
}

#[test]
fn lengths_of_rows_are_those_of_the_whole_matrix() {
    let cpu = Cpu::<f32>::new(1);
    let blueprint = load_held(&Storage::default(), &cpu, "qwen2", Tuning::Frozen).decoder.blueprint;
    let dora = model::Adapters { dora: true, ..adapters(&blueprint, 2) };
    let storage = Storage { scheme: Some(Scheme { code: Code::Nf4, nested: false }), ..Storage::default() };
    let lending = Some(Lending { members: 4, member: 1, mapped: false });
    let values = |storage: &Storage| {
        let built = load_held(storage, &cpu, "qwen2", Tuning::Lora(&dora));
        kernels::Memory::to_host(&cpu, built.values.view())
    };
    let (whole, part) = (values(&storage), values(&Storage { lending, ..storage.clone() }));
    assert!(whole.iter().any(|x| *x != 0.0) && whole == part);
}
