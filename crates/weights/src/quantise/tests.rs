//! Codes and scales beside those of bitsandbytes, and checkpoints that were tampered with.

use super::*;
use crate::checkpoint::Checkpoint;
use crate::dtype::{Tensor, TensorInfo};
use crate::safetensors::SafeTensors;
use crate::testdir::TestDir;
use crate::write::{write_model, write_tensors};
use half::bf16;
use kernels::Scales;
use std::path::Path;

fn theirs() -> SafeTensors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/weights/quantised/quantised.safetensors");
    SafeTensors::open(&path).unwrap()
}

const INPUTS: [&str; 10] = ["square", "odd", "half", "float16", "many", "edges", "zeros", "tiny", "one", "huge"];
const SCHEMES: [(Code, bool); 5] =
    [(Code::Nf4, false), (Code::Nf4, true), (Code::Fp4, false), (Code::Fp4, true), (Code::Int8, false)];

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn codes_scales_and_values_are_those_of_bitsandbytes_bit_for_bit() {
    let theirs = theirs();
    let mut compared = 0;
    for input in INPUTS {
        let tensor = theirs.get(input).unwrap();
        for (code, nested) in SCHEMES {
            let prefix = format!("{input}.{}{}", code.name(), if nested { ".nested" } else { "" });
            let Some(codes) = theirs.get(&format!("{prefix}.codes")) else { continue };
            let want = |part: &str| theirs.get(&format!("{prefix}.{part}"));
            let ours = Quantised::new(&tensor, Scheme { code, nested }).unwrap();
            assert_eq!(ours.bytes(), codes.bytes(), "{prefix}: codes");
            let absmax = want("absmax").unwrap();
            match &ours.codes().scales {
                Scales::Plain(scales) => assert_eq!(bits(scales), bits(&absmax.to_f32().unwrap()), "{prefix}: scales"),
                Scales::Nested { codes, scales, offset, table, .. } => {
                    assert_eq!(
                        offset.to_bits(),
                        want("offset").unwrap().to_f32().unwrap()[0].to_bits(),
                        "{prefix}: offset"
                    );
                    assert_eq!(bits(scales), bits(&want("nested_absmax").unwrap().to_f32().unwrap()), "{prefix}");
                    assert_eq!(&codes[..], absmax.bytes(), "{prefix}: codes of scales");
                    assert_eq!(bits(&table[..]), bits(&theirs.get("dynamic_map").unwrap().to_f32().unwrap()));
                }
            }
            if let Some(values) = want("values") {
                let (mut got, want) = (vec![0.0f32; ours.element_count()], values.to_f32().unwrap());
                ours.read_range(0, &mut got);
                // Zero has two signs, of which a product keeps neither.
                let same = got.iter().zip(&want).all(|(g, w)| g == w || (g.is_nan() && w.is_nan()));
                assert!(same, "{prefix}: values");
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 9 * 5 + 1);
}

#[test]
fn what_is_not_finite_is_not_quantised() {
    let dir = TestDir::new();
    for (value, code, refused) in [
        (f32::NAN, Code::Nf4, true),
        (f32::INFINITY, Code::Fp4, true),
        (7e4, Code::Int8, true),
        (7e4, Code::Nf4, false),
    ] {
        let mut values = [0.5f32; 130];
        values[77] = value;
        let tensor = Tensor { name: "x", dtype: DType::F32, shape: &[2, 65], bytes: bytemuck::cast_slice(&values) };
        write_tensors(&dir.join("x.safetensors"), &[tensor]).unwrap();
        let tensor = SafeTensors::open(&dir.join("x.safetensors")).unwrap().get("x").unwrap();
        let made = Quantised::new(&tensor, Scheme { code, nested: false });
        assert_eq!(made.is_err(), refused, "{value} as {code:?}");
        if let Err(error) = made {
            assert!(error.to_string().contains("x: a value is not finite"), "{error}");
        }
    }
}

/// A folder with two layers, a router, a norm and an embedding.
fn model(dir: &TestDir) -> Checkpoint {
    dir.file("config.json", r#"{"model_type": "llama", "torch_dtype": "bfloat16"}"#);
    dir.file("tokenizer.json", "{}");
    let infos = [
        TensorInfo::new("model.embed_tokens.weight", DType::BF16, [8, 6]),
        TensorInfo::new("model.layers.0.mlp.gate.weight", DType::BF16, [4, 6]),
        TensorInfo::new("model.layers.0.mlp.up_proj.weight", DType::BF16, [50, 6]),
        TensorInfo::new("model.layers.1.mlp.up_proj.weight", DType::BF16, [5, 7]),
        TensorInfo::new("model.norm.weight", DType::BF16, [6]),
    ];
    write_model(dir.path(), &infos, 1 << 20, |info, sink| {
        let n = info.element_count();
        let values: Vec<bf16> = (0..n).map(|i| bf16::from_f32(((i * 37 + n) % 101) as f32 / 50.0 - 1.0)).collect();
        sink.put(&values)
    })
    .unwrap();
    Checkpoint::open(dir.path()).unwrap()
}

fn values(from: &Checkpoint, name: &str) -> Vec<f32> {
    let values = from.values(name).unwrap();
    let mut out = vec![0.0; values.shape().iter().product()];
    values.read_range(0, &mut out).unwrap();
    out
}

#[test]
fn a_written_folder_reads_back_as_what_was_quantised() {
    let dir = TestDir::new();
    let from = model(&dir);
    for (code, nested) in SCHEMES {
        let (out, scheme) = (TestDir::new(), Scheme { code, nested });
        let mut told = Vec::new();
        let skip = ["model.layers.1".to_owned()];
        let report =
            quantise_folder(&from, out.path(), scheme, &skip, &mut |done, all| told.push((done, all))).unwrap();
        assert_eq!((report.quantised, report.elements, report.kept), (1, 300, 4));
        assert!(told.last().is_some_and(|(done, all)| done == all));
        assert_eq!(report.copied, ["tokenizer.json"]);
        let back = Checkpoint::open(out.path()).unwrap();
        assert!(back.is_quantised() && !from.is_quantised());
        let infos = back.logical_infos().unwrap();
        assert!(infos.iter().map(|i| (&i.name, &i.shape)).eq(from.infos().map(|i| (&i.name, &i.shape))), "{infos:?}");
        let name = "model.layers.0.mlp.up_proj.weight";
        let (read, made) =
            (back.quantised(name).unwrap().unwrap(), Quantised::new(&from.get(name).unwrap(), scheme).unwrap());
        assert_eq!((read.bytes(), read.codes()), (made.bytes(), made.codes()));
        assert_eq!(read.element_count(), 300);
        assert_ne!(values(&back, name), values(&from, name));
        assert_eq!(
            values(&back, "model.layers.1.mlp.up_proj.weight"),
            values(&from, "model.layers.1.mlp.up_proj.weight")
        );
        let config = crate::folder::read_config(out.path()).unwrap();
        let said = &config["quantization_config"];
        assert_eq!(said["load_in_4bit"], code != Code::Int8);
        assert_eq!(said["llm_int8_skip_modules"], serde_json::json!(["lm_head", "mlp.gate", "model.layers.1"]));
        let again = quantise_folder(&back, TestDir::new().path(), scheme, &[], &mut |_, _| {}).unwrap_err();
        assert!(again.to_string().contains("quantised already"), "{again}");
    }
}

#[test]
fn expected_bytes_are_the_bytes_written() {
    let dir = TestDir::new();
    let from = model(&dir);
    let name = "model.layers.0.mlp.up_proj.weight";
    for (code, nested) in SCHEMES {
        let scheme = Scheme { code, nested };
        let made = Quantised::new(&from.get(name).unwrap(), scheme).unwrap();
        let map = if nested { 4 * 256 } else { 0 };
        assert_eq!(scheme.bytes(50, 6), made.bytes().len() + made.codes().scales.byte_len() - map);
    }
}

/// A quantised weight as it lies in a file: name, type, shape, bytes.
type Parts = Vec<(String, DType, Vec<usize>, Vec<u8>)>;

fn parts(code: Code) -> Parts {
    let (dir, out) = (TestDir::new(), TestDir::new());
    quantise_folder(&model(&dir), out.path(), Scheme { code, nested: true }, &[], &mut |_, _| {}).unwrap();
    let written = Checkpoint::open(out.path()).unwrap();
    let own = written.infos().filter(|info| info.name.contains("layers.0.mlp.up"));
    own.map(|i| (i.name.clone(), i.dtype, i.shape.clone(), written.get(&i.name).unwrap().bytes().to_vec())).collect()
}

/// What is said of a weight one of whose parts is another.
fn complaint(code: Code, change: impl Fn(&mut Parts)) -> String {
    let mut parts = parts(code);
    change(&mut parts);
    let tensors: Vec<Tensor> =
        parts.iter().map(|(name, dtype, shape, bytes)| Tensor { name, dtype: *dtype, shape, bytes }).collect();
    let dir = TestDir::new();
    write_tensors(&dir.join("model.safetensors"), &tensors).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    match checkpoint.quantised("model.layers.0.mlp.up_proj.weight") {
        Ok(_) => "nothing".to_owned(),
        Err(error) => {
            assert_eq!(error.exit_code(), 6);
            error.to_string()
        }
    }
}

fn part<'a>(parts: &'a mut Parts, end: &str) -> &'a mut (String, DType, Vec<usize>, Vec<u8>) {
    parts.iter_mut().find(|p| p.0.ends_with(end)).unwrap()
}

fn shortened(parts: &mut Parts, end: &str) {
    let part = part(parts, end);
    let size = part.1.bits() / 8;
    part.2[0] -= 1;
    let rest: usize = part.2.iter().product::<usize>() * size;
    part.3.truncate(rest);
}

fn restated(parts: &mut Parts, from: &str, to: &str) {
    let state = part(parts, "__nf4");
    let text = String::from_utf8(state.3.clone()).unwrap();
    assert!(text.contains(from), "{text}");
    state.3 = text.replace(from, to).into_bytes();
    state.2 = vec![state.3.len()];
}

#[test]
fn four_bits_that_were_tampered_with_are_refused_by_name() {
    let nan = |parts: &mut Parts, end: &str| part(parts, end).3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    type Change<'a> = &'a dyn Fn(&mut Parts);
    let cases: [(Change, &str); 18] = [
        (&|_| {}, "nothing"),
        (&|p| shortened(p, "proj.weight"), "expected 150 bytes of codes for shape [50, 6], found 149"),
        (&|p| shortened(p, ".absmax"), "shape [4], expected [5]"),
        (&|p| shortened(p, ".quant_map"), "quant_map: expected 16 values"),
        (&|p| shortened(p, ".nested_quant_map"), "nested_quant_map: expected 256 values"),
        (&|p| nan(p, ".nested_absmax"), "nested_absmax: a value is not finite"),
        (&|p| nan(p, ".weight.quant_map"), "quant_map: a value is not finite"),
        (
            &|p| p.retain(|x| !x.0.ends_with("nested_absmax")),
            "no tensor \"model.layers.0.mlp.up_proj.weight.nested_absmax\"",
        ),
        (&|p| restated(p, "\"nf4\"", "\"fp4\""), "quant_type \"fp4\", its name nf4"),
        (&|p| restated(p, "64", "0"), "blocksize 0: expected a power of two"),
        (&|p| restated(p, "64", "18446744073709551615"), "blocksize 18446744073709551615"),
        (&|p| restated(p, "[50,6]", "[50,18446744073709551615]"), "overflows"),
        (&|p| restated(p, "[50,6]", "\"x\""), "not the JSON of a state"),
        (&|p| restated(p, "256", "3"), "nested scales need a block"),
        (&|p| restated(p, "bfloat16", "int8"), "dtype \"int8\": expected float32"),
        (&|p| restated(p, "{", "["), "not the JSON of a state"),
        (
            &|p| part(p, "__nf4").0 = "model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__af4".into(),
            "\"af4\" is not known",
        ),
        (&|p| p.retain(|x| !x.0.contains("quant_state")), "it has an absmax, but no"),
    ];
    for (change, expected) in cases {
        let said = complaint(Code::Nf4, change);
        assert!(said.contains(expected), "{said:?} for {expected:?}");
    }
}

#[test]
fn eight_bits_that_were_tampered_with_are_refused_by_name() {
    assert_eq!(complaint(Code::Int8, |_| {}), "nothing");
    assert!(complaint(Code::Int8, |p| shortened(p, ".SCB")).contains("SCB: expected 50 values"));
    assert!(complaint(Code::Int8, |p| part(p, "_format").3[0] = 1).contains("weight_format [1]: expected 0"));
    assert!(complaint(Code::Int8, |p| part(p, "proj.weight").1 = DType::U8).contains("I8: codes of eight bits"));
    assert!(complaint(Code::Int8, |p| part(p, "proj.weight").2 = vec![300]).contains("expected a matrix"));
}

#[test]
#[cfg(target_os = "linux")]
fn what_is_quantised_does_not_stay_in_memory_beside_its_codes() {
    let dir = TestDir::new();
    let path = dir.join("x.safetensors");
    let values: Vec<f32> = (0..1 << 22).map(|i| (i % 1000) as f32).collect();
    let shape = [1 << 12, 1 << 10];
    let tensors = [Tensor { name: "w", dtype: DType::F32, shape: &shape, bytes: bytemuck::cast_slice(&values) }];
    write_tensors(&path, &tensors).unwrap();
    let tensor = SafeTensors::open(&path).unwrap().get("w").unwrap();
    for code in [Code::Nf4, Code::Int8] {
        Quantised::new(&tensor, Scheme { code, nested: false }).unwrap();
        // Threads that work side by side bring back a little of what lies around their pieces.
        let left = crate::testdir::resident(&path);
        assert!(left < 4 * values.len() / 4, "{code:?}: {left} bytes");
    }
}
