//! A checkpoint's tensors as llama.cpp has them: names, the order of rows, experts stacked, the llama3 frequencies.

use crate::Error;
use crate::quant::BLOCK;
use kernels::Gating;
use model::{Blueprint, ExpertLayout, ExpertSpec, LatentSpec, RopeScaling};
use std::f64::consts::PI;
use weights::{Checkpoint, Values};

/// A tensor of the file and where its values come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Source {
    /// llama.cpp's name.
    pub(crate) name: String,
    /// The checkpoint's tensors with their shapes.
    pub(crate) from: Vec<(String, Vec<usize>)>,
    /// Extents, slowest first.
    pub(crate) shape: Vec<usize>,
    layout: Layout,
    /// What is added to each value: one, for norms that are stored around zero.
    pub(crate) plus: f32,
}

/// Where rows come from. Letters: `e` experts, `f` an expert's width, `d` the model's.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    /// Rows as they are.
    Plain,
    /// The last `tail` rows of every `head` rows are two halves that llama.cpp wants in turns.
    Turns { head: usize, tail: usize },
    /// A tensor per expert.
    Experts,
    /// `[e, of, ..]`, of which an expert's rows begin at `first`.
    Stacked { first: usize, of: usize },
    /// `[e, d, of]`: row `r` of an expert is column `first + r * step`.
    Columns { first: usize, step: usize, of: usize },
    /// The same in MXFP4: blocks `[e, of, d / 32, 16]` and scales `[e, of, d / 32]`, of which row `r` is `first + r * step`.
    Packed { first: usize, step: usize, of: usize },
    /// `[e, of]`: entry `r` of an expert is `first + r * step`.
    Entries { first: usize, step: usize, of: usize },
    /// `[n * (p + w), l]`, of each head the first `p` rows, as columns: `[n, l, p]`.
    Keys { head: usize },
    /// The same, of each head the rows from `first` on: `[n, w, l]`.
    Values { first: usize, head: usize },
}

/// The values of a row: in which of the checkpoint's tensors, from where, how far apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) tensor: usize,
    pub(crate) first: usize,
    pub(crate) step: usize,
}

/// llama.cpp's name of the architecture.
pub(crate) fn architecture(blueprint: &Blueprint) -> Result<&'static str, Error> {
    match blueprint.model_type.as_str() {
        "llama" | "mistral" | "mixtral" => Ok("llama"),
        "qwen2" => Ok("qwen2"),
        "qwen3" => Ok("qwen3"),
        "qwen2_moe" => Ok("qwen2moe"),
        "qwen3_moe" => Ok("qwen3moe"),
        "gpt_oss" => Ok("gpt-oss"),
        "deepseek_v3" => Ok("deepseek2"),
        "gemma2" => Ok("gemma2"),
        "gemma3_text" => Ok("gemma3"),
        "phi3" => Ok("phi3"),
        other => Err(unsupported(format!(
            "model_type `{other}` is not exported to GGUF; llama, mistral, mixtral, phi3, qwen2, qwen3, qwen2_moe, qwen3_moe, \
             gpt_oss, deepseek_v3, gemma2 and gemma3_text are"
        ))),
    }
}

fn unsupported(reason: String) -> Error {
    Error::Unsupported { reason }
}

