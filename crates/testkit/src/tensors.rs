//! Reference tensors from small safetensors files.

use serde_json::Value;
use std::collections::BTreeMap;

/// The float32 tensors of a safetensors file, flat, by name. Panics on anything else: fixtures are ours.
pub fn tensors(file: &[u8]) -> BTreeMap<String, Vec<f64>> {
    let (length, rest) = file.split_at(8);
    let length = u64::from_le_bytes(length.try_into().expect("eight bytes of length")) as usize;
    let (header, data) = rest.split_at(length);
    let header: BTreeMap<String, Value> = serde_json::from_slice(header).expect("a JSON header");
    let read = |(name, info): (String, Value)| {
        assert_eq!(info["dtype"], "F32", "{name}");
        let [from, to] = [0, 1].map(|i| info["data_offsets"][i].as_u64().expect("an offset") as usize);
        let float = |b: &[u8]| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        (name, data[from..to].chunks_exact(4).map(float).collect())
    };
    header.into_iter().filter(|(name, _)| name != "__metadata__").map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::tensors;

    #[test]
    fn a_file_gives_its_tensors_by_name() {
        let header = br#"{"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},"b":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header);
        [3.0f32, 1.5, -2.0].iter().for_each(|x| file.extend_from_slice(&x.to_le_bytes()));
        let read = tensors(&file);
        assert_eq!((read.len(), &read["w"][..], &read["b"][..]), (2, &[1.5, -2.0][..], &[3.0][..]));
    }
}
