//! One cell of an Arrow array as JSON.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType;
use serde_json::{Map, Value as Json};

/// Row `i` of a batch.
pub(crate) fn row(batch: &RecordBatch, i: usize) -> Map<String, Json> {
    let fields = batch.schema();
    fields.fields().iter().zip(batch.columns()).map(|(field, column)| (field.name().clone(), cell(column, i))).collect()
}

/// Value `i` of an array. Types without a JSON form (dates, decimals, binary) are null: no text is in them.
pub(crate) fn cell(array: &ArrayRef, i: usize) -> Json {
    if array.is_null(i) {
        return Json::Null;
    }
    let list = |items: ArrayRef| (0..items.len()).map(|n| cell(&items, n)).collect::<Json>();
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(i).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(i).into(),
        DataType::Utf8View => array.as_string_view().value(i).into(),
        DataType::Boolean => array.as_boolean().value(i).into(),
        DataType::Int8 => array.as_primitive::<Int8Type>().value(i).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(i).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(i).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(i).into(),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(i).into(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(i).into(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(i).into(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(i).into(),
        DataType::Float16 => array.as_primitive::<Float16Type>().value(i).to_f64().into(),
        DataType::Float32 => array.as_primitive::<Float32Type>().value(i).into(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(i).into(),
        DataType::List(_) => list(array.as_list::<i32>().value(i)),
        DataType::LargeList(_) => list(array.as_list::<i64>().value(i)),
        DataType::FixedSizeList(..) => list(array.as_fixed_size_list().value(i)),
        DataType::Struct(fields) => {
            // In a table every object has every field: null is how a field is absent.
            let columns = fields.iter().zip(array.as_struct().columns());
            let cells = columns.map(|(field, column)| (field.name().clone(), cell(column, i)));
            cells.filter(|(_, value)| !value.is_null()).collect()
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(i);
            let (keys, values) = (entries.column(0), entries.column(1));
            let name = |n: usize| match cell(keys, n) {
                Json::String(name) => name,
                other => other.to_string(),
            };
            (0..entries.len()).map(|n| (name(n), cell(values, n))).collect()
        }
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let keys = dictionary.normalized_keys();
            cell(dictionary.values(), keys[i])
        }
        _ => Json::Null,
    }
}
