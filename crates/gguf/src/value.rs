//! Metadata values of a GGUF file.

/// A value of one of the container's types, as far as exports need them.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
    Bools(Vec<bool>),
    /// A value of another type or a list of them; files of other programs have such.
    Other,
}

/// Metadata in the order of the file.
pub type Metadata = Vec<(String, Value)>;

impl Value {
    /// Bytes of the value as the file has it, its type in front.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        fn text(out: &mut Vec<u8>, text: &str) {
            out.extend((text.len() as u64).to_le_bytes());
            out.extend(text.as_bytes());
        }
        fn list(out: &mut Vec<u8>, of: u32, length: usize) {
            out.extend(9u32.to_le_bytes());
            out.extend(of.to_le_bytes());
            out.extend((length as u64).to_le_bytes());
        }
        let kind = |out: &mut Vec<u8>, id: u32| out.extend(id.to_le_bytes());
        match self {
            Self::U32(x) => {
                kind(out, 4);
                out.extend(x.to_le_bytes());
            }
            Self::I32(x) => {
                kind(out, 5);
                out.extend(x.to_le_bytes());
            }
            Self::F32(x) => {
                kind(out, 6);
                out.extend(x.to_le_bytes());
            }
            Self::Bool(x) => {
                kind(out, 7);
                out.push(u8::from(*x));
            }
            Self::Text(x) => {
                kind(out, 8);
                text(out, x);
            }
            Self::Texts(x) => {
                list(out, 8, x.len());
                x.iter().for_each(|x| text(out, x));
            }
            Self::F32s(x) => {
                list(out, 6, x.len());
                x.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
            Self::I32s(x) => {
                list(out, 5, x.len());
                x.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
            Self::Bools(x) => {
                list(out, 7, x.len());
                x.iter().for_each(|x| out.push(u8::from(*x)));
            }
            Self::Other => unreachable!("values of unknown types are only read"),
        }
    }
}

/// The value of a key.
pub fn find<'a>(metadata: &'a Metadata, key: &str) -> Option<&'a Value> {
    metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value)
}
