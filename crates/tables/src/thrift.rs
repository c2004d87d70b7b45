//! As much of Thrift's compact protocol as it takes to change two fields of a Parquet page header.

/// One field of a struct: its number, its type, and its bytes as they stand.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub id: i16,
    pub kind: u8,
    pub bytes: Vec<u8>,
}

pub(crate) const TRUE: u8 = 1;
pub(crate) const FALSE: u8 = 2;
pub(crate) const I32: u8 = 5;
const STRUCT: u8 = 12;
/// Structs inside structs beyond which a header is no header.
const MAX_DEPTH: usize = 16;

/// The fields of the struct at the start of `bytes` and its length; `None` if `bytes` ends before it does or is no struct.
pub(crate) fn fields(bytes: &[u8]) -> Option<(Vec<Field>, usize)> {
    let (mut at, mut id, mut out) = (0, 0_i16, Vec::new());
    loop {
        let head = *bytes.get(at)?;
        at += 1;
        if head == 0 {
            return Some((out, at));
        }
        id = match head >> 4 {
            0 => {
                let (long, used) = varint(&bytes[at..])?;
                at += used;
                i16::try_from(unzigzag(long)).ok()?
            }
            delta => id.checked_add(i16::from(delta))?,
        };
        let kind = head & 15;
        let end = at + length(&bytes[at..], kind, 0)?;
        out.push(Field { id, kind, bytes: bytes.get(at..end)?.to_vec() });
        at = end;
    }
}

/// A struct of these fields, in ascending order of their numbers.
pub(crate) fn write(fields: &[Field]) -> Vec<u8> {
    let (mut out, mut last) = (Vec::new(), 0);
    for field in fields {
        match field.id - last {
            delta @ 1..=15 => out.push((delta as u8) << 4 | field.kind),
            _ => {
                out.push(field.kind);
                out.extend(zigzag(i64::from(field.id)));
            }
        }
        out.extend_from_slice(&field.bytes);
        last = field.id;
    }
    out.push(0);
    out
}

/// A 32-bit integer as a field.
pub(crate) fn int(id: i16, value: i32) -> Field {
    Field { id, kind: I32, bytes: zigzag(i64::from(value)) }
}

/// The integer that field `id` holds.
pub(crate) fn read_int(fields: &[Field], id: i16) -> Option<i64> {
    let field = fields.iter().find(|f| f.id == id && f.kind == I32)?;
    Some(unzigzag(varint(&field.bytes)?.0))
}

/// Bytes that a value of type `kind` takes at the start of `bytes`.
fn length(bytes: &[u8], kind: u8, depth: usize) -> Option<usize> {
    if depth > MAX_DEPTH {
        return None;
    }
    let used = match kind {
        TRUE | FALSE => 0,
        3 => 1,
        4..=6 => varint(bytes)?.1,
        7 => 8,
        8 => {
            let (size, used) = varint(bytes)?;
            used.checked_add(usize::try_from(size).ok()?)?
        }
        9 | 10 => {
            let head = *bytes.first()?;
            let (count, mut at) = match head >> 4 {
                15 => varint(&bytes[1..]).map(|(n, used)| (n, 1 + used))?,
                n => (u64::from(n), 1),
            };
            for _ in 0..count {
                // A boolean in a list takes a byte.
                let item = head & 15;
                at += if item == TRUE || item == FALSE { 1 } else { length(bytes.get(at..)?, item, depth + 1)? };
                if at > bytes.len() {
                    return None;
                }
            }
            at
        }
        STRUCT => {
            let mut at = 0;
            loop {
                let head = *bytes.get(at)?;
                at += 1;
                if head == 0 {
                    break at;
                }
                if head >> 4 == 0 {
                    at += varint(&bytes[at..])?.1;
                }
                at += length(bytes.get(at..)?, head & 15, depth + 1)?;
            }
        }
        _ => return None,
    };
    (used <= bytes.len()).then_some(used)
}

fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (n, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * n as u32)?;
        if byte & 0x80 == 0 {
            return Some((value, n + 1));
        }
    }
    None
}

fn zigzag(value: i64) -> Vec<u8> {
    let mut left = ((value << 1) ^ (value >> 63)) as u64;
    let mut out = Vec::new();
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
    out
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_struct_is_written_as_it_was_read() {
        let inner = write(&[int(1, 7), Field { id: 7, kind: TRUE, bytes: Vec::new() }]);
        let list = vec![0x25, 2, 4]; // two 32-bit integers
        let text = vec![3, b'a', b'b', b'c'];
        let all = [
            int(1, -5),
            int(2, 1_000_000),
            Field { id: 5, kind: STRUCT, bytes: inner },
            Field { id: 6, kind: 9, bytes: list },
            Field { id: 40, kind: 8, bytes: text },
        ];
        let mut bytes = write(&all);
        let size = bytes.len();
        bytes.extend([1, 2, 3]);
        assert_eq!(fields(&bytes), Some((all.to_vec(), size)));
        assert_eq!((read_int(&all, 1), read_int(&all, 2), read_int(&all, 5)), (Some(-5), Some(1_000_000), None));
        assert!((0..size).all(|n| fields(&bytes[..n]).is_none()));
        assert_eq!(fields(&[0x19, 0xf5, 0xff, 0xff, 0xff, 0xff, 0x0f]), None);
    }
}
