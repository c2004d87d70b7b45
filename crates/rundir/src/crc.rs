//! CRC-32 with a reflected polynomial: the zlib one for PNG, Castagnoli's for TensorBoard records.

/// The polynomial of zlib and PNG (ISO 3309).
pub(crate) const ISO: [u32; 256] = table(0xEDB8_8320);
/// Castagnoli's polynomial (CRC-32C, RFC 3720).
pub(crate) const CASTAGNOLI: [u32; 256] = table(0x82F6_3B78);

const fn table(polynomial: u32) -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ polynomial } else { value >> 1 };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
}

/// The checksum of `parts` read one after the other.
pub(crate) fn checksum(table: &[u32; 256], parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    !bytes.fold(u32::MAX, |crc, byte| (crc >> 8) ^ table[usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_polynomials_give_their_check_values() {
        assert_eq!(checksum(&ISO, &[b"12345", b"6789"]), 0xCBF4_3926);
        assert_eq!(checksum(&CASTAGNOLI, &[b"123456789"]), 0xE306_9283);
    }
}
