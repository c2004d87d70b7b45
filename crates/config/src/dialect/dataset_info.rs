//! Entries of LLaMA-Factory's `dataset_info.json`: where a data set is and how its rows look.

use super::{Outcome, Row, To};
use crate::yaml::{Content, Node};
use To::{By, NoEffect, OneOf, Unless};

const PLACES: &[&str] = &["file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"];

/// Whether a value is a mapping that says where a data set is.
pub(super) fn is_entry(node: &Node) -> bool {
    matches!(&node.content, Content::Map(pairs) if pairs.iter().any(|pair| PLACES.contains(&pair.key.as_str())))
}

fn file(text: &str) -> Outcome {
    let lower = text.to_lowercase();
    if [".json", ".jsonl"].iter().any(|end| lower.ends_with(end)) {
        let value = crate::settings::written(&crate::value::Value::Text(text.into()));
        return Outcome::Works { key: "dataset_name".into(), value, remark: "relative to the current directory" };
    }
    Outcome::Refused("JSON and JSONL files are read; convert this one, one row per line".into())
}

fn formatting(text: &str) -> Outcome {
    match text {
        "sharegpt" | "openai" => Outcome::NoEffect("the shape of a row is recognised from its fields".into()),
        _ => Outcome::Refused(
            "rows with instruction and output are not read yet: name the fields prompt and completion".into(),
        ),
    }
}

const HUB: &str = "data are local files: fetch it and name the file";
const MEDIA: &str = "rows are text";

#[rustfmt::skip] // a table: one row, one line
pub(super) const ROWS: &[Row] = &[
    ("file_name", By(file)),
    ("hf_hub_url", Unless(&[], HUB)),
    ("ms_hub_url", Unless(&[], HUB)),
    ("om_hub_url", Unless(&[], HUB)),
    ("script_url", Unless(&[], "nothing from a data set is ever executed")),
    ("cloud_file_name", Unless(&[], HUB)),
    ("formatting", By(formatting)),
    ("ranking", Unless(&["false"], "pairs of chosen and rejected answers are not read yet: write them as two rows with a label")),
    ("subset", Unless(&[], HUB)),
    ("split", NoEffect("a file is read whole; a folder's split is `dataset_train_split`")),
    ("folder", Unless(&[], HUB)),
    ("num_samples", Unless(&[], "rows are not counted off: cut the file to as many rows")),
    ("load_from", Unless(&["file"], HUB)),
    ("columns.messages", OneOf(&["messages", "conversations"])),
    ("columns.prompt", OneOf(&["prompt"])),
    ("columns.query", Unless(&[], "write it into the prompt")),
    ("columns.response", OneOf(&["completion"])),
    ("columns.history", Unless(&[], "write the turns as `messages`")),
    ("columns.system", Unless(&[], "write it as the first of the `messages`")),
    ("columns.tools", OneOf(&["tools"])),
    ("columns.kto_tag", OneOf(&["label"])),
    ("columns.chosen", Unless(&[], "write pairs as two rows with a label")),
    ("columns.rejected", Unless(&[], "write pairs as two rows with a label")),
    ("columns.images", Unless(&[], MEDIA)),
    ("columns.videos", Unless(&[], MEDIA)),
    ("columns.audios", Unless(&[], MEDIA)),
    ("tags.role_tag", OneOf(&["from", "role"])),
    ("tags.content_tag", OneOf(&["value", "content"])),
    ("tags.user_tag", OneOf(&["human", "user"])),
    ("tags.assistant_tag", OneOf(&["gpt", "assistant"])),
    ("tags.system_tag", OneOf(&["system"])),
    ("tags.observation_tag", OneOf(&["observation", "tool"])),
    ("tags.function_tag", OneOf(&["function_call"])),
];