/// What a model of this architecture may be and llama.cpp's may not.
pub(crate) fn check(b: &Blueprint) -> Result<(), Error> {
    let arch = architecture(b)?;
    let refuse = |what: &str| Err(unsupported(format!("llama.cpp's `{arch}` has no room for {what}")));
    let gemma = matches!(arch, "gemma2" | "gemma3");
    let usual = b.latent.is_some() || (b.score_scale - (b.head_width as f64).powf(-0.5)).abs() < 1e-9;
    let wide = |layers: usize| layers == if arch == "gemma2" { 46 } else { 62 };
    if gemma && !usual && !wide(b.layers.len()) {
        return refuse("a query_pre_attn_scalar other than the head's width");
    }
    if b.latent.as_ref().is_some_and(|l| l.bias) {
        return refuse("biases on the narrow layers");
    }
    if let (Some(_), RopeScaling::Yarn { mscale_all_dim, .. }) = (&b.latent, &b.rope.scaling)
        && (mscale_all_dim.is_none() || (b.rope.attention_factor - 1.0).abs() > 1e-6)
    {
        return refuse("a YaRN whose mscale is not its mscale_all_dim");
    }
    if arch == "gemma2" && !b.tied {
        return refuse("a head that is not the embedding");
    }
    if let Some(spec) = &b.experts {
        let gating = spec.route.gating;
        if arch == "qwen2moe" && !matches!(gating, Gating::Softmax) {
            return refuse("norm_topk_prob: true");
        }
        if arch == "qwen3moe" && matches!(gating, Gating::Softmax) {
            return refuse("norm_topk_prob: false");
        }
        let dense = b.layers.iter().position(|layer| layer.experts).unwrap_or(b.layers.len());
        if b.layers[dense..].iter().any(|layer| !layer.experts) || (dense > 0 && b.latent.is_none()) {
            return refuse("layers without experts among those with");
        }
    }
    Ok(())
}

/// All tensors of the file, in its order.
pub(crate) fn sources(b: &Blueprint, checkpoint: &Checkpoint) -> Result<Vec<Source>, Error> {
    list(b, checkpoint, true)
}

/// The same, for a checkpoint that is made of the file: it holds no codes.
pub(crate) fn restored(b: &Blueprint, checkpoint: &Checkpoint) -> Result<Vec<Source>, Error> {
    list(b, checkpoint, false)
}

fn list(b: &Blueprint, checkpoint: &Checkpoint, packed: bool) -> Result<Vec<Source>, Error> {
    check(b)?;
    let plus = if b.norm_one_plus { 1.0 } else { 0.0 };
    let mut all = List { sources: Vec::new(), plus, checkpoint, packed };
    let d = b.hidden;
    all.matrix("token_embd.weight", "model.embed_tokens.weight", [b.vocab, d]);
    for i in 0..b.layers.len() {
        all.norms(b, i);
        if b.fused {
            all.fused(b, i);
            continue;
        }
        match &b.latent {
            Some(latent) => all.latent(b, latent, i),
            None => all.attention(b, i)?,
        }
        match b.experts_of(i) {
            Some(spec) => all.experts(b, spec, i)?,
            None => all.gated(b, i, ""),
        }
    }
    all.norm("output_norm.weight", "model.norm.weight", d);
    if !b.tied {
        all.matrix("output.weight", "lm_head.weight", [b.vocab, d]);
    }
    Ok(all.sources)
}

/// The list as it grows.
struct List<'a> {
    sources: Vec<Source>,
    plus: f32,
    checkpoint: &'a Checkpoint,
    /// Whether codes are read where the checkpoint has them.
    packed: bool,
}

