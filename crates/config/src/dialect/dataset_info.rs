//! Entries of LLaMA-Factory's `dataset_info.json`: where a data set is and how its rows look.

use super::{Outcome, Row, To};
use crate::yaml::{Content, Node};
use To::{By, InPlace, Unless};

const PLACES: &[&str] = &["file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"];

/// Whether a value is a mapping that says where a data set is.
pub(super) fn is_entry(node: &Node) -> bool {
    matches!(&node.content, Content::Map(pairs) if pairs.iter().any(|pair| PLACES.contains(&pair.key.as_str())))
}

fn formatting(text: &str) -> Outcome {
    match text {
        "alpaca" | "sharegpt" | "openai" => Outcome::InPlace(REGISTERED),
        _ => Outcome::Refused("expected alpaca, sharegpt or openai".into()),
    }
}

const REGISTERED: &str = "read where the name is used: `dataset: NAME` with `dataset_dir: FOLDER`";
const ELSEWHERE: &str = "only the Hugging Face Hub is asked: fetch it and name the file as `file_name`";
const MEDIA: &str = "rows are text";

#[rustfmt::skip] // a table: one row, one line
pub(super) const ROWS: &[Row] = &[
    ("file_name", InPlace(REGISTERED)),
    ("hf_hub_url", InPlace("a local path is read; a name on the Hub is pulled on first use")),
    ("ms_hub_url", Unless(&[], ELSEWHERE)),
    ("om_hub_url", Unless(&[], ELSEWHERE)),
    ("script_url", Unless(&[], "nothing from a data set is ever executed")),
    ("cloud_file_name", Unless(&[], ELSEWHERE)),
    ("formatting", By(formatting)),
    ("ranking", InPlace(REGISTERED)),
    ("subset", InPlace(REGISTERED)),
    ("split", InPlace(REGISTERED)),
    ("folder", InPlace(REGISTERED)),
    ("num_samples", InPlace(REGISTERED)),
    ("load_from", Unless(&["file", "hf_hub"], ELSEWHERE)),
    ("columns.images", Unless(&[], MEDIA)),
    ("columns.videos", Unless(&[], MEDIA)),
    ("columns.audios", Unless(&[], MEDIA)),
    ("columns.messages", InPlace(REGISTERED)),
    ("columns.prompt", InPlace(REGISTERED)),
    ("columns.query", InPlace(REGISTERED)),
    ("columns.response", InPlace(REGISTERED)),
    ("columns.history", InPlace(REGISTERED)),
    ("columns.system", InPlace(REGISTERED)),
    ("columns.tools", InPlace(REGISTERED)),
    ("columns.kto_tag", InPlace(REGISTERED)),
    ("columns.chosen", InPlace(REGISTERED)),
    ("columns.rejected", InPlace(REGISTERED)),
    ("tags.role_tag", InPlace(REGISTERED)),
    ("tags.content_tag", InPlace(REGISTERED)),
    ("tags.user_tag", InPlace(REGISTERED)),
    ("tags.assistant_tag", InPlace(REGISTERED)),
    ("tags.system_tag", InPlace(REGISTERED)),
    ("tags.observation_tag", InPlace(REGISTERED)),
    ("tags.function_tag", InPlace(REGISTERED)),
];
