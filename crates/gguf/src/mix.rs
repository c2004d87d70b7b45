//! Which storage type each tensor gets: the mixes of llama.cpp's `quantize`, for dense decoders without an importance matrix.

use crate::Error;
use crate::quant::Kind;

/// A file type: what its tensors are stored as, for the most part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Mix {
    F32,
    F16,
    BF16,
    Q8_0,
    Q6K,
    Q5KM,
    Q5KS,
    Q4KM,
    Q4KS,
    Q5_0,
    Q5_1,
    Q4_0,
    Q4_1,
    /// Experts in blocks of four bits with powers of two as scales, all else in eight.
    Mxfp4Moe,
}

/// What the choice for a tensor depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Blocks of the model.
    pub(crate) layers: usize,
    /// 80 blocks with shared key/value heads: the value projection is small there and deserves more bits.
    pub(crate) is_70b: bool,
    /// Whether the head is a tensor of its own.
    pub(crate) has_output: bool,
    /// Eight experts: attention is a small share of the file and deserves more bits.
    pub(crate) is_8x: bool,
}

impl Mix {
    /// All of them, most bits first.
    pub const ALL: [Self; 14] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q6K,
        Self::Q5KM,
        Self::Q5KS,
        Self::Q5_1,
        Self::Q5_0,
        Self::Q4KM,
        Self::Q4KS,
        Self::Q4_1,
        Self::Q4_0,
        Self::Mxfp4Moe,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q6K => "q6_k",
            Self::Q5KM => "q5_k_m",
            Self::Q5KS => "q5_k_s",
            Self::Q4KM => "q4_k_m",
            Self::Q4KS => "q4_k_s",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Mxfp4Moe => "mxfp4_moe",
        }
    }

    /// The mix of that name, in small or large letters; `q4_k` and `q5_k` are the `_m` mixes, as in llama.cpp.
    ///
    /// # Errors
    /// [`Error::UnknownType`] with the names there are.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        let lower = name.to_lowercase();
        let lower = match lower.as_str() {
            "q4_k" | "q5_k" => format!("{lower}_m"),
            _ => lower,
        };
        let known = Self::ALL.into_iter().find(|mix| mix.name() == lower);
        known.ok_or_else(|| Error::UnknownType { name: name.to_owned() })
    }

    /// `general.file_type`.
    pub(crate) fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 7,
            Self::Q5_0 => 8,
            Self::Q5_1 => 9,
            Self::Q4KS => 14,
            Self::Q4KM => 15,
            Self::Q5KS => 16,
            Self::Q5KM => 17,
            Self::Q6K => 18,
            Self::BF16 => 32,
            Self::Mxfp4Moe => 38,
        }
    }

    /// What most tensors get.
    fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::F32,
            Self::F16 => Kind::F16,
            Self::BF16 => Kind::BF16,
            Self::Q8_0 | Self::Mxfp4Moe => Kind::Q8_0,
            Self::Q6K => Kind::Q6K,
            Self::Q5KM | Self::Q5KS => Kind::Q5K,
            Self::Q4KM | Self::Q4KS => Kind::Q4K,
            Self::Q5_0 => Kind::Q5_0,
            Self::Q5_1 => Kind::Q5_1,
            Self::Q4_0 => Kind::Q4_0,
            Self::Q4_1 => Kind::Q4_1,
        }
    }

    /// The storage type of the tensor `name` (llama.cpp's) of a shape, slowest axis first.
    pub(crate) fn kind_of(self, name: &str, shape: &[usize], model: &Shape) -> Kind {
        let is_matrix = shape.len() > 1 && name.ends_with(".weight") && !name.ends_with("_norm.weight");
        // A choice among experts is made of small differences.
        if !is_matrix || name.contains("ffn_gate_inp") {
            return Kind::F32;
        }
        let default = self.kind();
        if matches!(default, Kind::F32 | Kind::F16 | Kind::BF16) {
            return default;
        }
        let width = shape[shape.len() - 1];
        if self == Self::Mxfp4Moe && name.ends_with("_exps.weight") {
            return fitting(Kind::Mxfp4, width);
        }
        fitting(self.wanted(name, default, width, model), width)
    }

    fn wanted(self, name: &str, default: Kind, width: usize, model: &Shape) -> Kind {
        let is_head = name == "output.weight" || name == "token_embd.weight" && !model.has_output;
        if is_head {
            let fits = width.is_multiple_of(default.block().0);
            return if default == Kind::Q8_0 || !fits { Kind::Q8_0 } else { Kind::Q6K };
        }
        let block = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let Some((layer, part)) = block.and_then(|(i, part)| Some((i.parse::<usize>().ok()?, part))) else {
            return default;
        };
        let layers = model.layers;
        let part = if part.starts_with("ffn_down") { "ffn_down.weight" } else { part };
        match (self, part) {
            (Self::Q4KM, "attn_qkv.weight") => Kind::Q5K,
            (Self::Q5KM, "attn_qkv.weight") => Kind::Q6K,
            (_, "attn_v.weight" | "attn_k.weight") if model.is_8x => Kind::Q8_0,
            (Self::Q4KM | Self::Q4KS, "attn_output.weight") if model.is_8x => Kind::Q5K,
            (Self::Q4KM | Self::Q5KM, "attn_v.weight" | "ffn_down.weight") if more_bits(layer, layers) => Kind::Q6K,
            (Self::Q4KS, "attn_v.weight") if layer < 4 => Kind::Q5K,
            (Self::Q4KS, "ffn_down.weight") if layer < layers / 8 => Kind::Q5K,
            (Self::Q4KM | Self::Q4KS, "attn_v.weight") if model.is_70b => Kind::Q5K,
            _ => default,
        }
    }
}