impl List<'_> {
    fn add(&mut self, name: String, from: Vec<(String, Vec<usize>)>, shape: Vec<usize>, layout: Layout) {
        self.sources.push(Source { name, from, shape, layout, plus: 0.0 });
    }

    fn one(&mut self, name: String, from: String, shape: Vec<usize>, layout: Layout) {
        self.add(name, vec![(from, shape.clone())], shape, layout);
    }

    fn matrix(&mut self, name: &str, from: &str, shape: [usize; 2]) {
        self.one(name.to_owned(), from.to_owned(), shape.to_vec(), Layout::Plain);
    }

    fn norm(&mut self, name: &str, from: &str, width: usize) {
        self.one(name.to_owned(), from.to_owned(), vec![width], Layout::Plain);
        if let Some(source) = self.sources.last_mut() {
            source.plus = self.plus;
        }
    }

    fn norms(&mut self, b: &Blueprint, i: usize) {
        let own = |leaf: &str| format!("blk.{i}.{leaf}.weight");
        let of = |leaf: &str| format!("model.layers.{i}.{leaf}.weight");
        let after = if b.model_type == "gpt_oss" { "post_attention_norm" } else { "ffn_norm" };
        let norms: &[(&str, &str)] = match b.out_norms {
            false => &[("attn_norm", "input_layernorm"), (after, "post_attention_layernorm")],
            true => &[
                ("attn_norm", "input_layernorm"),
                ("post_attention_norm", "post_attention_layernorm"),
                ("ffn_norm", "pre_feedforward_layernorm"),
                ("post_ffw_norm", "post_feedforward_layernorm"),
            ],
        };
        for (name, from) in norms {
            self.norm(&own(name), &of(from), b.hidden);
        }
        if b.qk_norm {
            self.norm(&own("attn_q_norm"), &of("self_attn.q_norm"), b.head_width);
            self.norm(&own("attn_k_norm"), &of("self_attn.k_norm"), b.head_width);
        }
    }

    /// A block whose projections lie in one tensor each, here as there.
    fn fused(&mut self, b: &Blueprint, i: usize) {
        let (d, f, heads) = (b.hidden, b.feed_forward, b.heads * b.head_width);
        for (name, from, shape) in [
            ("attn_qkv", "self_attn.qkv_proj", [heads + 2 * b.kv_heads * b.head_width, d]),
            ("attn_output", "self_attn.o_proj", [d, heads]),
            ("ffn_up", "mlp.gate_up_proj", [2 * f, d]),
            ("ffn_down", "mlp.down_proj", [d, f]),
        ] {
            self.matrix(&format!("blk.{i}.{name}.weight"), &format!("model.layers.{i}.{from}.weight"), shape);
        }
    }

    fn attention(&mut self, b: &Blueprint, i: usize) -> Result<(), Error> {
        // Neighbours are rotated together in this architecture, halves elsewhere.
        let turns = architecture(b)? == "llama";
        for (part, p) in ["attn_q", "attn_k", "attn_v", "attn_output"].into_iter().zip(b.attention_projections(i)) {
            let rotated = turns && matches!(part, "attn_q" | "attn_k");
            let layout = match rotated {
                true => Layout::Turns { head: b.head_width, tail: b.head_width },
                false => Layout::Plain,
            };
            let shape = vec![p.outputs, p.inputs];
            self.one(format!("blk.{i}.{part}.weight"), format!("{}.weight", p.path), shape, layout);
            if p.bias {
                self.one(format!("blk.{i}.{part}.bias"), format!("{}.bias", p.path), vec![p.outputs], layout);
            }
        }
        if b.sinks {
            let from = format!("model.layers.{i}.self_attn.sinks");
            self.one(format!("blk.{i}.attn_sinks.weight"), from, vec![b.heads], Layout::Plain);
        }
        Ok(())
    }

    fn latent(&mut self, b: &Blueprint, l: &LatentSpec, i: usize) {
        let own = |leaf: &str| format!("blk.{i}.{leaf}.weight");
        let of = |leaf: &str| format!("model.layers.{i}.self_attn.{leaf}.weight");
        // Here neighbours are rotated together; a checkpoint may have them as halves.
        let turned = |head: usize| match l.interleaved {
            true => Layout::Plain,
            false => Layout::Turns { head, tail: l.rotated },
        };
        let (head, n) = (l.unrotated + l.rotated, b.heads);
        match l.query {
            None => self.one(own("attn_q"), of("q_proj"), vec![n * head, b.hidden], turned(head)),
            Some(c) => {
                self.one(own("attn_q_a"), of("q_a_proj"), vec![c, b.hidden], Layout::Plain);
                self.norm(&own("attn_q_a_norm"), &of("q_a_layernorm"), c);
                self.one(own("attn_q_b"), of("q_b_proj"), vec![n * head, c], turned(head));
            }
        }
        let down = l.width + l.rotated;
        self.one(own("attn_kv_a_mqa"), of("kv_a_proj_with_mqa"), vec![down, b.hidden], turned(down));
        self.norm(&own("attn_kv_a_norm"), &of("kv_a_layernorm"), l.width);
        let rows = l.unrotated + l.value;
        let up = || vec![(of("kv_b_proj"), vec![n * rows, l.width])];
        self.add(own("attn_k_b"), up(), vec![n, l.width, l.unrotated], Layout::Keys { head: rows });
        let values = Layout::Values { first: l.unrotated, head: rows };
        self.add(own("attn_v_b"), up(), vec![n, l.value, l.width], values);
        self.one(own("attn_output"), of("o_proj"), vec![b.hidden, n * l.value], Layout::Plain);
    }

    /// A gated layer that every row goes through.
    fn gated(&mut self, b: &Blueprint, i: usize, suffix: &str) {
        let names = ["ffn_gate", "ffn_up", "ffn_down"].map(|name| format!("blk.{i}.{name}{suffix}"));
        for (name, p) in names.into_iter().zip(b.feed_forward_projections(i)) {
            let shape = vec![p.outputs, p.inputs];
            self.one(format!("{name}.weight"), format!("{}.weight", p.path), shape, Layout::Plain);
            if p.bias {
                self.one(format!("{name}.bias"), format!("{}.bias", p.path), vec![p.outputs], Layout::Plain);
            }
        }
    }

    fn experts(&mut self, b: &Blueprint, spec: &ExpertSpec, i: usize) -> Result<(), Error> {
        let (e, d, f) = (spec.route.experts, b.hidden, spec.width);
        let own = |leaf: &str| format!("blk.{i}.{leaf}");
        let of = |leaf: &str| format!("model.layers.{i}.{leaf}");
        let older = of("block_sparse_moe.gate.weight");
        let router = match spec.layout {
            ExpertLayout::Turned(_) => of("mlp.router.weight"),
            ExpertLayout::Mixtral if self.checkpoint.contains(&older) => older,
            _ => of("mlp.gate.weight"),
        };
        self.one(own("ffn_gate_inp.weight"), router, vec![e, d], Layout::Plain);
        if spec.layout == ExpertLayout::Corrected {
            let correction = of("mlp.gate.e_score_correction_bias");
            self.one(own("exp_probs_b.bias"), correction, vec![e], Layout::Plain);
        }
        let names = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];
        let (stacked, single) = (of("mlp.experts"), b.expert_projections(i));
        if let ExpertLayout::Turned(_) = spec.layout {
            return self.turned(b, spec, i);
        }
        let shapes = [[e, f, d], [e, f, d], [e, d, f]];
        if self.checkpoint.contains(&format!("{}.weight", single[0][0].path)) {
            for (part, (name, shape)) in names.into_iter().zip(shapes).enumerate() {
                let from = single.iter().map(|p| (format!("{}.weight", p[part].path), shape[1..].to_vec())).collect();
                self.add(own(&format!("{name}.weight")), from, shape.to_vec(), Layout::Experts);
            }
        } else {
            let whole = [[e, 2 * f, d], [e, 2 * f, d], [e, d, f]];
            let firsts = [(0, 2 * f), (f, 2 * f), (0, d)];
            for (part, (name, shape)) in names.into_iter().zip(shapes).enumerate() {
                let from = format!("{stacked}.{}", if part < 2 { "gate_up_proj" } else { "down_proj" });
                let layout = Layout::Stacked { first: firsts[part].0, of: firsts[part].1 };
                let from = vec![(from, whole[part].to_vec())];
                self.add(own(&format!("{name}.weight")), from, shape.to_vec(), layout);
            }
        }
        if let Some(shared) = &spec.shared {
            self.gated(b, i, "_shexp");
            if shared.gated {
                // A fourth projection beside gate, up and down; llama.cpp has it as a vector.
                let from = of(&format!("mlp.{}_gate.weight", shared.name));
                let from = vec![(from, vec![1, d])];
                self.add(own("ffn_gate_inp_shexp.weight"), from, vec![d], Layout::Plain);
            }
        }
        Ok(())
    }

    /// Experts that lie as `[e, in, out]`, gate and up in turns.
    fn turned(&mut self, b: &Blueprint, spec: &ExpertSpec, i: usize) -> Result<(), Error> {
        let (e, d, f) = (spec.route.experts, b.hidden, spec.width);
        let at = format!("model.layers.{i}.mlp.experts");
        let packed = self.packed && self.checkpoint.contains(&format!("{at}.gate_up_proj_blocks"));
        let router = format!("model.layers.{i}.mlp.router.bias");
        self.one(format!("blk.{i}.ffn_gate_inp.bias"), router, vec![e], Layout::Plain);
        let parts = [
            ("gate", 0, 2, "gate_up_proj", 2 * f),
            ("up", 1, 2, "gate_up_proj", 2 * f),
            ("down", 0, 1, "down_proj", d),
        ];
        for (name, first, step, from, of) in parts {
            let (outputs, inputs) = if name == "down" { (d, f) } else { (f, d) };
            let weight = match packed {
                false => vec![(format!("{at}.{from}"), vec![e, inputs, of])],
                true => vec![
                    (format!("{at}.{from}_blocks"), vec![e, of, inputs / BLOCK, BLOCK / 2]),
                    (format!("{at}.{from}_scales"), vec![e, of, inputs / BLOCK]),
                ],
            };
            let layout = match packed {
                false => Layout::Columns { first, step, of },
                true => Layout::Packed { first, step, of },
            };
            self.add(format!("blk.{i}.ffn_{name}_exps.weight"), weight, vec![e, outputs, inputs], layout);
            let bias = vec![(format!("{at}.{from}_bias"), vec![e, of])];
            let layout = Layout::Entries { first, step, of };
            self.add(format!("blk.{i}.ffn_{name}_exps.bias"), bias, vec![e, outputs], layout);
        }
        Ok(())
    }
}

