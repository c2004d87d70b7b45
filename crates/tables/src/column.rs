//! JSON values as an Arrow array of a given kind.

use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, Float64Builder, Int64Builder, StringBuilder};
use arrow_array::{ArrayRef, ListArray, NullArray, StructArray};
use arrow_buffer::OffsetBuffer;
use arrow_schema::Field;
use serde_json::Value as Json;

use crate::kind::Kind;

/// One array of `values`; a missing value is null. Values must be of `kind`.
pub(crate) fn column(kind: &Kind, values: &[Option<&Json>]) -> ArrayRef {
    let valid = || values.iter().map(|v| v.is_some_and(|v| !v.is_null())).collect::<Vec<bool>>();
    match kind {
        Kind::Null => Arc::new(NullArray::new(values.len())),
        Kind::Bool => {
            let mut out = BooleanBuilder::with_capacity(values.len());
            values.iter().for_each(|v| out.append_option(v.and_then(Json::as_bool)));
            Arc::new(out.finish())
        }
        Kind::Int => {
            let mut out = Int64Builder::with_capacity(values.len());
            values.iter().for_each(|v| out.append_option(v.and_then(Json::as_i64)));
            Arc::new(out.finish())
        }
        Kind::Float => {
            let mut out = Float64Builder::with_capacity(values.len());
            values.iter().for_each(|v| out.append_option(v.and_then(Json::as_f64)));
            Arc::new(out.finish())
        }
        Kind::Text => {
            let mut out = StringBuilder::new();
            values.iter().for_each(|v| out.append_option(v.and_then(Json::as_str)));
            Arc::new(out.finish())
        }
        Kind::Mixed => {
            let mut out = StringBuilder::new();
            for value in values {
                match value.filter(|v| !v.is_null()) {
                    Some(Json::String(text)) => out.append_value(text),
                    Some(other) => out.append_value(other.to_string()),
                    None => out.append_null(),
                }
            }
            Arc::new(out.finish())
        }
        Kind::List(item) => {
            let lists = || values.iter().map(|v| v.and_then(Json::as_array));
            let items: Vec<Option<&Json>> = lists().flatten().flatten().map(Some).collect();
            let lengths = lists().map(|list| list.map_or(0, Vec::len));
            let offsets = OffsetBuffer::from_lengths(lengths);
            let field = Arc::new(Field::new("item", item.arrow(), true));
            Arc::new(ListArray::new(field, offsets, column(item, &items), Some(valid().into())))
        }
        Kind::Struct(fields) => {
            let columns = fields.iter().map(|(name, kind)| {
                let values: Vec<Option<&Json>> = values.iter().map(|v| v.and_then(|v| v.get(name))).collect();
                column(kind, &values)
            });
            let columns: Vec<ArrayRef> = columns.collect();
            Arc::new(StructArray::new(Kind::fields(fields), columns, Some(valid().into())))
        }
    }
}
