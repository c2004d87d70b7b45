//! `preset ls`, `preset show`, `preset cp`.

use crate::args::{PresetArgs, PresetCommand};
use crate::failure::Failure;
use crate::output::{self, Side, table};
use config::PRESET_FILES;
use serde_json::json;

/// `prospect preset`
pub(crate) fn preset(args: &PresetArgs) -> Result<u8, Failure> {
    match &args.command {
        PresetCommand::Ls { json } => ls(*json)?,
        PresetCommand::Show { name } => output::line(text_of(name)?.trim_end())?,
        PresetCommand::Cp { name, file } => {
            let text = text_of(name)?;
            if file.exists() {
                return Err(Failure::usage(format!("{} is there already: name another file", file.display())));
            }
            std::fs::write(file, text).map_err(|e| Failure::file("write", file, &e))?;
        }
    }
    Ok(0)
}

fn ls(json: bool) -> Result<(), Failure> {
    // The first line of each says what it is for.
    let about = |text: &str| text.lines().next().unwrap_or_default().trim_start_matches("# ").to_owned();
    if json {
        return PRESET_FILES
            .iter()
            .try_for_each(|(name, text)| output::json(&json!({"name": name, "about": about(text)})));
    }
    let rows: Vec<Vec<String>> =
        PRESET_FILES.iter().map(|(name, text)| vec![(*name).to_owned(), about(text)]).collect();
    table(&[Side::Left, Side::Left], &rows)
}

fn text_of(name: &str) -> Result<&'static str, Failure> {
    let found = PRESET_FILES.iter().find(|(own, _)| *own == name).map(|(_, text)| *text);
    let names: Vec<&str> = PRESET_FILES.iter().map(|(name, _)| *name).collect();
    found.ok_or_else(|| Failure::usage(format!("{name} is no preset: there are {}", names.join(", "))))
}