impl Source {
    /// Values of a row; a vector's entries are rows of one.
    pub(crate) fn width(&self) -> usize {
        match (self.layout, self.shape.len()) {
            (_, 1) | (Layout::Entries { .. }, _) => 1,
            _ => self.shape[self.shape.len() - 1],
        }
    }

    /// Rows.
    pub(crate) fn rows(&self) -> usize {
        self.shape.iter().product::<usize>() / self.width()
    }

    /// Where row `row` of the file comes from.
    pub(crate) fn place(&self, row: usize) -> Place {
        let width = self.width();
        let plain = |tensor: usize, row: usize| Place { tensor, first: row * width, step: 1 };
        // Rows of an expert or a head, where there are some.
        let each = if self.shape.len() > 1 { self.shape[1] } else { 1 };
        let (outer, r) = (row / each, row % each);
        match self.layout {
            Layout::Plain => plain(0, row),
            Layout::Turns { head, tail } => {
                let (head_at, at) = (row / head * head, row % head);
                match at.checked_sub(head - tail) {
                    None => plain(0, row),
                    Some(at) => plain(0, head_at + head - tail + at % 2 * (tail / 2) + at / 2),
                }
            }
            Layout::Experts => plain(outer, r),
            Layout::Stacked { first, of } => plain(0, outer * of + first + r),
            Layout::Columns { first, step, of } => {
                Place { tensor: 0, first: outer * width * of + first + r * step, step: of }
            }
            Layout::Packed { first, step, of } => plain(0, outer * of + first + r * step),
            Layout::Entries { first, step, of } => Place { tensor: 0, first: outer * of + first + r * step, step: 1 },
            Layout::Keys { head } => Place { tensor: 0, first: outer * head * each + r, step: each },
            Layout::Values { first, head } => plain(0, outer * head + first + r),
        }
    }

