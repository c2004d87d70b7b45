//! Experts' tensors under both of their names: one per expert, or stacked as transformers holds them in memory.

/// The values of tensor `name`, from `get` as it is, or put together from one tensor per expert (`experts` of them).
pub fn stacked(name: &str, experts: usize, get: impl Fn(&str) -> Option<Vec<f32>>) -> Option<Vec<f32>> {
    if let Some(whole) = get(name) {
        return Some(whole);
    }
    let older = name.replace(".mlp.", ".block_sparse_moe.");
    if let Some(whole) = get(&older) {
        return Some(whole);
    }
    let (layer, leaf) = name.split_once(".mlp.experts.")?;
    let projections: &[[&str; 2]] = match leaf {
        "gate_up_proj" => &[["gate_proj", "w1"], ["up_proj", "w3"]],
        "down_proj" => &[["down_proj", "w2"]],
        _ => return None,
    };
    let mut values = Vec::new();
    for e in 0..experts {
        for [usual, mixtral] in projections {
            let part = get(&format!("{layer}.mlp.experts.{e}.{usual}.weight"))
                .or_else(|| get(&format!("{layer}.block_sparse_moe.experts.{e}.{mixtral}.weight")))?;
            values.extend(part);
        }
    }
    Some(values)
}
