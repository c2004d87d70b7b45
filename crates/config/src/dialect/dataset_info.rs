//! Entries of LLaMA-Factory's `dataset_info.json`: where a data set is and how its rows look.

use super::{Outcome, Row, To};
use crate::yaml::{Content, Node};
use To::{By, NoEffect, Unless};

const PLACES: &[&str] = &["file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"];

/// Whether a value is a mapping that says where a data set is.
pub(super) fn is_entry(node: &Node) -> bool {
    matches!(&node.content, Content::Map(pairs) if pairs.iter().any(|pair| PLACES.contains(&pair.key.as_str())))
}

fn formatting(text: &str) -> Outcome {
    match text {
        "alpaca" | "sharegpt" | "openai" => Outcome::NoEffect(REGISTERED.into()),
        _ => Outcome::Refused("expected alpaca, sharegpt or openai".into()),
    }
}

const REGISTERED: &str = "read where the name is used: `dataset: NAME` with `dataset_dir: FOLDER`";
const ELSEWHERE: &str = "only the Hugging Face Hub is asked: fetch it and name the file as `file_name`";
const MEDIA: &str = "rows are text";

#[rustfmt::skip] // a table: one row, one line
pub(super) const ROWS: &[Row] = &[
    ("file_name", NoEffect(REGISTERED)),
    ("hf_hub_url", NoEffect("a local path is read; a name on the Hub is pulled on first use")),
    ("ms_hub_url", Unless(&[], ELSEWHERE)),
    ("om_hub_url", Unless(&[], ELSEWHERE)),
    ("script_url", Unless(&[], "nothing from a data set is ever executed")),
    ("cloud_file_name", Unless(&[], ELSEWHERE)),
    ("formatting", By(formatting)),
    ("ranking", NoEffect(REGISTERED)),
    ("subset", NoEffect(REGISTERED)),
    ("split", NoEffect(REGISTERED)),
    ("folder", NoEffect(REGISTERED)),
    ("num_samples", NoEffect(REGISTERED)),
    ("load_from", Unless(&["file", "hf_hub"], ELSEWHERE)),
    ("columns.images", Unless(&[], MEDIA)),
    ("columns.videos", Unless(&[], MEDIA)),
    ("columns.audios", Unless(&[], MEDIA)),
    ("columns.messages", NoEffect(REGISTERED)),
    ("columns.prompt", NoEffect(REGISTERED)),
    ("columns.query", NoEffect(REGISTERED)),
    ("columns.response", NoEffect(REGISTERED)),
    ("columns.history", NoEffect(REGISTERED)),
    ("columns.system", NoEffect(REGISTERED)),
    ("columns.tools", NoEffect(REGISTERED)),
    ("columns.kto_tag", NoEffect(REGISTERED)),
    ("columns.chosen", NoEffect(REGISTERED)),
    ("columns.rejected", NoEffect(REGISTERED)),
    ("tags.role_tag", NoEffect(REGISTERED)),
    ("tags.content_tag", NoEffect(REGISTERED)),
    ("tags.user_tag", NoEffect(REGISTERED)),
    ("tags.assistant_tag", NoEffect(REGISTERED)),
    ("tags.system_tag", NoEffect(REGISTERED)),
    ("tags.observation_tag", NoEffect(REGISTERED)),
    ("tags.function_tag", NoEffect(REGISTERED)),
];