    /// The checkpoint's tensors.
    pub(crate) fn open(&self, checkpoint: &Checkpoint) -> Result<Vec<Values>, Error> {
        let open = |(name, shape): &(String, Vec<usize>)| {
            let values = checkpoint.values(name)?;
            match values.shape() == shape {
                true => Ok(values),
                // A matrix in codes has no axes of its own in the file; others are reported with the file that they are in.
                false => Ok(Values::Plain(checkpoint.get_shaped(name, shape)?)),
            }
        };
        self.from.iter().map(open).collect()
    }

    /// Reads a row of the file out of the checkpoint's tensors.
    pub(crate) fn read(&self, tensors: &[Values], row: usize, out: &mut [f32]) -> Result<(), Error> {
        let Place { tensor, first, step } = self.place(row);
        if let (Layout::Packed { .. }, [Values::Plain(blocks), Values::Plain(scales)]) = (self.layout, tensors) {
            unpack(blocks.bytes(), scales.bytes(), first, out);
        } else if step == 1 {
            tensors[tensor].read_range(first, out)?;
        } else {
            for (i, out) in out.iter_mut().enumerate() {
                tensors[tensor].read_range(first + i * step, std::slice::from_mut(out))?;
            }
        }
        out.iter_mut().for_each(|x| *x += self.plus);
        Ok(())
    }
}

