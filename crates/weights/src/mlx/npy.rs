//! Arrays in NumPy's file format: matrices of floats in, matrices of f32 out.
//!
//! Source: NumPy's `numpy.lib.format`, versions 1.0 to 3.0.

use crate::convert;
use crate::dtype::DType;

const MAGIC: &[u8] = b"\x93NUMPY";
/// Values begin at a multiple of this.
const ALIGNMENT: usize = 64;

/// A matrix, row-major.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) values: Vec<f32>,
}

impl Matrix {
    /// With rows and columns changed.
    pub(super) fn turned(&self) -> Matrix {
        Matrix { rows: self.columns, columns: self.rows, values: turned(&self.values, self.rows, self.columns) }
    }
}

/// `[rows, columns]` as `[columns, rows]`.
pub(super) fn turned(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    assert_eq!(values.len(), rows * columns);
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}

/// Reads an array; what is wrong with it in words.
pub(super) fn read(bytes: &[u8]) -> Result<Matrix, String> {
    let (header, data) = split(bytes).ok_or("no array of NumPy's (.npy)")?;
    let description = value(header, "descr").ok_or("its header names no type")?;
    let dtype = match description.trim_matches(['\'', '"']) {
        "<f4" | "=f4" => DType::F32,
        "<f2" | "=f2" => DType::F16,
        "<f8" | "=f8" => DType::F64,
        // What MLX writes for bfloat16, which NumPy does not have.
        "<V2" | "|V2" => DType::BF16,
        "|O" => return Err("it holds pickled objects, which can run code and are not read; save arrays only".into()),
        other => return Err(format!("expected floats, found the type {other}")),
    };
    let turned_order = value(header, "fortran_order") == Some("True");
    let shape = value(header, "shape").ok_or("its header has no shape")?;
    let extents: Vec<usize> = shape
        .trim_matches(['(', ')'])
        .split(',')
        .map(str::trim)
        .filter(|extent| !extent.is_empty())
        .map(|extent| extent.parse().map_err(|_| format!("its shape is {shape}")))
        .collect::<Result<_, _>>()?;
    let [rows, columns] = extents[..] else { return Err(format!("expected a matrix, found the shape {shape}")) };
    let count = rows.checked_mul(columns).filter(|count| count.checked_mul(dtype.bits() / 8) == Some(data.len()));
    let count = count.ok_or_else(|| format!("the shape {shape} does not fit its {} bytes of values", data.len()))?;
    let mut values = vec![0.0; count];
    convert::decode(dtype, data, &mut values);
    Ok(match turned_order {
        false => Matrix { rows, columns, values },
        true => Matrix { rows: columns, columns: rows, values }.turned(),
    })
}

/// Header and values.
fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (length, rest) = match *rest.first()? {
        1 => (usize::from(u16::from_le_bytes(rest.get(2..4)?.try_into().ok()?)), rest.get(4..)?),
        2 | 3 => (u32::from_le_bytes(rest.get(2..6)?.try_into().ok()?) as usize, rest.get(6..)?),
        _ => return None,
    };
    let (header, data) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(header).ok()?, data))
}

/// What the header, a literal of a Python dictionary, has for a key: up to the comma, or to the bracket that closes.
fn value<'h>(header: &'h str, key: &str) -> Option<&'h str> {
    let rest = ['\'', '"'].iter().find_map(|quote| header.split_once(&format!("{quote}{key}{quote}")))?.1;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start();
    let end = match rest.starts_with('(') {
        true => rest.find(')')? + 1,
        false => rest.find([',', '}'])?,
    };
    Some(rest[..end].trim())
}

/// The file of an array of f32, as NumPy writes it.
pub(super) fn write(values: &[f32], rows: usize, columns: usize) -> Vec<u8> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let before = MAGIC.len() + 4;
    let length = (before + header.len() + 1).next_multiple_of(ALIGNMENT) - before;
    header.extend(std::iter::repeat_n(' ', length - header.len() - 1));
    header.push('\n');
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend((length as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_read_in_either_order_and_refused_in_words() {
        let written = write(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3);
        assert_eq!(written.len() % ALIGNMENT, 24);
        let matrix = read(&written).unwrap();
        assert_eq!((matrix.rows, matrix.columns, &matrix.values[..3]), (2, 3, &[1.0, 2.0, 3.0][..]));
        let change = |from: &str, to: &str| {
            let at = written.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            let mut bytes = written.clone();
            bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
            read(&bytes)
        };
        let other = change("False", "True ").unwrap();
        assert_eq!((other.rows, other.columns, other.values), (2, 3, vec![1.0, 3.0, 5.0, 2.0, 4.0, 6.0]));
        for (from, to, expected) in [
            ("<f4", "<i4", "expected floats"),
            ("'<f4'", "'|O' ", "pickled"),
            ("(2, 3)", "(3, 3)", "does not fit"),
            ("(2, 3)", "(6,  )", "expected a matrix"),
            ("(2, 3)", "(-, 3)", "its shape is"),
            ("NUMPY", "NUMPX", "no array"),
        ] {
            let error = change(from, to).unwrap_err();
            assert!(error.contains(expected), "{from} {to}: {error}");
        }
        (0..written.len()).for_each(|end| assert!(read(&written[..end]).is_err()));
    }
}
