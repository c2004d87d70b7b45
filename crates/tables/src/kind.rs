//! The type of a column, inferred from its values: the least type that holds them all.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields};
use serde_json::Value as Json;

/// A type, ordered by what it can hold: null below all, text above all (as JSON text where values are not strings).
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Kind {
    /// Only nulls so far.
    #[default]
    Null,
    /// Booleans.
    Bool,
    /// 64-bit integers.
    Int,
    /// 64-bit floats.
    Float,
    /// Strings.
    Text,
    /// Values of several types, or objects without fields, each as JSON text.
    Mixed,
    /// Lists of one type.
    List(Box<Kind>),
    /// Objects: name and type of each field, in the order of appearance.
    Struct(Vec<(String, Kind)>),
}

/// Fields of an object beyond which it is a dictionary with data for names, and is kept as JSON text.
const MAX_FIELDS: usize = 256;

impl Kind {
    /// The kind of one value.
    pub fn of(value: &Json) -> Kind {
        match value {
            Json::Null => Kind::Null,
            Json::Bool(_) => Kind::Bool,
            Json::Number(n) if n.is_i64() => Kind::Int,
            Json::Number(_) => Kind::Float,
            Json::String(_) => Kind::Text,
            Json::Array(items) => {
                let mut kind = Kind::Null;
                items.iter().for_each(|item| kind.widen(Kind::of(item)));
                Kind::List(Box::new(kind))
            }
            Json::Object(fields) if fields.len() > MAX_FIELDS => Kind::Mixed,
            Json::Object(fields) => Kind::Struct(fields.iter().map(|(name, v)| (name.clone(), Kind::of(v))).collect()),
        }
    }

    /// Makes room for what `other` holds.
    pub fn widen(&mut self, other: Kind) {
        match (&mut *self, other) {
            (_, Kind::Null) => {}
            (mine @ Kind::Null, other) => *mine = other,
            (Kind::List(mine), Kind::List(other)) => mine.widen(*other),
            (Kind::Struct(mine), Kind::Struct(other)) => {
                for (name, kind) in other {
                    match mine.iter_mut().find(|(n, _)| *n == name) {
                        Some((_, mine)) => mine.widen(kind),
                        None => mine.push((name, kind)),
                    }
                }
                if mine.len() > MAX_FIELDS {
                    *self = Kind::Mixed;
                }
            }
            (Kind::Int, Kind::Float) => *self = Kind::Float,
            (Kind::Float, Kind::Int) => {}
            (mine, other) if *mine == other => {}
            (mine, _) => *mine = Kind::Mixed,
        }
    }

    /// The Arrow type.
    pub(crate) fn arrow(&self) -> DataType {
        match self {
            Kind::Null => DataType::Null,
            Kind::Bool => DataType::Boolean,
            Kind::Int => DataType::Int64,
            Kind::Float => DataType::Float64,
            Kind::Text | Kind::Mixed => DataType::Utf8,
            Kind::List(item) => DataType::List(Arc::new(Field::new("item", item.arrow(), true))),
            Kind::Struct(fields) => DataType::Struct(Kind::fields(fields)),
        }
    }

    /// The Arrow fields of an object's kinds.
    pub(crate) fn fields(fields: &[(String, Kind)]) -> Fields {
        fields.iter().map(|(name, kind)| Field::new(name, kind.arrow(), true)).collect()
    }

    /// The same with nulls as text and objects without fields as JSON text: tables have no use for a column without a type.
    #[must_use]
    pub fn settled(self) -> Kind {
        match self {
            Kind::Null => Kind::Text,
            Kind::List(item) => Kind::List(Box::new(item.settled())),
            Kind::Struct(fields) if fields.is_empty() => Kind::Mixed,
            Kind::Struct(fields) => Kind::Struct(fields.into_iter().map(|(n, k)| (n, k.settled())).collect()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kind(values: &[Json]) -> Kind {
        let mut kind = Kind::Null;
        values.iter().for_each(|value| kind.widen(Kind::of(value)));
        kind
    }

    #[test]
    fn a_kind_holds_every_value_it_was_made_from() {
        assert_eq!(kind(&[json!(1), json!(null), json!(2.5)]), Kind::Float);
        assert_eq!(kind(&[json!(1), json!("a")]), Kind::Mixed);
        assert_eq!(kind(&[json!([]), json!([true])]), Kind::List(Box::new(Kind::Bool)));
        let object = kind(&[json!({"a": 1}), json!({"b": ["x"], "a": null})]);
        let list = Kind::List(Box::new(Kind::Text));
        assert_eq!(object, Kind::Struct(vec![("a".into(), Kind::Int), ("b".into(), list)]));
        assert_eq!(kind(&[json!({"a": 1}), json!([1])]), Kind::Mixed);
        assert_eq!(kind(&[json!(u64::MAX)]), Kind::Float);
        assert_eq!(kind(&[json!({})]).settled(), Kind::Mixed);
        assert_eq!(kind(&[json!({}), json!({"a": true})]), Kind::Struct(vec![("a".into(), Kind::Bool)]));
    }
}
