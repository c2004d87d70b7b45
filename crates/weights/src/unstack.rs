//! Adapters that PEFT put on stacked experts, taken apart into those of the experts' own layers.

use std::borrow::Cow;
use std::path::Path;

use crate::adapter::LoraPair;
use crate::error::Error;
use crate::peft::AdapterConfig;
use crate::safetensors::Mapped;
use crate::target::Targets;

/// The linear layers of every expert of a block, each by its path and `[outputs, inputs]`, in the order of the stacks' rows: those
/// that `gate_up_proj` holds, and last the one that `down_proj` is. Empty for a block without experts.
pub type Experts = Vec<Vec<(String, [usize; 2])>>;

/// The block whose stacked experts `module` is. PEFT wraps the two stacks of a block one around the other, so one of them is
/// called `base_layer`; which is which their widths say.
pub(crate) fn block_of(module: &str) -> Option<usize> {
    let stack = module.strip_suffix(".base_layer").unwrap_or(module).strip_suffix(".experts")?;
    stack.split('.').find_map(|part| part.parse().ok())
}

/// What a stack's configuration says, for the layers that come of it.
pub(crate) struct Said {
    /// The path of the first expert's layer.
    path: String,
    rank: usize,
    alpha: f64,
}

/// Both factors of a stack as pairs of its experts' layers.
///
/// Of expert `e` of `n`, PEFT's A has rows `e r .. (e + 1) r`, and its B the columns `e, e + n, ..`.
pub(crate) fn unstack(
    path: &Path,
    module: &str,
    (a, b): (&Mapped, &Mapped),
    experts: &Experts,
    config: &AdapterConfig,
) -> Result<(Vec<LoraPair<'static>>, Vec<Said>), Error> {
    let wrong = |what: String| Error::adapter(path, format!("{module}, an adapter on stacked experts: {what}"));
    let (&[rows, wide], &[tall, columns]) = (a.shape(), b.shape()) else {
        return Err(wrong(format!("expected matrices, found {:?} and {:?}", a.shape(), b.shape())));
    };
    let count = experts.len();
    if experts.is_empty() || experts.iter().any(Vec::is_empty) {
        let what = "this block has no experts, or the command does not know of the model; `prospect merge` does";
        return Err(wrong(what.to_owned()));
    }
    if rows != columns || rows == 0 || rows % count != 0 {
        return Err(wrong(format!("{rows} rows and {columns} columns are no ranks of {count} experts")));
    }
    let rank = rows / count;
    let halves = experts[0].len() - 1;
    let stacks = [("gate_up_proj", 0..halves), ("down_proj", halves..halves + 1)];
    let fits = |(_, layers): &&(&str, std::ops::Range<usize>)| {
        let of = &experts[0][layers.clone()];
        (wide, tall) == (of[0].1[1], of.iter().map(|(_, [outputs, _])| outputs).sum())
    };
    let Some((stack, layers)) = stacks.iter().find(fits) else {
        return Err(wrong(format!("{wide} inputs and {tall} outputs are those of no stack of this model")));
    };
    let whole = format!("{}.{stack}", module.strip_suffix(".base_layer").unwrap_or(module));
    let (expected, scale) = (config.rank_of(&whole)?, config.scale_of(&whole)?);
    if expected != rank {
        return Err(wrong(format!("rank {rank} by its tensors, {expected} by the configuration")));
    }
    let alpha = config.alpha_of(&whole)?;
    let first = experts[0][layers.clone()].iter().map(|(path, _)| Said { path: path.clone(), rank, alpha });
    let said = first.collect();
    let (a, b) = (a.to_f32()?, b.to_f32()?);
    let mut pairs = Vec::with_capacity(count * layers.len());
    for (e, own) in experts.iter().enumerate() {
        let down = &a[e * rank * wide..(e + 1) * rank * wide];
        let mut rows = b.chunks_exact(columns).map(|row| row.iter().skip(e).step_by(count).copied());
        for (path, [outputs, _]) in &own[layers.clone()] {
            let up: Vec<f32> = rows.by_ref().take(*outputs).flatten().collect();
            let (a, b) = (Cow::Owned(down.to_vec()), Cow::Owned(up));
            pairs.push(LoraPair { module: path.clone(), rank, scale, a, b, magnitude: None });
        }
    }
    Ok((pairs, said))
}

/// Has `config` say of experts' layers what it said of their stacks: once for all blocks where they agree.
pub(crate) fn name_experts(config: &mut AdapterConfig, all: &[Said]) -> Result<(), Error> {
    for said in all {
        let Some((block, end)) = said.path.split_once(".experts.") else { continue };
        let any = any_expert(end);
        let same = |other: &&Said| other.path.split_once(".experts.").is_some_and(|(_, end)| any_expert(end) == any);
        let agree = all.iter().filter(same).all(|other| (other.rank, other.alpha) == (said.rank, said.alpha));
        if (config.rank_of(&said.path)?, config.alpha_of(&said.path)?) != (said.rank, said.alpha) {
            let block = if agree { String::new() } else { format!("{}\\.", block.replace('.', r"\.")) };
            let pattern = format!(r"{block}experts\.{any}");
            // Before any other: the first that fits counts.
            config.rank_pattern.insert(0, (pattern.clone(), said.rank));
            config.alpha_pattern.insert(0, (pattern, said.alpha));
        }
        // A pattern is for the layers beside experts: which experts there are the tensors say.
        if let Some(Targets::Names(names)) = &mut config.target_modules
            && let Some(leaf) = end.split('.').rfind(|part| !is_number(part))
            && !names.iter().any(|name| name == leaf)
        {
            names.push(leaf.to_owned());
        }
    }
    Ok(())
}

fn is_number(part: &str) -> bool {
    part.parse::<usize>().is_ok()
}

/// The end of an expert's layer's path with any expert's number, as a regular expression: `\d+\.up_proj`.
fn any_expert(end: &str) -> String {
    end.split('.').map(|part| if is_number(part) { r"\d+" } else { part }).collect::<Vec<_>>().join(r"\.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_agree_share_a_pattern_and_others_have_their_own() {
        let said = |block: usize, leaf: &str, rank: usize| Said {
            path: format!("model.layers.{block}.mlp.experts.0.{leaf}"),
            rank,
            alpha: 8.0,
        };
        let all = [said(0, "up_proj", 4), said(1, "up_proj", 4), said(0, "down_proj", 2), said(1, "down_proj", 3)];
        let mut config = AdapterConfig::new(2, Targets::Names(vec!["q_proj".to_owned()]));
        config.lora_alpha = 8.0;
        name_experts(&mut config, &all).unwrap();
        let patterns: Vec<&str> = config.rank_pattern.iter().map(|(pattern, _)| pattern.as_str()).collect();
        assert_eq!(patterns, [r"model\.layers\.1\.mlp\.experts\.\d+\.down_proj", r"experts\.\d+\.up_proj"]);
        let rank = |module: &str| config.rank_of(&format!("model.layers.{module}")).unwrap();
        assert_eq!(["0.mlp.experts.7.up_proj", "1.mlp.experts.7.up_proj"].map(rank), [4, 4]);
        assert_eq!(
            ["0.mlp.experts.7.down_proj", "1.mlp.experts.7.down_proj", "0.self_attn.q_proj"].map(rank),
            [2, 3, 2]
        );
        let names = ["q_proj", "up_proj", "down_proj"].map(str::to_owned);
        assert_eq!(config.target_modules, Some(Targets::Names(names.to_vec())));
    }
}
