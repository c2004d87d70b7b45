//! Answers lines of stdin: `cargo run --release -p infer --example chat -- models/base`.

use infer::{Engine, Limits, ModelFolder, Request, Sampling, Talk, Writer};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = ModelFolder::find(Path::new(&std::env::args().nth(1).ok_or("expected a model folder")?), None)?;
    let (model, stop) = (folder.load(2048, std::thread::available_parallelism()?.get())?, folder.stop_tokens()?);
    let limits = Limits { positions: model.positions, cache_rows: 4096, step_rows: 256 };
    let context = model.generation();
    let mut engine = Engine::new(&context, &model.decoder, limits, &stop);
    let mut talk = Talk::new(&folder.tokenizer);
    for line in std::io::stdin().lines() {
        talk.say(&line?);
        engine.submit(0, Request::new(talk.prompt(1024)?.0, 256, Sampling::GREEDY))?;
        let (mut writer, mut answer) = (Writer::new(&folder.tokenizer, &[]), String::new());
        while !engine.is_idle() {
            for drawn in engine.step()?.into_iter().filter(|drawn| !stop.contains(&drawn.token)) {
                answer.push_str(&writer.push(drawn.token)?.0);
            }
        }
        answer.push_str(&writer.finish()?);
        println!("{answer}");
        talk.hear(&answer);
    }
    Ok(())
}