/// The first and the last eighth of the blocks, and every third between.
fn more_bits(layer: usize, layers: usize) -> bool {
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

/// What rows of `width` values can be stored as: the K types need whole superblocks, the others whole blocks.
fn fitting(kind: Kind, width: usize) -> Kind {
    let fits = |kind: Kind| width.is_multiple_of(kind.block().0);
    let fallback = match kind {
        _ if fits(kind) => kind,
        Kind::Q4K => Kind::Q5_0,
        Kind::Q5K => Kind::Q5_1,
        Kind::Q6K => Kind::Q8_0,
        _ => Kind::F16,
    };
    if fits(fallback) { fallback } else { Kind::F16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: Shape = Shape { layers: 28, is_70b: false, has_output: true, is_8x: false };

    #[test]
    fn q4_k_m_gives_six_bits_where_llama_cpp_does() {
        let kinds: Vec<usize> = (0..28)
            .filter(|i| Mix::Q4KM.kind_of(&format!("blk.{i}.ffn_down.weight"), &[1024, 4096], &MODEL) == Kind::Q6K)
            .collect();
        // n / 8 is 3 and 7 n / 8 is 24.
        assert_eq!(kinds, [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27]);
        let kind = |name: &str, shape: &[usize]| Mix::Q4KM.kind_of(name, shape, &MODEL);
        assert_eq!(kind("output.weight", &[1000, 1024]), Kind::Q6K);
        assert_eq!(kind("token_embd.weight", &[1000, 1024]), Kind::Q4K);
        assert_eq!(kind("blk.3.attn_q.weight", &[1024, 1024]), Kind::Q4K);
        let of = |name: &str, model: &Shape| Mix::Q4KM.kind_of(name, &[8, 1024, 1024], model);
        assert_eq!(
            [of("blk.0.ffn_down_exps.weight", &MODEL), of("blk.0.ffn_gate_inp.weight", &MODEL)],
            [Kind::Q6K, Kind::F32]
        );
        assert_eq!(of("blk.9.attn_k.weight", &Shape { is_8x: true, ..MODEL }), Kind::Q8_0);
        assert_eq!(kind("blk.3.attn_q.bias", &[1024]), Kind::F32);
        assert_eq!(kind("blk.3.attn_q_norm.weight", &[128]), Kind::F32);
        let tied = Shape { has_output: false, ..MODEL };
        assert_eq!(Mix::Q4KM.kind_of("token_embd.weight", &[1000, 1024], &tied), Kind::Q6K);
    }

    #[test]
    fn experts_are_in_mxfp4_and_fused_projections_get_a_bit_more() {
        let of = |mix: Mix, name: &str| mix.kind_of(name, &[8, 64, 256], &MODEL);
        assert_eq!(of(Mix::Mxfp4Moe, "blk.0.ffn_up_exps.weight"), Kind::Mxfp4);
        assert_eq!(of(Mix::Mxfp4Moe, "blk.0.attn_q.weight"), Kind::Q8_0);
        assert_eq!([Mix::Q4KM, Mix::Q5KM].map(|mix| of(mix, "blk.4.attn_qkv.weight")), [Kind::Q5K, Kind::Q6K]);
    }

    #[test]
    fn rows_that_do_not_fit_fall_back() {
        let of = |mix: Mix, width| mix.kind_of("blk.4.ffn_down.weight", &[64, width], &MODEL);
        assert_eq!([of(Mix::Q4KM, 896), of(Mix::Q5KM, 896), of(Mix::Q6K, 896)], [Kind::Q5_0, Kind::Q5_1, Kind::Q8_0]);
        assert_eq!([of(Mix::Q4KM, 172), of(Mix::Q8_0, 172), of(Mix::Q4_0, 172)], [Kind::F16; 3]);
        assert_eq!(Mix::Q4_0.kind_of("output.weight", &[10, 160], &MODEL), Kind::Q8_0);
        assert_eq!(Mix::Q4_0.kind_of("output.weight", &[10, 256], &MODEL), Kind::Q6K);
        assert_eq!(Mix::Q8_0.kind_of("output.weight", &[10, 256], &MODEL), Kind::Q8_0);
    }

    #[test]
    fn names_are_those_of_llama_cpp() {
        for mix in Mix::ALL {
            assert_eq!(Mix::from_name(&mix.name().to_uppercase()).unwrap(), mix);
        }
        assert_eq!(Mix::from_name("q4_k").unwrap(), Mix::Q4KM);
        assert_eq!(Mix::from_name("q3_k").unwrap_err().exit_code(), 2);
    }
}
