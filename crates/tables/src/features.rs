//! The description of columns that the `datasets` library keeps in its files.

use serde_json::{Map, Value as Json, json};

use crate::kind::Kind;

/// `features` of a data set with these columns. Lists are written in the short form, which every version of `datasets` reads.
pub(crate) fn features(fields: &[(String, Kind)]) -> Json {
    Json::Object(fields.iter().map(|(name, kind)| (name.clone(), feature(kind))).collect::<Map<_, _>>())
}

fn feature(kind: &Kind) -> Json {
    let value = |dtype: &str| json!({"dtype": dtype, "_type": "Value"});
    match kind {
        Kind::Null => value("null"),
        Kind::Bool => value("bool"),
        Kind::Int => value("int64"),
        Kind::Float => value("float64"),
        Kind::Text | Kind::Mixed => value("string"),
        Kind::List(item) => json!([feature(item)]),
        Kind::Struct(fields) => features(fields),
    }
}

/// The value of the schema key `huggingface`.
pub(crate) fn schema_metadata(fields: &[(String, Kind)]) -> String {
    json!({"info": {"features": features(fields)}}).to_string()
}