/// Values of a row of MXFP4 as checkpoints have it: neighbours share a byte. Source: the OCP's Microscaling formats 1.0.
fn unpack(blocks: &[u8], scales: &[u8], first: usize, out: &mut [f32]) {
    let halves = |code: u8| {
        [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)] * if code & 8 == 0 { 1.0 } else { -1.0 }
    };
    for (i, out) in out.iter_mut().enumerate() {
        let at = first + i;
        let byte = blocks[at / 2];
        let code = if at.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
        *out = halves(code) * 2f32.powi(i32::from(scales[at / BLOCK]) - 127);
    }
}

/// Frequencies that are divided one by one: the tensors' names, and what each frequency is divided by.
pub(crate) fn divisors(blueprint: &Blueprint) -> Vec<(&'static str, Vec<f32>)> {
    if let RopeScaling::Long { short, long, .. } = &blueprint.rope.scaling {
        let narrow = |values: &[f64]| values.iter().map(|x| *x as f32).collect();
        return vec![("rope_factors_long.weight", narrow(long)), ("rope_factors_short.weight", narrow(short))];
    }
    rope_divisors(blueprint).into_iter().map(|divisors| ("rope_freqs.weight", divisors)).collect()
}

/// Llama 3.1's stretched context: what each frequency is divided by, as the tensor `rope_freqs.weight`.
fn rope_divisors(blueprint: &Blueprint) -> Option<Vec<f32>> {
    let RopeScaling::Llama3 { factor, low, high, original } = blueprint.rope.scaling else { return None };
    let width = blueprint.rope.width;
    let divisor = |i: usize| {
        let wavelength = 2.0 * PI * blueprint.rope.theta.powf(2.0 * i as f64 / width as f64);
        if wavelength < original / high {
            return 1.0;
        }
        if wavelength > original / low {
            return factor;
        }
        let smooth = (original / wavelength - low) / (high - low);
        1.0 / ((1.0 - smooth) / factor + smooth)
    };
    Some((0..width / 2).map(|i| divisor(i) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(shape: &[usize], layout: Layout) -> Source {
        let from = vec![("q".to_owned(), shape.to_vec())];
        Source { name: "q".into(), from, shape: shape.to_vec(), layout, plus: 0.0 }
    }

    #[test]
    fn halves_of_a_head_are_interleaved_and_every_row_is_taken_once() {
        let all = source(&[8, 1], Layout::Turns { head: 4, tail: 4 });
        let rows: Vec<usize> = (0..8).map(|row| all.place(row).first).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
        let tail = source(&[12, 1], Layout::Turns { head: 6, tail: 4 });
        let rows: Vec<usize> = (0..12).map(|row| tail.place(row).first).collect();
        assert_eq!(rows, [0, 1, 2, 4, 3, 5, 6, 7, 8, 10, 9, 11]);
        assert_eq!(source(&[8, 3], Layout::Plain).place(5), Place { tensor: 0, first: 15, step: 1 });
    }

    #[test]
    fn experts_and_heads_come_from_where_they_lie() {
        // Two experts of three rows of two values.
        assert_eq!(source(&[2, 3, 2], Layout::Experts).place(4), Place { tensor: 1, first: 2, step: 1 });
        let up = source(&[2, 3, 2], Layout::Stacked { first: 3, of: 6 });
        assert_eq!(up.place(4), Place { tensor: 0, first: (6 + 3 + 1) * 2, step: 1 });
        // `[2, 2, 6]`, gate and up in turns: row 1 of the second expert's up is column 3.
        let turned = source(&[2, 3, 2], Layout::Columns { first: 1, step: 2, of: 6 });
        assert_eq!(turned.place(4), Place { tensor: 0, first: 12 + 3, step: 6 });
        // Two heads of 2 key rows and 3 value rows, latent of 4: `[10, 4]`.
        let keys = source(&[2, 4, 2], Layout::Keys { head: 5 });
        assert_eq!(keys.place(4 + 3), Place { tensor: 0, first: 20 + 3, step: 4 });
        let values = source(&[2, 3, 4], Layout::Values { first: 2, head: 5 });
        assert_eq!(values.place(3 + 1), Place { tensor: 0, first: (5 + 2 + 1) * 4, step: 1 });
    }
}
