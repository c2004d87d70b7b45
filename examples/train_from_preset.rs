//! Trains from a preset: `cargo run --release -p train --example train_from_preset -- 7b models/base rows.jsonl runs/kto`.

use std::error::Error;
use train::{Control, Event};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [preset, model, rows, output] = &arguments[..] else {
        return Err("expected a preset, a model folder, rows and a run folder".into());
    };
    let keys = [("preset", preset), ("model_name_or_path", model), ("dataset_name", rows), ("output_dir", output)];
    let mut settings: Vec<(String, String)> = keys.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    // Every key of the command line's is one here, and wins over the preset.
    settings.push(("learning_rate".to_owned(), "1e-6".to_owned()));
    let loaded = config::load("the program", "", &settings).map_err(|errors| errors.to_string())?;
    let ended = train::run(&loaded, &[], &Control::default(), &mut |event| {
        if let Event::Opening(line) | Event::Note(line) = event {
            println!("{line}");
        }
    })?;
    println!("{} steps; the adapter is in {}", ended.step, ended.folder.join("final").display());
    Ok(())
}
